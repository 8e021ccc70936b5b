"""The panel next to the graph: next-token probabilities and details of the selected node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import streamlit as st

from cache import ModelChoice
from charts.graph_view import GraphView, Neighbour, generic_facts
from charts.palette import Palette
from charts.text import activation_text, percent, place, plural, target_number, times
from pages.shared import (
    feature_examples,
    kinds,
    label_box,
    later,
    own_text,
    resources,
    selection,
    stored_graph,
)
from pages.shared.escape import plain
from pages.shared.graph_component import draw_neighbours, draw_node_head
from pages.shared.navigation import page_script
from pages.shared.session import read_session, update_session
from pages.shared.session_state import Session
from pages.trace import carried_by, feature_panel, generic_panel, next_token
from tracer.catalog.embedded import gallery
from tracer.features.names import SOURCES
from tracer.graph.graph import AttributionGraph
from tracer.types import COMPUTED_KINDS, NodeId

_STRENGTHS: Final = (0.0, -1.0, -2.0, -4.0)
_MOST_NEIGHBOURS: Final = 400
INFLUENCE: Final = (
    "Influence: share of all paths from the graph to its target tokens that pass through this "
    "node, weighted by the size of the direct effects along them."
)
ERROR_NODE: Final = (
    "An error node is the part of the MLP's output at this layer and token that the features do "
    "not reconstruct. Its effects are known, its inputs are not."
)


def draw(key: str, view: GraphView, session: Session, palette: Palette) -> None:
    """Draw the selected node or, without one, the next token and where to start."""
    if view.selected is None:
        carried_by.draw_head(key, view, session, palette)
    if view.selected is None or session.edits:
        next_token.draw(view, session, palette)
    if view.selected is None:
        _where_to_start(view, session)
    else:
        _node(key, view, view.selected, session, palette)


def _where_to_start(view: GraphView, session: Session) -> None:
    """Draw what to look for, and the most influential features."""
    note = next(
        (entry.note for entry in gallery(session.choice.model) if entry.prompt == session.prompt),
        None,
    )
    if note is not None and not session.graph:
        st.markdown(f"##### What to look for\n{plain(note)}")
    rows = [
        {
            "id": str(node),
            "name": view.name(node),
            "where": place(view.pruned.graph, node),
            "weight": view.influence(node),
            "share": view.influence(node),
        }
        for node in view.most_influential(8)
    ]
    lists = [
        {
            "title": "Most influential features",
            "note": "share of the paths to the targets",
            "unit": "percent",
            "rows": rows,
        }
    ]
    draw_neighbours("trace", lists, "", selection.graph_event)


def _node(key: str, view: GraphView, node: NodeId, session: Session, palette: Palette) -> None:
    graph = view.pruned.graph
    imported = resources.is_imported(graph)
    source = resources.feature_source(graph, session.choice)
    _head(view, node, source)
    if node.kind == "feature":
        _name_and_page(node, graph)
    if not view.pruned.node_mask[graph.index.row(node)]:
        st.caption("Below the node threshold; shown because it is selected.")
    if node.kind == "feature" and not imported:
        _switch(node, session)
    if node.kind == "error":
        st.caption(ERROR_NODE)
    generic_panel.draw(view, node)
    inputs, outputs = view.inputs(node, _MOST_NEIGHBOURS), view.outputs(node, _MOST_NEIGHBOURS)
    lists = [
        _list("Strongest inputs", "direct effects on it", inputs, view),
        _list("Strongest outputs", "its direct effects", outputs, view),
        *generic_panel.qk_lists(view, node),
    ]
    draw_neighbours("trace", lists, "", selection.graph_event)
    carried = st.container()
    if node.kind == "feature":
        _card(node, source, graph, palette)
    later.draw_later(carried, lambda: carried_by.draw(key, view, node, session, palette))


def _card(
    node: NodeId, source: resources.FeatureSource | None, graph: AttributionGraph, palette: Palette
) -> None:
    """Draw the strongest examples of a feature now, and the rest of its card later."""
    if source is None:
        st.caption(
            "No examples: this graph was imported without its model and transcoders. "
            f"{plain(stored_graph.sources(graph))}"
        )
        return
    card = feature_examples.card(source, node.feature)
    if card is not None:
        feature_panel.draw_strongest(card, palette)

    def rest() -> None:
        if card is not None:
            feature_panel.draw_rest(card, float(graph.activations[graph.index.row(node)]), palette)
        if isinstance(source, ModelChoice):
            own_text.draw(node.feature, source, card, palette)

    later.draw_later(st.container(), rest)


def _head(view: GraphView, node: NodeId, source: resources.FeatureSource | None) -> None:
    """Draw the node's name, what can be done with it, and the facts about it."""
    about = "\n\n".join((INFLUENCE, *kinds.score_notes(view.pruned)))
    data = {
        "id": str(node),
        "name": view.name(node),
        "pinned": node in view.pinned,
        "back": selection.can_step(-1),
        "forward": selection.can_step(1),
        "facts": " · ".join(_facts(view, node, source)),
        "help": "" if node.kind == "logit" else about,
        "source": "",
        "link": "",
    }
    if node.kind == "feature":
        named = resources.full_name(source, node.feature, view.pruned.graph).source
        data["source"] = SOURCES[named].capitalize()
        data["link"] = label_box.published_page(node.feature, source)
    draw_node_head(data, selection.head_event)


