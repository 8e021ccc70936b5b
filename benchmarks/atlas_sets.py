"""Train atlas's transcoder sets with the general trainer, and measure them like the shipped ones.

    python benchmarks/atlas_sets.py [--set per-layer] [--folder DIR] [--threads 2]

The model is the shipped one. Sets that are already in the folder are kept, so an interrupted run
continues with the next set. The figures are those of `python -m tracer.atlas evaluate`, shipped and
retrained, and the CPU time that training takes.
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


def train(folder: Path, names: list[str], threads: int) -> dict[str, float]:
    """Train the sets missing in ``folder``; return the CPU seconds of each."""
    import torch

    from tracer.atlas import build, corpus
    from tracer.atlas.prefixes import collect_prefixes
    from tracer.model.bridge import Bridge
    from tracer.paths import ATLAS_WEIGHTS

    torch.set_num_threads(threads)
    missing = {name: build.SETS[name] for name in names if not (folder / name).exists()}
    if not missing:
        return {}
    model = Bridge(ATLAS_WEIGHTS / "model", torch.device("cpu"), torch.float32)
    prefixes = collect_prefixes(model, list(corpus.sentences()))
    seconds = {}
    for name, recipe in missing.items():
        started = time.process_time()
        partial = folder / f".{name}"
        shutil.rmtree(partial, ignore_errors=True)
        build.train_set(prefixes, recipe, partial, lambda line: print(line, flush=True))
        partial.rename(folder / name)
        seconds[name] = time.process_time() - started
        print(f"{name}: trained in {seconds[name]:.0f} CPU seconds", flush=True)
    return seconds


def evaluate(folder: Path | None, name: str) -> dict[str, float]:
    """Measure one set: the shipped one where ``folder`` is None."""
    import tracer
    from tracer.atlas import evaluation
    from tracer.transcoders.load import load_transcoders

    model = tracer.load("atlas", name, device="cpu")
    if folder is not None:
        retrained = load_transcoders(
            folder / name, model.n_layers, model.bridge.d_model, model.device
        )
        model = tracer.Model(model.source, model.bridge, retrained)
    return evaluation.as_dict(evaluation.evaluate(model, lambda line: None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--set",
        choices=("per-layer", "cross-layer"),
        action="append",
        help="set to train; may be repeated (default: both)",
    )
    parser.add_argument("--folder", type=Path, help="where trained sets are kept")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="atlas-sets-"))
    folder.mkdir(parents=True, exist_ok=True)
    from tracer.atlas.build import SETS
    from tracer.atlas.evaluation import table

    names = options.set or list(SETS)
    seconds = train(folder, names, options.threads)

    columns = {}
    for name in names:
        columns[f"{name[:5]} shipped"] = evaluate(None, name)
        columns[f"{name[:5]} again"] = evaluate(folder, name)
    print(table(columns))
    for name, spent in seconds.items():
        print(f"{name}: {spent:.0f} CPU seconds with {options.threads} threads")


if __name__ == "__main__":
    main()
