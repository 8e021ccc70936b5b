"""``search``: find features in a complete dictionary."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tracer.catalog.resolve import resolve
from tracer.cli.options import (
    ExamplesFormatter,
    add_json,
    add_model_options,
    model_name,
    open_model,
    print_json,
)
from tracer.errors import FeatureIndexError, SearchError
from tracer.features.cards import FeatureReader, Label
from tracer.features.lookup import FeatureLookup, feature_lookup
from tracer.hub import network_allowed
from tracer.progress import progress_bar
from tracer.search.match import KINDS, FeatureMatch, PeakDetail, TextDetail, parse_feature
from tracer.types import FeatureId, Progress

if TYPE_CHECKING:
    from tracer.model.model import Model


def add(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "search",
        help="find features by label, example, text, token or weights",
        description="Search all features of a transcoder set. Labels and examples are read from "
        "its index;\nthe other searches open the model.",
        epilog="""examples:
  python -m tracer search --label 'say capital'
  python -m tracer search --example Dallas
  python -m tracer search --text "The capital of the state containing Dallas is" --position -2
  python -m tracer search --promotes " Austin"
  python -m tracer search --like L1/887 --kind downstream

In labels, words are joined by AND, -word excludes and "two words" in quotes must follow each
other; write --label='-say number' where the first word is excluded. z compares a value with all
features of the same layer: above 4 it is unlikely to be chance.
""",
        formatter_class=ExamplesFormatter,
    )
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--label", metavar="QUERY", help="features with these words in their label")
    query.add_argument("--example", metavar="WORD", help="features whose examples peak on a word")
    query.add_argument("--text", help="features that fire most on a text")
    query.add_argument("--promotes", metavar="TOKEN", help="features that raise a token's logit")
    query.add_argument("--suppresses", metavar="TOKEN", help="features that lower a token's logit")
    query.add_argument("--reads", metavar="TOKEN", help="features that read a token's embedding")
    query.add_argument("--like", metavar="LAYER/FEATURE", help="features related to this one")
    parser.add_argument(
        "--kind",
        choices=KINDS,
        help="with --like: how they are related (same-decoder)",
    )
    parser.add_argument(
        "--limit", type=int, default=20, help="most features to print, of each sign (20)"
    )
    parser.add_argument(
        "--layers", metavar="FIRST-LAST", help="with --label: search these layers only"
    )
    parser.add_argument(
        "--max-frequency",
        type=float,
        metavar="SHARE",
        help="with --label or --text: leave out features that fire on more of the tokens, 0 to 1",
    )
    parser.add_argument(
        "--position",
        type=int,
        help="with --text: rank by the activation at this token; -1 is the last (the peak)",
    )
    add_json(parser)
    add_model_options(parser)
    parser.set_defaults(run=_search)


def _search(options: argparse.Namespace) -> None:
    import tracer

    _check_options(options)
    with progress_bar() as progress:
        if options.label is not None or options.example is not None:
            reader = feature_lookup(resolve(model_name(options), options.transcoders))
            if options.example is not None:
                matches = tracer.search_examples(reader, options.example, options.limit, progress)
            else:
                matches = tracer.search_labels(
                    reader,
                    options.label,
                    options.limit,
                    layers=_layers(options.layers),
                    max_frequency=options.max_frequency,
                )
        else:
            liked = None if options.like is None else _feature(options.like)
            model = open_model(options)
            reader = feature_lookup(model.source)
            matches = _in_model(model, reader, options, liked, progress)
    names = _names(reader, matches)
    if options.json:
        print_json([_report(match, names) for match in matches])
        return
    if not matches:
        print("no feature matches")
    for match in matches:
        print(_line(match, names))


def _check_options(options: argparse.Namespace) -> None:
    """Refuse an option that the chosen search would ignore."""
    uses = {
        "kind": ("like",),
        "layers": ("label",),
        "max_frequency": ("label", "text"),
        "position": ("text",),
    }
    for name, searches in uses.items():
        if getattr(options, name) is not None and all(
            getattr(options, search) is None for search in searches
        ):
            flags = " or ".join(f"--{search}" for search in searches)
            raise SearchError(f"--{name.replace('_', '-')} only works with {flags}")


def _in_model(
    model: Model,
    reader: FeatureReader,
    options: argparse.Namespace,
    liked: FeatureId | None,
    progress: Progress,
) -> tuple[FeatureMatch, ...]:
    """Run one of the searches that need the model."""
    import tracer

    if liked is not None:
        return tracer.neighbours(model, liked, options.kind or KINDS[0], options.limit, progress)
    if options.text is not None:
        return tracer.features_on_text(
            model,
            options.text,
            options.limit,
            options.max_frequency,
            position=options.position,
            reader=reader,
            progress=progress,
        )
    if options.reads is not None:
        return tracer.features_reading(model, options.reads, options.limit, progress)
    suppress_token = options.suppresses is not None
    token = options.suppresses if suppress_token else options.promotes
    return tracer.features_promoting(model, token, options.limit, suppress_token, progress)


def _names(reader: FeatureReader, matches: tuple[FeatureMatch, ...]) -> dict[FeatureId, str]:
    """Return the names of the features that have one; a name that cannot be read is empty."""
    features = [match.feature for match in matches]
    try:
        if isinstance(reader, FeatureLookup) and network_allowed():
            with progress_bar() as progress:
                reader.fetch_many(features, progress)
    except FeatureIndexError as error:
        print(f"not every feature could be named: {error}", file=sys.stderr)
    names = {}
    for feature in features:
        names[feature] = ""
        with suppress(FeatureIndexError):  # reported above
            names[feature] = reader.cached_name(feature)
    return names


def _report(match: FeatureMatch, names: dict[FeatureId, str]) -> dict[str, Any]:
    report: dict[str, Any] = {
        "feature": str(match.feature),
        "layer": match.feature.layer,
        "index": match.feature.index,
        "name": names[match.feature],
        "value": match.value,
        "z": match.z,
    }
    detail = match.detail
    if isinstance(detail, Label):
        report |= {"label": detail.text, "precision": detail.precision}
    elif isinstance(detail, PeakDetail):
        report |= {
            "word": detail.word,
            "peaks": detail.n_peaks,
            "examples": detail.n_examples,
            "activation": detail.activation,
        }
    elif isinstance(detail, TextDetail):
        report |= {
            "position": detail.position,
            "token": detail.token,
            "share_of_max": detail.share_of_max,
            "tokens": list(detail.example.tokens),
            "activations": list(detail.example.activations),
        }
    return report


def _line(match: FeatureMatch, names: dict[FeatureId, str]) -> str:
    detail, notes = match.detail, ""
    if isinstance(detail, PeakDetail):
        notes = f"{detail.n_peaks} of {detail.n_examples} examples peak on {detail.word}"
    elif isinstance(detail, TextDetail):
        share = "" if detail.share_of_max is None else f", {detail.share_of_max:.0%} of its maximum"
        notes = f"at {detail.token.strip() or repr(detail.token)}{share}"
    elif match.z is not None:
        notes = f"z {match.z:+.1f}"
    name = names[match.feature]
    return f"{match.feature!s:10} {match.value:8.3f}  {name[:44]:44}  {notes}".rstrip()


def _feature(text: str) -> FeatureId:
    feature = parse_feature(text)
    if feature is None:
        raise SearchError(f"--like {text!r} is not LAYER/FEATURE, for example L3/417")
    return feature


def _layers(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise SearchError(f"--layers {text!r} is not FIRST-LAST, for example 0-11")
    return int(first), int(last or first)
