"""Write the models and transcoder sets of the golden files.

    python tests/parity/make_cases.py FOLDER [CASE…]

Each case gets ``FOLDER/<case>/model`` and ``FOLDER/<case>/transcoders``. The same seeds give the
same weights, so tests build the folders again, and only the peer's results are stored.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "stand_ins"))
import tiny
from cases import CASES, Case


def make(case: Case, folder: Path) -> tuple[Path, Path]:
    """Write the model and the transcoder set of ``case``; return their folders."""
    return (
        tiny.save_model(folder / "model", case.architecture),
        tiny.save_transcoders(
            folder / "transcoders",
            case.model_kind,
            case.read,
            case.write,
            case.activation,
            case.skip,
        ),
    )


if __name__ == "__main__":
    root = Path(sys.argv[1])
    for name in sys.argv[2:] or CASES:
        make(CASES[name], root / name)
        print(name)
