"""``python -m cache trace FILE``: trace many prompts into the store. See `cache.many`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cache.many import Row, bad_row, trace_many, write_summary
from cache.opening import open_backend
from cache.prompt_file import read_prompts
from cache.request import ModelChoice
from tracer.catalog.embedded import EMBEDDED_SETS, embedded
from tracer.errors import TracerError
from tracer.progress import progress_bar


def add(commands: Any) -> None:
    """Add the command."""
    text = "trace every prompt of a CSV or JSONL file into the store"
    parser = commands.add_parser("trace", help=text, description=text)
    parser.add_argument("prompts", help="a .csv or .jsonl file: prompt or messages, label, target")
    parser.add_argument("--model", default="atlas")
    parser.add_argument("--transcoders", default="")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--max-features", type=int)
    parser.add_argument("--summary", metavar="FILE", help="also write a table, .csv or .parquet")
    parser.add_argument("--ray", metavar="ADDRESS", help="trace on a Ray cluster; local for this")
    parser.add_argument("--json", action="store_true", help="print one JSON object a prompt")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Trace the prompts; 0 when all are done, 1 when some failed."""
    prompts, bad = read_prompts(Path(options.prompts))
    for line in bad:
        print(f"line {line.number} is skipped: {line.reason}", file=sys.stderr)
    if options.ray:
        os.environ["CIRCUIT_RAY"] = options.ray
    root = Path(options.store) if options.store else None
    backend = open_backend(root, options.device)
    choice = ModelChoice(
        options.model,
        options.transcoders or (EMBEDDED_SETS[0] if embedded(options.model) else ""),
        options.dtype,
    )
    rows: list[Row] = []
    try:
        with progress_bar() as progress:
            for row in trace_many(backend, prompts, choice, options.max_features):
                rows.append(row)
                progress(len(rows), len(prompts), "prompts")
                _print(row, options.json)
    finally:  # an interrupted run keeps what is done
        backend.close()
        if options.summary:
            _write(Path(options.summary), [*rows, *map(bad_row, bad)])
    failed = sum(row.state == "failed" for row in rows) + len(bad)
    known = sum(row.from_store for row in rows)
    print(
        f"{len(rows) - failed + len(bad)} graphs in the store, {known} of them from before; "
        f"{failed} failed",
        file=sys.stderr,
    )
    return 1 if failed else 0


def _print(row: Row, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(row), ensure_ascii=False), flush=True)
    elif row.error:
        print(f"line {row.line}: {row.error}", flush=True)
    else:
        print(
            f"line {row.line}: {row.next_token.strip()} {row.probability:.1%}, "
            f"{row.n_features} features, {row.n_edges} edges, {row.key}",
            flush=True,
        )


def _write(path: Path, rows: list[Row]) -> None:
    try:
        write_summary(path, rows)
    except OSError as error:
        raise TracerError(f"{path} cannot be written: {error.strerror or error}") from error
