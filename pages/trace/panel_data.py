"""What the panel shows of a node, as data: of the selected node, and of others ahead of a click."""

from __future__ import annotations

from typing import Any, Final

from charts.graph_view import GraphView, Side, generic_facts
from charts.text import activation_text, percent, place, plural, target_number
from pages.shared import kinds, label_box, resources
from tracer.features.names import SOURCES
from tracer.types import COMPUTED_KINDS, NodeId

MOST_NEIGHBOURS: Final = 400
"""The most neighbours in a list."""
INPUTS: Final = ("Strongest inputs", "direct effects on it")
OUTPUTS: Final = ("Strongest outputs", "its direct effects")
_INFLUENCE: Final = (
    "Influence: share of all paths from the graph to its target tokens that pass through this "
    "node, weighted by the size of the direct effects along them."
)


def head(view: GraphView, node: NodeId, source: resources.FeatureSource | None) -> dict[str, Any]:
    """Return a node's facts in one line, what they mean, and where its name comes from.

    ``widgets`` is how many rows of Streamlit's own widgets come between them and the lists.
    """
    data: dict[str, Any] = {
        "facts": " · ".join(_facts(view, node, source)),
        "help": "" if node.kind == "logit" else _influence_help(view),
        "source": "",
        "link": "",
        "widgets": 0,
    }
    if node.kind == "feature":
        named = resources.full_name(source, node.feature, view.pruned.graph).source
        data["source"] = SOURCES[named].capitalize()
        data["link"] = label_box.published_page(node.feature, source)
        data["widgets"] = 1 if resources.is_imported(view.pruned.graph) else 2
    return data


def _influence_help(view: GraphView) -> str:
    """Say what influence is, and what its numbers count in this graph."""
    return "\n\n".join((_INFLUENCE, *kinds.score_notes(view.pruned)))


def neighbours(title: str, note: str, side: Side, view: GraphView) -> dict[str, Any]:
    """Return one side of a node as a list for ``draw_neighbours``."""
    rows = [
        {
            "id": str(entry.node),
            "name": entry.name,
            "where": place(view.pruned.graph, entry.node),
            "weight": round(entry.weight, 5),
            "share": round(entry.share, 4),
        }
        for entry in side.strongest
    ]
    count = _count_text(title, side, view)
    return {"title": title, "note": note, "count": count, "total": side.total, "rows": rows}


def _count_text(title: str, side: Side, view: GraphView) -> str:
    """Say how many edges a list has and the graph draws; empty where it draws all of them."""
    if side.drawn == side.total:
        return ""
    noun = title.rpartition(" ")[2].rstrip("s")
    why = " that are negative" if view.filter.negative_only else ""
    threshold = f"{view.pruned.thresholds.edge:g}"
    return (
        f"{plural(side.total, noun)}, {side.drawn}{why} drawn at an edge threshold of {threshold}"
    )


def _facts(view: GraphView, node: NodeId, source: resources.FeatureSource | None) -> list[str]:
    graph = view.pruned.graph
    facts = [place(graph, node)]
    if node.kind == "feature":
        activation = float(graph.activations[graph.index.row(node)])
        facts += [str(node.feature), f"activation {activation_text(activation)}"]
        density = resources.density(source, node.feature)
        if density is not None:
            facts.append(f"active on {percent(density)} of tokens")
        covered = resources.label_precision(source, node.feature)
        if covered is not None:
            facts.append(f"label covers {percent(covered)} of its activation")
    if node.kind not in COMPUTED_KINDS:
        facts.append(generic_facts(graph, node))
    if node.kind == "logit":
        probability = graph.targets[target_number(graph, node)].probability
        facts.append(f"probability {percent(probability)}")
    else:
        facts.append(f"influence {percent(view.influence(node))}")
    return facts
