"""How tokens, nodes, numbers and changes are worded, in figures and next to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tracer.graph.graph import AttributionGraph
from tracer.graph.kinds import generic_name
from tracer.types import FeatureId, NodeId, TokenProbability

_VISIBLE = {"\n": "↵", "\t": "⇥", "\r": "␍"}


def token_text(token: str) -> str:
    """Return a token without its leading space, with invisible characters made visible.

    >>> token_text(" Austin"), token_text("\\n"), token_text("  ")
    ('Austin', '↵', '␣␣')
    """
    text = "".join(_VISIBLE.get(character, character) for character in token)
    return text.strip() or "␣" * len(token) or "(empty)"


def truncate(text: str, limit: int) -> str:
    """Return ``text`` cut to at most ``limit`` (>= 1) characters, with an ellipsis where cut.

    >>> truncate("Texas: Dallas, Houston", 14)
    'Texas: Dallas…'
    """
    return text if len(text) <= limit else text[: limit - 1].rstrip(" ,:;") + "…"


def plotly_text(text: str) -> str:
    """Escape ``text``, which Plotly would otherwise read as its own subset of HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def percent(share: float) -> str:
    """Format a share; it is never rounded to 0 % or 100 %.

    >>> percent(0.123), percent(0.004), percent(0.00001), percent(0.99996)
    ('12 %', '0.4 %', '<0.1 %', '99.9 %')
    """
    if share > 0 and share < 0.0005:
        return "<0.1 %"
    if share < 0.0995:
        return f"{share * 100:.1f} %".replace(".0 %", " %")
    if 0.995 <= share < 1:
        return f"{min(share * 100, 99.9):.1f} %"
    return f"{share * 100:.0f} %"


def count_text(count: int) -> str:
    """Format a number of parameters.

    >>> count_text(2_614_341_888), count_text(268_098_176)
    ('2.6 B', '268 M')
    """
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= 0.9995 * size:
            digits = 1 if count < 9.95 * size else 0
            return f"{count / size:.{digits}f} {unit}"
    return str(count)


def plural(count: int, noun: str) -> str:
    """Format a count with its noun.

    >>> plural(1, "feature"), plural(1200, "feature")
    ('1 feature', '1,200 features')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def activation_text(activation: float) -> str:
    """Format an activation; ``"unknown"`` for NaN, as imported graphs do not always store one."""
    return "unknown" if activation != activation else f"{activation:.2f}"


def signed(weight: float) -> str:
    """Format a direct effect with its sign and three digits.

    >>> signed(1.2349), signed(-0.031)
    ('+1.23', '−0.031')
    """
    magnitude = f"{abs(weight):.3g}"
    return ("−" if weight < 0 else "+") + magnitude


def times(factor: float) -> str:
    """Format a steering strength.

    >>> times(-2.0)
    '−2×'
    """
    return f"{factor:g}×".replace("-", "−")


def node_name(graph: AttributionGraph, node: NodeId, names: Mapping[FeatureId, str]) -> str:
    """Return the display name of a node; ``names`` maps features to their label or top tokens.

    A generic node, of a kind that only other tools compute, has its published label.
    """
    if node.kind == "feature":
        return names.get(node.feature) or str(node.feature)
    if node.kind == "error":
        return "error node"
    if node.kind == "token":
        return token_text(graph.tokens[node.position])
    if node.kind == "logit":
        return token_text(graph.targets[target_number(graph, node)].label)
    return generic_name(graph.index.generic_node(node))


def target_number(graph: AttributionGraph, node: NodeId) -> int:
    """Return the index into ``graph.targets`` of a logit node."""
    return int(graph.index.row(node) - graph.index.logit_rows.start)


def place(graph: AttributionGraph, node: NodeId) -> str:
    """Describe where a node is in the graph: its layer and token."""
    token = token_text(graph.tokens[node.position])
    if node.kind == "token":
        return f"position {node.position}"
    if node.kind == "logit":
        return f"output after “{token}”"
    if node.layer < 0:
        return f"embedding at “{token}”"
    return f"layer {node.layer} at “{token}”"


def change_sentence(
    baseline: Sequence[TokenProbability], edited: Sequence[TokenProbability]
) -> str:
    """Say what an edit did to the top token; both lists are sorted by probability.

    ``"Austin falls from 99 % to 12 %; Phoenix is now the top token (61 %)."``
    """
    if not baseline or not edited:
        return "The model returned no next token."
    first, now = baseline[0], edited[0]
    name = token_text(first.token)
    after = next((e.probability for e in edited if e.token_id == first.token_id), None)
    # a token missing from the list is only known to be less likely than the last one listed
    if after is None:
        to = f"below {percent(edited[-1].probability)}"
        moved = f"{name} falls from {percent(first.probability)} to {to}"
    elif percent(after) == percent(first.probability):
        moved = f"{name} stays at {percent(first.probability)}"
    else:
        verb = "falls" if after < first.probability else "rises"
        moved = f"{name} {verb} from {percent(first.probability)} to {percent(after)}"
    if now.token_id != first.token_id:
        rest = f"{token_text(now.token)} is now the top token ({percent(now.probability)})"
        return f"{moved}; {rest}."
    if moved.startswith(f"{name} stays"):
        return f"{moved}: the edit barely changes the answer."
    return f"{moved} and is still the top token."
