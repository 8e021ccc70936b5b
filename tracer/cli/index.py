"""``index``: build the feature index of a transcoder set from a corpus."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.cli.options import (
    absolute_name,
    add_command,
    add_json,
    add_memory_option,
    add_model_options,
    model_name,
    open_model,
    print_json,
)
from tracer.progress import progress_bar

if TYPE_CHECKING:
    from tracer.indexing.ray_shards import RayShards


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "index",
        summary="build the index of what a set's features fire on, from a corpus",
        description="Run a corpus through the model. For every feature, keep the texts it fires on "
        "most, how often\nand how strongly it fires, the tokens it promotes, and a label if the "
        "evidence supports one.\nAn interrupted build resumes where it stopped.",
        examples="""\
  python -m tracer index --model gemma-2-2b --transcoders gemma-scope --corpus wiki.parquet
  python -m tracer index --model ./model --transcoders ./set --corpus texts.jsonl --context 64

The corpus is a text file (documents separated by blank lines), JSONL with "text" in every line, or
Parquet with a column of texts. Text and JSONL can be compressed (.xz, .gz). "title" and "author" of
a JSONL line are shown with examples from it. The index has the layout of published indexes, in the
folder where the app and 'trace' look for it.""",
    )
    parser.add_argument(
        "--corpus", required=True, metavar="FILE", help="a text, JSONL or Parquet file"
    )
    parser.add_argument(
        "--output", metavar="FOLDER", help="where to write it (default: where it will be found)"
    )
    parser.add_argument(
        "--column",
        default="text",
        help="column of a Parquet file that has the texts (default: text)",
    )
    parser.add_argument(
        "--context", type=int, default=128, metavar="N", help="tokens per window (default: 128)"
    )
    parser.add_argument(
        "--batch-tokens",
        type=int,
        default=2048,
        metavar="N",
        help="tokens per batch (default: 2048)",
    )
    parser.add_argument(
        "--limit-tokens", type=int, metavar="N", help="stop after this many tokens (default: all)"
    )
    parser.add_argument(
        "--examples", type=int, default=12, metavar="N", help="strongest examples (default: 12)"
    )
    parser.add_argument(
        "--around", type=int, default=24, metavar="N", help="tokens around each (default: 24)"
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run the corpus on a Ray cluster, for example ray://head:10001; local for this "
        "machine (default: the environment variable CIRCUIT_RAY)",
    )
    parser.add_argument("--no-labels", action="store_true", help="do not label features")
    add_memory_option(parser)
    add_json(parser)
    add_model_options(parser)
    parser.set_defaults(run=_index)


def _index(options: argparse.Namespace) -> None:
    from tracer.indexing import LabelRule, build_index

    workers = _workers(options)  # a missing cluster is reported before the model opens
    model = open_model(options)
    folder = Path(options.output) if options.output else model.source.index_folder
    with progress_bar() as progress:
        summary = build_index(
            model,
            options.corpus,
            folder,
            context=options.context,
            batch_tokens=options.batch_tokens,
            column=options.column,
            label=None if options.no_labels else LabelRule(),
            limit_tokens=options.limit_tokens,
            examples=options.examples,
            around=options.around,
            memory_limit=options.memory,
            workers=workers,
            progress=progress,
        )
    if options.json:
        print_json(summary.__dict__ | {"folder": str(folder)})
    else:
        print(f"{summary} in {folder}")


def _workers(options: argparse.Namespace) -> RayShards | None:
    """Return the workers that ``--ray`` or ``CIRCUIT_RAY`` asks for; None for this process."""
    from tracer.cluster import VARIABLE

    address = options.ray or os.environ.get(VARIABLE)
    if not address:
        return None
    from tracer.indexing.ray_shards import RayShards

    return RayShards(
        address,
        absolute_name(model_name(options)),
        options.transcoders and absolute_name(options.transcoders),
        dtype=options.dtype,
        forward_dtype=options.forward_dtype,
        tf32=options.tf32,
    )
