"""Build, measure or write out the embedded model: ``python -m tracer.atlas build | …``."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from functools import partial
from pathlib import Path

from tracer.catalog.resolve import ATLAS_TRANSCODERS
from tracer.errors import TracerError
from tracer.paths import ATLAS_WEIGHTS


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tracer.atlas", description="The embedded model: build it, measure it."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    build = commands.add_parser(
        "build", help="make model, transcoders and feature indexes from the seed; resumes"
    )
    build.add_argument(
        "--folder", type=Path, default=ATLAS_WEIGHTS, help="where to (the shipped one)"
    )
    build.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    build.set_defaults(run=_build)
    corpus = commands.add_parser(
        "corpus", help="write what the feature indexes are built from: prompts with tags, as JSONL"
    )
    corpus.add_argument("file", type=Path, help="where to; ends in .jsonl")
    corpus.set_defaults(run=_corpus)
    evaluate = commands.add_parser("evaluate", help="print held-out accuracy and the swap tests")
    evaluate.add_argument("--transcoders", choices=ATLAS_TRANSCODERS, action="append")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.set_defaults(run=_evaluate)
    options = parser.parse_args(arguments)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        options.run(options)
    except TracerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _build(options: argparse.Namespace) -> None:
    from tracer.atlas.build import build

    started = time.perf_counter()
    build(
        options.folder,
        lambda line: print(f"[{time.perf_counter() - started:5.0f} s] {line}", flush=True),
        options.threads,
    )
    print(f"atlas stands in {options.folder}")


def _corpus(options: argparse.Namespace) -> None:
    from tracer.atlas.build import write_corpus

    if not options.file.parent.is_dir():
        raise TracerError(f"there is no folder {options.file.parent}: create it first")
    print(f"{write_corpus(options.file):,} prompts stand in {options.file}")


def _evaluate(options: argparse.Namespace) -> None:
    import tracer
    from tracer.atlas.evaluation import as_dict, evaluate

    results = {}
    for name in options.transcoders or ATLAS_TRANSCODERS:
        model = tracer.load("atlas", name)
        results[name] = as_dict(evaluate(model, partial(_to_stderr, name)))
    if options.json:
        print(json.dumps(results, indent=1))
        return
    for key in next(iter(results.values())):
        print(f"{key:36}" + "".join(f"{result[key]:>14.4g}" for result in results.values()))
    print(f"{'':36}" + "".join(f"{name:>14}" for name in results))


def _to_stderr(name: str, line: str) -> None:
    print(f"{name}: {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
