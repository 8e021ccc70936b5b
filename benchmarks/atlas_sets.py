"""Train atlas's transcoder sets with the general trainer, and measure them like the shipped ones.

    python benchmarks/atlas_sets.py [--folder DIR] [--threads 2]

The model is the shipped one; its sets, their indexes and labels are built again in the folder.
What is already there is kept, so an interrupted run continues. The figures are those of
`python -m tracer.atlas evaluate`, shipped and built again, and the CPU time that building took.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]


def build_sets(folder: Path, threads: int) -> float:
    """Build what is missing in ``folder``; return the CPU seconds it took."""
    from tracer.atlas import build
    from tracer.paths import ATLAS_WEIGHTS

    if not (folder / "model").exists():
        shutil.copytree(ATLAS_WEIGHTS / "model", folder / "model")
    started = time.process_time()
    build.build(folder, lambda line: print(line, flush=True), threads)
    return time.process_time() - started


def evaluate(model: str | Path, transcoders: str | Path) -> dict[str, float]:
    """Measure one set."""
    import tracer
    from tracer.atlas import evaluation

    opened = tracer.load(str(model), str(transcoders), device="cpu")
    return evaluation.as_dict(evaluation.evaluate(opened, lambda line: None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where what was built is kept")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="atlas-sets-"))
    folder.mkdir(parents=True, exist_ok=True)
    from tracer.atlas.build import SETS
    from tracer.atlas.evaluation import table

    seconds = build_sets(folder.resolve(), options.threads)
    columns = {}
    for name in SETS:
        columns[f"{name[:5]} shipped"] = evaluate("atlas", name)
        columns[f"{name[:5]} again"] = evaluate(folder / "model", folder / name)
    print(table(columns))
    print(f"{seconds:.0f} CPU seconds to build with {options.threads} threads")


if __name__ == "__main__":
    main()
