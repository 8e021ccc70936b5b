"""``intervene``: features set to other values, and what the model says then."""

from __future__ import annotations

import argparse
from typing import Any

from tracer.cli.options import Teaching, add_json, add_model_options, open_model, print_json
from tracer.errors import InterventionError
from tracer.types import Intervention


def add(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "intervene",
        help="set features to other values and print what the model says",
        description="A graph is a hypothesis; this tests it. Set features to other values, run the "
        "model again,\nand compare what it says with what it said.",
        epilog="""examples:
  python -m tracer intervene "The opposite of small is" --set 0:4:912=-2
  python -m tracer intervene "The opposite of small is" --set 0:4:912=0 --set 1:4:7=3 --generate 5
""",
        formatter_class=Teaching,
    )
    parser.add_argument("prompt", help="the text that the model continues")
    parser.add_argument(
        "--set",
        dest="edits",
        action="append",
        required=True,
        metavar="LAYER:POSITION:FEATURE=VALUE",
        help="set a feature to a value; position -1 is the last; may be given several times",
    )
    parser.add_argument(
        "--free-attention",
        action="store_true",
        help="let attention change too; it is held as it was otherwise",
    )
    parser.add_argument("--generate", type=int, default=0, help="also continue by N tokens (0)")
    add_json(parser)
    add_model_options(parser)
    parser.set_defaults(run=_intervene)


def _intervene(options: argparse.Namespace) -> None:
    import tracer
    from tracer.cli.report import intervention_report

    edits = [_edit(text) for text in options.edits]
    result = tracer.intervene(
        open_model(options),
        options.prompt,
        edits,
        freeze_attention=not options.free_attention,
        generate=options.generate,
    )
    report = intervention_report(result)
    if options.json:
        print_json(report)
        return
    print(f"{report['prompt']} …   (KL {report['kl']:.3f} nats)")
    for change in report["changes"]:
        print(f"  {change['before']:6.1%} → {change['after']:6.1%}  {change['token'].strip()}")
    if options.generate:
        print(f"  before: {report['baseline_continuation']}")
        print(f"  after:  {report['edited_continuation']}")


def _edit(text: str) -> Intervention:
    place, equals, value = text.partition("=")
    parts = place.split(":")
    try:
        if not equals or len(parts) != 3:
            raise ValueError
        layer, position, feature = (int(part) for part in parts)
        return Intervention(layer, position, feature, float(value))
    except ValueError as error:
        raise InterventionError(
            f"--set {text!r} is not LAYER:POSITION:FEATURE=VALUE, for example 3:-1:417=0"
        ) from error
