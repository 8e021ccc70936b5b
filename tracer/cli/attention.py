"""``attention``: which heads carry what a node reads, and why a head looks where it looks."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tracer.cli.options import add_command, add_json, add_model_options, open_model, print_json
from tracer.errors import AttentionError, FeatureIndexError, TargetError
from tracer.features.lookup import feature_lookup
from tracer.types import FeatureId, FeatureTarget, NodeId, TargetChoice

if TYPE_CHECKING:
    from tracer.attention.results import AttentionExplanation, EdgePaths, HeadSplit
    from tracer.attention.sources import Sources
    from tracer.graph.graph import AttributionGraph
    from tracer.model.model import Model


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "attention",
        summary="show which heads carry information, and why they look where they look",
        description="Without --head: which attention heads carried what the next token, or a "
        "feature, reads.\nWith --head: why that head looks from one word at another, as a sum over "
        "pairs of sources.",
        examples="""\
  python -m tracer attention "The capital of the state containing Dallas is"
  python -m tracer attention "The capital of the state containing Dallas is" --from 7
  python -m tracer attention "The capital of the state containing Dallas is" --head 4:0 --key 7
  python -m tracer attention "The capital of the state containing Dallas is" --head 4:0 --key 7 \\
      --versus rest
  python -m tracer attention "The capital of the state containing Dallas is" --head 4:0 --remove 3