def _name_and_page(node: NodeId, graph: AttributionGraph) -> None:
    """Let the visitor change the feature's name, or read on elsewhere."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="identity"):
        with st.popover("Rename", key=f"rename {node.feature}", type="tertiary"):
            label_box.draw(node.feature, graph)
        if st.button("Feature page", key="feature page", type="tertiary"):
            update_session(finding=replace(read_session().finding, feature=node.feature))
            st.switch_page(page_script("features"))


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


def _list(
    title: str, note: str, neighbours: tuple[Neighbour, ...], view: GraphView
) -> dict[str, Any]:
    graph = view.pruned.graph
    rows = [
        {
            "id": str(entry.node),
            "name": entry.name,
            "where": place(graph, entry.node),
            "weight": round(entry.weight, 5),
            "share": round(entry.share, 4),
        }
        for entry in neighbours
    ]
    return {"title": title, "note": note, "count": _count(title, neighbours, view), "rows": rows}


def _count(title: str, neighbours: tuple[Neighbour, ...], view: GraphView) -> str:
    """Say how many edges the list has and the graph draws; empty where it draws all of them."""
    drawn = sum(neighbour.is_drawn for neighbour in neighbours)
    if drawn == len(neighbours):
        return ""
    noun = title.rpartition(" ")[2].rstrip("s")
    why = " that are negative" if view.filter.negative_only else ""
    threshold = f"{view.pruned.thresholds.edge:g}"
    return (
        f"{plural(len(neighbours), noun)}, {drawn}{why} drawn at an edge threshold of {threshold}"
    )


def _switch(node: NodeId, session: Session) -> None:
    """Draw the switch and, once the feature is off, the steering strength."""
    strength = session.factor(node)
    key = f"off {node} {strength is not None}"
    st.toggle(
        "Turn this feature off",
        value=strength is not None,
        key=key,
        on_change=_switched,
        args=(node, key),
        help="Sets the feature to zero at this token and runs the model again with attention "
        "frozen.",
    )
    if strength is None:
        return
    key = f"factor {node} {strength:g}"
    st.segmented_control(
        "Steering strength (× its activation)",
        _STRENGTHS,
        default=strength if strength in _STRENGTHS else None,
        format_func=lambda value: "off" if value == 0 else times(value),
        required=True,
        key=key,
        on_change=_strength_chosen,
        args=(node, key),
        help="The feature is set to this multiple of its activation. Often several features carry "
        "the same information and make up for one that is off; a negative strength steers against "
        "all of them.",
    )


def _switched(node: NodeId, key: str) -> None:
    """Switch a feature off or back on, as its toggle says.

    The browser may report a toggle that has left the page, unchanged: it must not count as a flip.
    """
    is_off, edits = st.session_state.get(key), dict(read_session().edits)
    if is_off is None:
        return
    if is_off:
        edits.setdefault(node, 0.0)
    else:
        edits.pop(node, None)
    update_session(edits=tuple(edits.items()))


def _strength_chosen(node: NodeId, key: str) -> None:
    strength, edits = st.session_state.get(key), dict(read_session().edits)
    if strength is not None and node in edits:
        update_session(edits=tuple({**edits, node: float(strength)}.items()))
