"""``index``: what every feature of a set fires on, from a corpus."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tracer.cli.options import (
    Progress,
    Teaching,
    add_json,
    add_model_options,
    open_model,
    print_json,
)


def add(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "index",
        help="build the index of what a set's features fire on, from a corpus",
        description="Run a corpus through the model and keep, for every feature, the texts it "
        "fires on most,\nhow often and how strongly it fires, the tokens it promotes, and a label "
        "where one is earned.\nAn index that was interrupted goes on where it stopped.",
        epilog="""examples:
  python -m tracer index --model gemma-2-2b --transcoders gemma-scope --corpus wiki.parquet
  python -m tracer index --model ./model --transcoders ./set --corpus texts.jsonl --context 64

The corpus is a text file (documents apart by an empty line), JSONL with "text" in every line, or
parquet with a column of texts. The index is written in the layout that sets are published with,
where the app and 'trace' find it.
""",
        formatter_class=Teaching,
    )
    parser.add_argument("--corpus", required=True, metavar="FILE", help=".txt, .jsonl or .parquet")
    parser.add_argument(
        "--output", metavar="FOLDER", help="where to (where this project looks for it)"
    )
    parser.add_argument("--column", default="text", help="of a parquet file (text)")
    parser.add_argument("--context", type=int, default=128, help="tokens read at once (128)")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="run at a time (2048)")
    parser.add_argument("--limit-tokens", type=int, help="stop after so many (all)")
    parser.add_argument("--no-labels", action="store_true", help="name no feature")
    add_json(parser)
    add_model_options(parser)
    parser.set_defaults(run=_index)


def _index(options: argparse.Namespace) -> None:
    from tracer.indexing import LabelRule, build_index

    model = open_model(options)
    folder = Path(options.output) if options.output else model.source.index_folder
    with Progress() as progress:
        summary = build_index(
            model,
            options.corpus,
            folder,
            context=options.context,
            batch_tokens=options.batch_tokens,
            column=options.column,
            label=None if options.no_labels else LabelRule(),
            limit_tokens=options.limit_tokens,
            progress=progress.count,
        )
    if options.json:
        print_json(summary.__dict__ | {"folder": str(folder)})
    else:
        print(f"{summary} in {folder}")