""",
    )
    parser.add_argument("prompt", help="the text that the model continues")
    explained = parser.add_mutually_exclusive_group()
    explained.add_argument(
        "--target", metavar="TOKEN", help="explain this next token (default: the likeliest)"
    )
    explained.add_argument(
        "--feature",
        metavar="LAYER:POSITION:FEATURE",
        help="explain the input of this active feature instead of a next token",
    )
    explained.add_argument(
        "--head", metavar="LAYER:HEAD", help="explain why this head looks where it looks"
    )
    parser.add_argument(
        "--from",
        dest="source",
        metavar="SOURCE",
        help="only what comes from one source: a position for its token, or "
        "LAYER:POSITION:FEATURE; also lists the paths through heads",
    )
    parser.add_argument(
        "--query",
        type=int,
        default=-1,
        metavar="POSITION",
        help="with --head: the position that looks (default: -1, the last)",
    )
    parser.add_argument(
        "--key",
        type=int,
        metavar="POSITION",
        help="with --head: the position it looks at (default: where it looks most)",
    )
    parser.add_argument(
        "--versus",
        metavar="POSITION",
        help="with --head: explain why not this other position, 'rest' or 'sink'",
    )
    parser.add_argument(
        "--top", type=int, default=8, metavar="N", help="list N entries of each kind (default: 8)"
    )
    parser.add_argument(
        "--remove",
        type=int,
        metavar="N",
        help="with --head: take the N strongest pairs out of the score and run the model, next to "
        "random pairs and other heads",
    )
    add_json(parser)
    add_model_options(parser)
    parser.set_defaults(run=_attention)


def _attention(options: argparse.Namespace) -> None:
    if options.top < 1:
        raise AttentionError(f"--top is {options.top}: list at least 1 entry")
    if options.head is None:
        for name in ("key", "versus", "remove"):
            if getattr(options, name) is not None:
                raise AttentionError(f"--{name} is part of a question about a head: add --head")
        report = _carried(options)
    else:
        if options.source is not None:
            raise AttentionError("--from is part of a question about a node: leave out --head")
        report = _looked(options)
    if options.json:
        print_json(report)
    else:
        (_print_carried if options.head is None else _print_looked)(report)


def _carried(options: argparse.Namespace) -> dict[str, Any]:
    import tracer

    targets: list[TargetChoice] | None = [options.target] if options.target else None
    if options.feature:
        layer, position, feature = _numbers(options.feature, 3, "--feature", "3:-1:417")
        targets = [FeatureTarget(layer, position, feature)]
    source = None if options.source is None else _source(options.source)
    model = open_model(options)
    # Only the rows of the targets are needed.
    graph = tracer.trace(model, options.prompt, targets=targets, max_logits=1, max_features=0)
    node = graph.index.node(graph.index.logit_rows.start)
    split: HeadSplit = tracer.split_by_head(model, graph, node)
    paths = column = None
    if source is not None:
        source = _in_prompt(source, graph)
        if source not in split.sources:
            raise AttentionError(
                f"{source} is not a source of this prompt: choose a position from 0 to "
                f"{len(graph.tokens) - 1}, or an active feature"
            )
        column = split.sources.column(source)
        paths = tracer.head_paths(model, graph, source, node, k=options.top)
    return _split_report(model, graph, split, column, paths, options.top)


def _split_report(
    model: Model,
    graph: AttributionGraph,
    split: HeadSplit,
    column: int | None,
    paths: EdgePaths | None,
    top: int,
) -> dict[str, Any]:
    columns = None if column is None else [column]
    shown = split.carried_by(columns)[:top]
    moved = split.moved if paths is None else paths.positions
    carriers = []
    for carrier in shown:
        entry = {**carrier._asdict(), "label": carrier.label, "from": []}
        if not carrier.is_direct:
            of_head = moved[carrier.layer, carrier.head]
            entry["from"] = [
                {"position": int(place), "token": graph.tokens[place], "weight": float(weight)}
                for place, weight in sorted(enumerate(of_head), key=lambda pair: -abs(pair[1]))[:3]
                if weight
            ]
        carriers.append(entry)
    strongest = [column] if column is not None else _strongest(split.weights, top)
    names = _names(model, split.sources, strongest)
    return {
        "prompt": graph.prompt,
        "target": graph.targets[0].label,
        "value": split.value,
        "source": None if column is None else names[column],
        "weight": split.value if column is None else float(split.weights[column]),
        "steps": list(split.hop_shares(columns)),
        "carried_by": carriers,
        "inputs": [
            {"source": str(split.sources[one]), "label": names[one],
             "weight": float(split.weights[one])}
            for one in strongest
        ],
        "paths": [] if paths is None else [
            {"path": path.label, "weight": path.weight} for path in paths.paths
        ],
        "share_found": None if paths is None else paths.share_found,
    }  # fmt: skip


def _print_carried(report: dict[str, Any]) -> None:
    print(f"{report['prompt']} …")
    what = f"the input of {report['target'].strip()}"
    if report["source"] is not None:
        what = f"{report['source']} → {report['target'].strip()}"
    steps = zip(("no", "one", "two", "more"), report["steps"], strict=True)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in steps)
    print(f"{what}: {report['weight']:+.2f}; attention steps: {shares}")
    for carrier in report["carried_by"]:
        origin = ", ".join(
            f"{entry['token'].strip()} {entry['weight']:+.2f}" for entry in carrier["from"]
        )
        print(
            f"  {abs(carrier['share']):6.1%}  {carrier['weight']:+7.2f}  {carrier['label']:8}"
            + (f"  from {origin}" if origin else "")
        )
    if report["share_found"] is not None:
        print(f"paths through heads, {report['share_found']:.0%} of the edge:")
        for path in report["paths"]:
            print(f"  {path['weight']:+7.2f}  {path['path']}")
    else:
        print("strongest sources:")
        for entry in report["inputs"]:
            print(f"  {entry['weight']:+7.2f}  {entry['label']}")


def _looked(options: argparse.Namespace) -> dict[str, Any]:
    import tracer

    layer, head = _numbers(options.head, 2, "--head", "4:0")
    versus = options.versus
    if versus not in (None, "rest", "sink"):
        (versus,) = _numbers(versus, 1, "--versus", "6, rest or sink")
    model = open_model(options)
    why = tracer.explain_attention(
        model, options.prompt, layer, head, options.query, options.key, versus
    )
    report = _head_report(model, options.prompt, why, options.top)
    if options.remove is not None:
        check = tracer.check_pairs(model, options.prompt, why, options.remove)
        report["removed"] = {**asdict(check), "pairs": options.remove}
    return report


def _head_report(model: Model, prompt: str, why: AttentionExplanation, top: int) -> dict[str, Any]:
    sides = {name: _strongest(getattr(why, name), top) for name in ("query", "key")}
    pairs = why.pairs(top)
    columns = [*sides["query"], *sides["key"], *(c for pair in pairs for c in pair[:2])]
    names = _names(model, why.sources, columns)
    return {
        "prompt": prompt,
        "layer": why.layer,
        "head": why.head,
        "query_position": why.position,
        "key_position": why.key_position,
        "versus": why.versus,
        "tokens": list(why.sources.tokens),
        "pattern": [float(weight) for weight in why.pattern],
        "sink": why.sink,
        "score": why.score,
        "slope": why.slope,
        **{
            name: [
                {"source": str(why.sources[one]), "label": names[one],
                 "weight": float(getattr(why, name)[one])}
                for one in chosen
            ]
            for name, chosen in sides.items()
        },
        "pairs": [
            {"query": names[pair.query], "key": names[pair.key], "weight": pair.weight}
            for pair in pairs
        ],
    }  # fmt: skip


def _print_looked(report: dict[str, Any]) -> None:
    print(f"{report['prompt']} …")
    tokens = [token.strip() for token in report["tokens"]]
    query, key = report["query_position"], report["key_position"]
    versus = report["versus"]
    other = f", not at {tokens[versus] if isinstance(versus, int) else 'the ' + str(versus)}"
    print(
        f"L{report['layer']} H{report['head']} looks from {tokens[query]} at {tokens[key]}"
        + (other if versus is not None else "")
        + f": score {report['score']:+.2f}, attention {report['pattern'][key]:.0%}"
    )
    looked = sorted(enumerate(report["pattern"]), key=lambda pair: -pair[1])[:5]
    print("  attention: " + ", ".join(f"{tokens[at]} {share:.0%}" for at, share in looked))
    for title, name in (("it looks for:", "query"), ("it finds:", "key")):
        print(title)
        for entry in report[name]:
            print(f"  {entry['weight']:+7.2f}  {entry['label']}")
    print("pairs:")
    for pair in report["pairs"]:
        print(f"  {pair['weight']:+7.2f}  {pair['query']} × {pair['key']}")
    if "removed" in report:
        _print_removed(report["removed"])


def _print_removed(removed: dict[str, Any]) -> None:
    print(
        f"without the {removed['pairs']} strongest pairs its attention falls from "
        f"{removed['attention_before']:.0%} to {removed['attention_after']:.0%}; logit of "
        f"{removed['target'].strip()}:"
    )
    for name, title in (
        ("predicted", "predicted, everything else frozen"),
        ("direct", "measured, everything else frozen"),
        ("frozen", "measured, other attention frozen"),
        ("free", "measured, nothing frozen"),
    ):
        print(f"  {removed[name]:+8.4f}  {title}")
    largest = max(removed["random_pairs"], key=abs)
    print(
        f"  {largest:+8.4f}  the largest of {len(removed['random_pairs'])} random choices of pairs"
    )
    if removed["other_heads"]:
        head, largest = max(removed["other_heads"], key=lambda entry: abs(entry[1]))
        count = len(removed["other_heads"])
        print(f"  {largest:+8.4f}  the same change at {head}, the largest of {count} other heads")


def _strongest(weights: Any, top: int) -> list[int]:
    order: list[int] = abs(weights).argsort(kind="stable")[::-1][:top].tolist()
    return [column for column in order if weights[column]]


def _names(model: Model, sources: Sources, columns: Iterable[int]) -> dict[int, str]:
    """Return sources in words, with the labels of features that are known on this disk."""
    columns = list(dict.fromkeys(columns))
    names = {column: sources.label(column) for column in columns}
    with suppress(FeatureIndexError):  # labels are a help, and none is no failure
        reader = feature_lookup(model.source)
        for column in columns:
            source = sources[column]
            if source.kind == "feature":
                feature = FeatureId(source.layer, source.index)
                word = sources.tokens[source.position].strip()
                if name := reader.cached_name(feature):
                    names[column] = f"{name} ({feature}) at {word}"
    return names


def _source(text: str) -> NodeId:
    """Parse one ``--from``.

    >>> print(_source("7"), _source("2:7:529"))
    token--1-7-0 feature-2-7-529
    """
    if ":" in text:
        layer, position, feature = _numbers(text, 3, "--from", "7 or 2:7:529")
        return NodeId("feature", layer, position, feature)
    (position,) = _numbers(text, 1, "--from", "7 or 2:7:529")
    return NodeId("token", -1, position, 0)


def _in_prompt(source: NodeId, graph: AttributionGraph) -> NodeId:
    """Count a position from the start, and give a token its id."""
    n_pos = len(graph.tokens)
    if not -n_pos <= source.position < n_pos:
        raise AttentionError(
            f"--from position {source.position} does not exist: the prompt has {n_pos} tokens, "
            f"positions 0 to {n_pos - 1}"
        )
    position = source.position % n_pos
    index = graph.token_ids[position] if source.kind == "token" else source.index
    return NodeId(source.kind, source.layer, position, index)


def _numbers(text: str, count: int, option: str, example: str) -> list[int]:
    """Parse whole numbers with colons between them.

    >>> _numbers("4:0", 2, "--head", "4:0")
    [4, 0]
    """
    try:
        numbers = [int(part) for part in text.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise TargetError(f"{option} {text!r} is not of the form {example}")
    return numbers
