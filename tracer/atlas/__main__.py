"""The command line of the embedded model: ``python -m tracer.atlas build | corpus | evaluate``."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from functools import partial
from pathlib import Path

from tracer.catalog.embedded import EMBEDDED_SETS
from tracer.errors import TracerError
from tracer.paths import ATLAS_WEIGHTS


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tracer.atlas", description="Build and evaluate atlas, the embedded model."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    build = commands.add_parser(
        "build",
        help="train model and transcoders and build the indexes; finished parts are kept",
    )
    build.add_argument(
        "--folder",
        type=Path,
        default=ATLAS_WEIGHTS,
        help="output folder (default: the shipped one)",
    )
    build.add_argument(
        "--threads", type=int, default=os.cpu_count() or 2, help="CPU threads (default: all)"
    )
    build.set_defaults(run=_build)
    corpus = commands.add_parser(
        "corpus", help="write the corpus of the feature indexes: prompts with tags, as JSONL"
    )
    corpus.add_argument("file", type=Path, help="output file, ending in .jsonl")
    corpus.set_defaults(run=_corpus)
    evaluate = commands.add_parser(
        "evaluate", help="measure accuracy on held-out questions, swaps and faithfulness"
    )
    evaluate.add_argument(
        "--transcoders",
        choices=EMBEDDED_SETS,
        action="append",
        help="transcoder set to evaluate; may be repeated (default: both)",
    )
    evaluate.add_argument("--json", action="store_true", help="print JSON instead of a table")
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
    print(f"atlas is built in {options.folder}")


def _corpus(options: argparse.Namespace) -> None:
    from tracer.atlas.build import write_corpus

    if not options.file.parent.is_dir():
        raise TracerError(f"the folder {options.file.parent} does not exist: create it first")
    print(f"wrote {write_corpus(options.file):,} prompts to {options.file}")


def _evaluate(options: argparse.Namespace) -> None:
    import tracer
    from tracer.atlas.evaluation import as_dict, evaluate, table

    results = {}
    for name in options.transcoders or EMBEDDED_SETS:
        model = tracer.load("atlas", name)
        results[name] = as_dict(evaluate(model, partial(_to_stderr, name)))
    print(json.dumps(results, indent=1) if options.json else table(results))


def _to_stderr(name: str, line: str) -> None:
    print(f"{name}: {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
