"""How tokens, nodes and numbers are worded, on figures and beside them."""

from __future__ import annotations

from collections.abc import Mapping

from tracer.graph.graph import AttributionGraph
from tracer.graph.kinds import generic_name
from tracer.types import FeatureId, NodeId

_VISIBLE = {"\n": "↵", "\t": "⇥", "\r": "␍"}


def token_text(token: str) -> str:
    """A token as a person reads it: no leading space, invisible characters made visible."""
    text = "".join(_VISIBLE.get(character, character) for character in token)
    return text.strip() or "␣" * len(token) or "(empty)"


def truncate(text: str, limit: int) -> str:
    """``text``, or its beginning and an ellipsis, at most ``limit`` (>= 1) characters."""
    return text if len(text) <= limit else text[: limit - 1].rstrip(" ,:;") + "…"


def plotly_text(text: str) -> str:
    """``text`` as Plotly shows it literally: its texts are a small HTML of their own."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def percent(share: float) -> str:
    """``0.123`` -> ``"12 %"``; one decimal below 10 %, and never a false 0 % or 100 %."""
    if share > 0 and share < 0.0005:
        return "<0.1 %"
    if share < 0.0995:
        return f"{share * 100:.1f} %".replace(".0 %", " %")
    if 0.995 <= share < 1:
        return f"{min(share * 100, 99.9):.1f} %"
    return f"{share * 100:.0f} %"


def count_text(count: int) -> str:
    """``"2.6 B"``, ``"268 M"``: how many parameters a model has."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= 0.9995 * size:
            digits = 1 if count < 9.95 * size else 0
            return f"{count / size:.{digits}f} {unit}"
    return str(count)


def activation_text(activation: float) -> str:
    """``"2.50"``, or ``"unknown"``: files of other tools do not always say."""
    return "unknown" if activation != activation else f"{activation:.2f}"


def signed(weight: float) -> str:
    """A direct effect with its sign, in three digits: ``+1.24``, ``−0.031``."""
    magnitude = f"{abs(weight):.3g}"
    return ("−" if weight < 0 else "+") + magnitude


def node_name(graph: AttributionGraph, node: NodeId, names: Mapping[FeatureId, str]) -> str:
    """Return what a node is called; ``names`` has the labels, or top tokens, of features.

    A generic node, of a kind that only other tools compute, has its published label.
    """
    if node.kind == "feature":
        return names.get(node.feature) or f"feature {node.index}"
    if node.kind == "error":
        return f"error of layer {node.layer}"
    if node.kind == "token":
        return token_text(graph.tokens[node.position])
    if node.kind == "logit":
        return token_text(graph.targets[target_number(graph, node)].label)
    return generic_name(graph.index.generic_node(node))


def target_number(graph: AttributionGraph, node: NodeId) -> int:
    """Which of ``graph.targets`` a logit node stands for."""
    return int(graph.index.row(node) - graph.index.logit_rows.start)


def place(graph: AttributionGraph, node: NodeId) -> str:
    """Return where a node is: its layer and token."""
    token = token_text(graph.tokens[node.position])
    if node.kind == "token":
        return f"position {node.position}"
    if node.kind == "logit":
        return f"output after “{token}”"
    if node.layer < 0:
        return f"embedding at “{token}”"
    return f"layer {node.layer} at “{token}”"
