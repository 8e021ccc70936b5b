"""The command line of the model of English: ``python -m tracer.novels build | rows | evaluate``."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path

from tracer.errors import TracerError
from tracer.paths import NOVELS_WEIGHTS


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tracer.novels",
        description="Build and evaluate novels, the embedded model of English. docs/novels.md says "
        "how to make the file of books.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    build = _command(
        commands, "build", "train model and transcoders and build the indexes; finished parts are "
        "kept, an interrupted one resumes",
    )  # fmt: skip
    build.add_argument("--threads", type=int, default=os.cpu_count() or 2, help="default: all")
    build.set_defaults(run=_build)
    rows = _command(
        commands, "rows", "write a split of the books as JSONL of token ids, for tracer train, "
        "index and evaluate",
    )  # fmt: skip
    rows.add_argument("--split", choices=("train", "validation"), default="train")
    rows.add_argument("output", type=Path, help="output file, ending in .jsonl")
    rows.set_defaults(run=_rows)
    evaluate = _command(
        commands, "evaluate", "measure the loss next to an n-gram model, the sets, and swaps of "
        "“he” and “she”, on held-out text",
    )  # fmt: skip
    evaluate.add_argument("--no-ngrams", action="store_true", help="leave out the n-gram model")
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


def _command(
    commands: argparse._SubParsersAction, name: str, summary: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary)
    parser.add_argument(
        "--corpus", type=Path, required=True, metavar="FILE", help="the books: .jsonl or .jsonl.xz"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=NOVELS_WEIGHTS,
        help="folder of the model and its sets (default: the shipped one)",
    )
    return parser


def _build(options: argparse.Namespace) -> None:
    from tracer.novels.build import build

    started = time.perf_counter()
    build(
        options.corpus,
        options.folder,
        lambda line: print(f"[{time.perf_counter() - started:5.0f} s] {line}", flush=True),
        options.threads,
    )
    print(f"novels is built in {options.folder}")


def _rows(options: argparse.Namespace) -> None:
    from transformers import PreTrainedTokenizerFast

    from tracer.novels.books import read_books
    from tracer.novels.token_rows import write_rows

    folder = options.folder / "model"
    if not (folder / "tokenizer.json").is_file():
        raise TracerError(f"{folder} has no tokenizer.json: give the folder of a built model")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    n_tokens = write_rows(read_books(options.corpus), options.split, tokenizer, options.output)
    print(f"wrote {n_tokens:,} tokens to {options.output}")


def _evaluate(options: argparse.Namespace) -> None:
    from tracer.novels.evaluation import evaluate

    result = evaluate(options.corpus, options.folder, _to_stderr, not options.no_ngrams)
    print(json.dumps(result.to_dict(), indent=1) if options.json else result)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
