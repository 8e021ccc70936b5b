"""``intervene``: set features to other values, change heads, and compare the predictions."""

from __future__ import annotations

import argparse
from typing import Any

from tracer.cli.options import (
    add_chat_option,
    add_command,
    add_json,
    add_memory_option,
    add_model_options,
    open_model,
    print_json,
    prompt_of,
)
from tracer.errors import InterventionError
from tracer.interventions.head_edit import HeadEdit, HeadOperation
from tracer.progress import progress_bar
from tracer.types import Intervention


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "intervene",
        summary="set features to other values and compare the next tokens",
        description="Test what a graph suggests: set features to other values or change attention "
        "heads, run the\nmodel again, and compare the probabilities of the next token before and "
        "after.",
        examples="""\
  python -m tracer intervene "The opposite of small is" --set 0:4:912=-2
  python -m tracer intervene "The opposite of small is" --set 0:4:912=0 --set 1:4:7=3 --generate 5
  python -m tracer intervene "The opposite of small is" --head-off 4:0 --free-attention
""",
    )
    parser.add_argument("prompt", help="the text that the model continues")
    add_chat_option(parser)
    parser.add_argument(
        "--set",
        dest="edits",
        action="append",
        default=[],
        metavar="LAYER:POSITION:FEATURE=VALUE",
        help="set a feature to a value at one position, -1 for the last; can be repeated",
    )
    parser.add_argument(
        "--head-off",
        action="append",
        default=[],
        metavar="LAYER:HEAD",
        help="switch an attention head off; can be repeated",
    )
    parser.add_argument(
        "--head-frozen",
        action="append",
        default=[],
        metavar="LAYER:HEAD",
        help="freeze the attention pattern of one head, with --free-attention; can be repeated",
    )
    parser.add_argument(
        "--head-score",
        action="append",
        default=[],
        metavar="LAYER:HEAD:QUERY:KEY=VALUE",
        help="add a value to the score of a head between two positions; can be repeated",
    )
    parser.add_argument(
        "--free-attention",
        action="store_true",
        help="let attention patterns change (by default they are frozen)",
    )
    parser.add_argument(
        "--generate", type=int, default=0, metavar="N", help="also generate N tokens (default: 0)"
    )
    add_memory_option(parser)
    add_json(parser)
    add_model_options(parser)
    parser.set_defaults(run=_intervene)


def _intervene(options: argparse.Namespace) -> None:
    import tracer
    from tracer.cli.report import intervention_report

    edits = [_edit(text) for text in options.edits]
    head_edits = _head_edits(options)
    if not edits and not head_edits:
        raise InterventionError(
            "nothing is edited: give --set, --head-off, --head-frozen or --head-score"
        )
    model = open_model(options)
    with progress_bar() as progress:
        result = tracer.intervene(
            model,
            prompt_of(options),
            edits,
            freeze_attention=not options.free_attention,
            generate=options.generate,
            progress=progress,
            memory_limit=options.memory,
            head_edits=head_edits,
        )
    report = intervention_report(result)
    report["heads"] = [edit.label for edit in head_edits]
    if options.json:
        print_json(report)
        return
    print(f"{report['prompt']} …   (KL {report['kl']:.3f} nats)")
    for change in report["changes"]:
        print(f"  {change['before']:6.1%} → {change['after']:6.1%}  {change['token'].strip()}")
    if options.generate:
        print(f"  before: {report['baseline_continuation']}")
        print(f"  after:  {report['edited_continuation']}")


def _head_edits(options: argparse.Namespace) -> list[HeadEdit]:
    edits = [_head(text, "--head-off", "off") for text in options.head_off]
    edits += [_head(text, "--head-frozen", "freeze") for text in options.head_frozen]
    return edits + [_score(text) for text in options.head_score]


def _head(text: str, option: str, operation: HeadOperation) -> HeadEdit:
    """Parse one ``--head-off`` or ``--head-frozen``."""
    try:
        layer, head = (int(part) for part in text.split(":"))
    except ValueError as error:
        raise InterventionError(f"{option} {text!r} is not LAYER:HEAD, for example 4:0") from error
    return HeadEdit(layer, head, operation)


def _score(text: str) -> HeadEdit:
    """Parse one ``--head-score``.

    >>> _score("4:0:-1:7=-0.9").label
    'L4 H0 score -0.9 from -1 to 7'
    """
    place, _, value = text.partition("=")
    try:
        layer, head, query, key = (int(part) for part in place.split(":"))
        number = float(value)
    except ValueError as error:
        raise InterventionError(
            f"--head-score {text!r} is not LAYER:HEAD:QUERY:KEY=VALUE, for example 4:0:-1:7=-0.9"
        ) from error
    return HeadEdit(layer, head, "score", query, key, number)


def _edit(text: str) -> Intervention:
    """Parse one ``--set``.

    >>> _edit("3:-1:417=0")
    Intervention(layer=3, position=-1, feature=417, value=0.0)
    """
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
