"""Attention heads in words and rows: what carried an edge, what a head looks for, what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from charts.text import percent, token_text
from tracer.graph.graph import AttributionGraph
from tracer.types import FeatureId, NodeId

if TYPE_CHECKING:
    from tracer.attention.edge_heads import EdgeHeads, Habit
    from tracer.attention.sources import Source
    from tracer.attention.summaries import NodeHeads, Part
    from tracer.interventions.head_check import PairCheck

NameOf = Callable[[FeatureId], str | None]
_HABITS: Final = {
    "first": "rests on the first token",
    "itself": "looks at its own token",
    "previous": "looks at the previous token",
    "duplicate": "looks at the same token, earlier",
    "induction": "looks at what followed the same token",
}
_STEPS: Final = ("none", "one", "two", "three or more")


def head_id(layer: int, head: int) -> str:
    """Return the name of a head in events of the browser.

    >>> head_id(4, 0), head_of("head-4-0"), head_of("feature-1-2-3")
    ('head-4-0', (4, 0), None)
    """
    return f"head-{layer}-{head}"


def head_of(text: object) -> tuple[int, int] | None:
    """Return the layer and head that a text from the browser names, or None."""
    parts = text.split("-") if isinstance(text, str) else []
    if len(parts) != 3 or parts[0] != "head" or not all(p.isdecimal() for p in parts[1:]):
        return None
    return int(parts[1]), int(parts[2])


def carrier_rows(
    answer: NodeHeads, row: int, tokens: Sequence[str], limit: int = 12
) -> list[dict[str, Any]]:
    """Return the carriers of a node's input, or of one edge, as rows of a list.

    For the complete input each head also says which word it moved most from.
    """
    rows = []
    for carrier in answer.carried_by(row)[:limit]:
        where = percent(abs(carrier.share))
        if not carrier.is_direct and row == 0:
            moved = answer.moved[carrier.layer, carrier.head]
            position = int(abs(moved).argmax())
            where += f" · from {token_text(tokens[position])}"
        rows.append(
            {
                "id": "direct" if carrier.is_direct else head_id(carrier.layer, carrier.head),
                "name": "direct" if carrier.is_direct else carrier.label,
                "where": where,
                "weight": round(carrier.weight, 5),
                "share": round(abs(carrier.share), 4),
            }
        )
    return rows


def hop_sentence(hops: Iterable[float]) -> str:
    """Say how many attention steps the weight took.

    >>> hop_sentence([0.36, 0.55, 0.0904, 0.0004])
    'Attention steps: none 36 %, one 55 %, two 9 %.'
    """
    parts = zip(_STEPS, hops, strict=True)
    shown = [f"{name} {percent(float(share))}" for name, share in parts if share >= 0.005]
    return f"Attention steps: {', '.join(shown)}." if shown else ""


def source_name(source: Source, tokens: Sequence[str], name_of: NameOf) -> tuple[str, str]:
    """Return what a source is called, and where it is."""
    if source.kind == "bias":
        return "biases", "constant"
    if source.kind == "start":
        return f"MLP of layer {source.layer}", "at the first token"
    token = token_text(tokens[source.position])
    if source.kind == "position":
        return "position", f"position {source.position}"
    if source.kind == "token":
        return token, f"position {source.position}"
    where = f"layer {source.layer} at “{token}”"
    if source.kind == "error":
        return "error node", where
    feature = FeatureId(source.layer, source.index)
    return name_of(feature) or f"feature {source.index}", where


def part_rows(
    parts: Sequence[Part], tokens: Sequence[str], name_of: NameOf
) -> list[dict[str, Any]]:
    """Return what a head looks for, or what it found, as rows of a list."""
    total = sum(abs(part.weight) for part in parts) or 1.0
    rows = []
    for part in parts:
        name, where = source_name(part.source, tokens, name_of)
        rows.append(
            {
                "id": str(part.source),
                "name": name,
                "where": where,
                "weight": round(part.weight, 5),
                "share": round(abs(part.weight) / total, 4),
            }
        )
    return rows


def habit_text(habit: Habit) -> str:
    """Say what a head does on this prompt; empty where it has no habit."""
    if not habit.name:
        return ""
    return f"{_HABITS[habit.name]} ({percent(getattr(habit, habit.name))})"


def does_text(origin: int, destination: int, habit: Habit, tokens: Sequence[str]) -> str:
    """Say what a head does on this prompt: its habit, and from which word to which it carries."""
    parts = [habit_text(habit)]
    if origin >= 0:
        start, end = token_text(tokens[origin]), token_text(tokens[destination])
        stays = f"stays at “{start}”" if origin == destination else f"from “{start}” to “{end}”"
        parts.append(stays)
    return ", ".join(filter(None, parts)) or "carries nothing here"


def heads_table(heads: EdgeHeads, tokens: Sequence[str]) -> pd.DataFrame:
    """Return a row per head, the one that carries most first. ``id`` names it for events."""
    rows = [
        {
            "head": work.label,
            "carries": work.share,
            "edges": work.edges,
            "on this prompt": does_text(work.origin, work.destination, work.habit, tokens),
            "id": head_id(work.layer, work.head),
        }
        for work in heads.work()
    ]
    return pd.DataFrame(rows, columns=["head", "carries", "edges", "on this prompt", "id"])


def head_edges_table(
    heads: EdgeHeads, layer: int, head: int, name: Callable[[NodeId], str]
) -> pd.DataFrame:
    """Return the edges that a head carries, the strongest first."""
    rows = []
    for edge in heads.edges_of(layer, head).tolist():
        parts = abs(float(heads.direct[edge])) + float(abs(heads.heads[edge]).sum())
        carried = float(heads.heads[edge, layer, head])
        source = heads.index.node(int(heads.sources[edge]))
        target = heads.index.node(int(heads.targets[edge]))
        rows.append(
            {
                "from": name(source),
                "to": name(target),
                "carried": carried,
                "share of the edge": abs(carried) / (parts or 1.0),
                "edge": float(heads.weights[edge]),
                "target": str(target),
            }
        )
    columns = ["from", "to", "carried", "share of the edge", "edge", "target"]
    return pd.DataFrame(rows, columns=columns)


def heads_json(heads: EdgeHeads, graph: AttributionGraph) -> dict[str, Any]:
    """Return all edges by head as JSON values, for a key of our own in a published graph."""
    tokens = graph.tokens
    edges = []
    for edge in range(len(heads.weights)):
        carried = heads.heads[edge]
        edges.append(
            {
                "source": str(heads.index.node(int(heads.sources[edge]))),
                "target": str(heads.index.node(int(heads.targets[edge]))),
                "weight": float(heads.weights[edge]),
                "direct": float(heads.direct[edge]),
                "heads": {
                    f"{layer}.{head}": float(carried[layer, head])
                    for layer, head in zip(*carried.nonzero(), strict=True)
                },
            }
        )
    return {
        "about": "Every edge is direct plus the sum of heads. A head is layer.head, the one "
        "nearest to the target.",
        "heads": {
            f"{work.layer}.{work.head}": {
                "share": work.share,
                "does": does_text(work.origin, work.destination, work.habit, tokens),
            }
            for work in heads.work()
        },
        "edges": edges,
        "targets_left_out": heads.n_left_out,
    }


def check_table(check: PairCheck) -> pd.DataFrame:
    """Return what happened without pairs of a score, next to its controls."""
    rows = [
        ("predicted, everything else frozen", check.predicted),
        ("measured, everything else frozen", check.direct),
        ("measured, other attention frozen", check.frozen),
        ("measured, nothing frozen", check.free),
    ]
    count = len(check.random_pairs)
    largest = max(check.random_pairs, key=abs)
    rows.append((f"random pairs of this head, largest of {count}", largest))
    if check.other_heads:
        name, largest = max(check.other_heads, key=lambda entry: abs(entry[1]))
        count = len(check.other_heads)
        rows.append((f"same change at {name}, largest of {count} other heads", largest))
    column = f"change of the logit of {token_text(check.target)}"
    return pd.DataFrame(rows, columns=["", column])


def check_sentence(check: PairCheck, count: int) -> str:
    """Say how the attention moves without pairs of its score."""
    return (
        f"Without the {count} strongest pairs its attention falls from "
        f"{percent(check.attention_before)} to {percent(check.attention_after)}."
        if check.attention_after < check.attention_before
        else f"Without the {count} strongest pairs its attention rises from "
        f"{percent(check.attention_before)} to {percent(check.attention_after)}."
    )
