"""Edits that carry features from one prompt's graph into another prompt.

Only decides what to change; :mod:`tracer.interventions.run` runs it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracer.errors import InterventionError
from tracer.graph.comparison import Comparison, same_dictionary
from tracer.graph.graph import AttributionGraph
from tracer.interventions.scenario import Edit
from tracer.types import NodeId


def transplant(
    graph: AttributionGraph, nodes: Sequence[NodeId], into: AttributionGraph
) -> tuple[Edit, ...]:
    """Return edits that set features in ``into`` to the activations they have in ``graph``.

    Positions are matched from the end of both prompts. Raises :class:`InterventionError` when a
    node has no matching position in ``into``, or when the graphs use different transcoders.
    """
    if not same_dictionary(graph, into):
        raise InterventionError(
            f"{_dictionary_name(graph)} and {_dictionary_name(into)} do not share features: trace "
            "both prompts with the same model and transcoders"
        )
    index = graph.index
    shift = len(into.tokens) - len(graph.tokens)
    edits = []
    for node in nodes:
        position = node.position + shift
        if position < 1:
            raise InterventionError(
                f"{graph.tokens[node.position]!r} (position {node.position}) has no matching "
                f"position in this prompt, which is {-shift} tokens shorter: choose a shorter "
                "source prompt"
            )
        value = float(graph.activations[index.row(node)])
        edits.append(Edit(node.feature, position, position + 1, "set", value))
    return tuple(edits)


def difference_edits(
    comparison: Comparison, left_factor: float = -1.0
) -> tuple[tuple[Edit, ...], int]:
    """Return edits that replace the left graph's own features with the right graph's.

    Features kept only on the left are scaled by ``left_factor``; features kept only on the right
    are set to their activations there, in the same column. The second value counts the features
    dropped because the left prompt has no token in their column.
    """
    edits, dropped = [], 0
    for node in comparison.features("left"):
        edits += [Edit.at(place, "scale", left_factor) for place in node.left]
    positions = {slot: position for position, slot in enumerate(comparison.slots.left)}
    graph = comparison.right.graph
    for node in comparison.features("right"):
        for place in node.right:
            position = positions.get(comparison.slots.right[place.position])
            if not position:  # no such column on the left, or its beginning-of-text token
                dropped += 1
                continue
            value = float(graph.activations[graph.index.row(place)])
            edits.append(Edit(place.feature, position, position + 1, "set", value))
    return tuple(edits), dropped


def _dictionary_name(graph: AttributionGraph) -> str:
    provenance = graph.provenance
    model = provenance.get("model", "an unknown model")
    return f"{model} with {provenance.get('transcoders', 'unknown transcoders')}"
