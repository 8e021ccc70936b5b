"""The panel next to the graph: next-token probabilities and details of the selected node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import streamlit as st

from cache import ModelChoice
from charts.graph_view import GraphView, Side
from charts.palette import Palette
from charts.text import place, times
from pages.shared import (
    feature_card,
    feature_examples,
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
from pages.trace import (
    carried_by,
    feature_panel,
    generic_panel,
    next_token,
    panel_data,
    panels_ahead,
)
from tracer.catalog.embedded import gallery
from tracer.graph.graph import AttributionGraph
from tracer.types import NodeId

_STRENGTHS: Final = (0.0, -1.0, -2.0, -4.0)
ERROR_NODE: Final = (
    "An error node is the part of the MLP's output at this layer and token that the features do "
    "not reconstruct. Its effects are known, its inputs are not."
)


def draw(key: str, view: GraphView, session: Session, palette: Palette) -> None:
    """Draw the selected node or, without one, the next token and where to start.

    Head and lists are on the page at all times and in the same places: the browser fills them as
    soon as a node is clicked.
    """
    node, graph = view.selected, view.pruned.graph
    source = resources.feature_source(graph, session.choice)
    with st.container():
        if node is None:
            carried_by.draw_head(key, view, session, palette)
        if node is None or session.edits:
            next_token.draw(view, session, palette)
        if node is None:
            _what_to_look_for(session)
    draw_node_head(_head(view, source, session), selection.head_event)
    if node is not None:
        with st.container():
            _widgets(view, node, session)
    lists = _most_influential(view) if node is None else _neighbours(view, node)
    examples = panels_ahead.examples(node, source, palette) if node is not None else None
    draw_neighbours(
        "trace",
        lists,
        "",
        selection.graph_event,
        node=str(node or ""),
        examples=examples,
        serial=selection.serial(),
    )
    if node is None:
        return
    carried = st.container()
    if node.kind == "feature":
        _card(node, source, graph, palette, bool(examples))
    later.draw_later(carried, lambda: carried_by.draw(key, view, node, session, palette))


def _what_to_look_for(session: Session) -> None:
    note = next(
        (entry.note for entry in gallery(session.choice.model) if entry.prompt == session.prompt),
        None,
    )
    if note is not None and not session.graph:
        st.markdown(f"##### What to look for\n{plain(note)}")


def _most_influential(view: GraphView) -> list[dict[str, Any]]:
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
    return [
        {
            "title": "Most influential features",
            "note": "share of the paths to the targets",
            "unit": "percent",
            "rows": rows,
        }
    ]


def _neighbours(view: GraphView, node: NodeId) -> list[dict[str, Any]]:
    most = panel_data.MOST_NEIGHBOURS
    lists = []
    for texts, neighbours in (
        (panel_data.INPUTS, view.inputs(node, most)),
        (panel_data.OUTPUTS, view.outputs(node, most)),
    ):
        drawn = sum(neighbour.is_drawn for neighbour in neighbours)
        side = Side(list(neighbours), len(neighbours), drawn)
        lists.append(panel_data.neighbours(*texts, side, view))
    return [*lists, *generic_panel.qk_lists(view, node)]


def _widgets(view: GraphView, node: NodeId, session: Session) -> None:
    """Draw what can be done with a node, and what is special about it."""
    graph = view.pruned.graph
    if node.kind == "feature":
        _name_and_page(node, graph)
    if not view.pruned.node_mask[graph.index.row(node)]:
        st.caption("Below the node threshold; shown because it is selected.")
    if node.kind == "feature" and not resources.is_imported(graph):
        _switch(node, session)
    if node.kind == "error":
        st.caption(ERROR_NODE)
    generic_panel.draw(view, node)


def _card(
    node: NodeId,
    source: resources.FeatureSource | None,
    graph: AttributionGraph,
    palette: Palette,
    has_examples: bool,
) -> None:
    """Draw a feature's card below its strongest examples, or why there is none."""
    if source is None:
        st.caption(
            "No examples: this graph was imported without its model and transcoders. "
            f"{plain(stored_graph.sources(graph))}"
        )
        return
    card = feature_examples.card(source, node.feature)
    if card is not None and not has_examples and feature_card.groups_of(card):
        st.rerun()  # they have been fetched meanwhile

    def rest() -> None:
        if card is not None:
            feature_panel.draw_rest(card, float(graph.activations[graph.index.row(node)]), palette)
        if isinstance(source, ModelChoice):
            own_text.draw(node.feature, source, card, palette)

    later.draw_later(st.container(), rest)


def _head(
    view: GraphView, source: resources.FeatureSource | None, session: Session
) -> dict[str, Any]:
    """Return the node's name, what can be done with it, and the facts about it."""
    node = view.selected
    data: dict[str, Any] = {
        "id": "",
        "name": "",
        "pinned": False,
        "back": selection.can_step(-1),
        "forward": selection.can_step(1),
        "keeps": bool(session.edits),
        "widgets": 0,
        "serial": selection.serial(),
    }
    if node is None:
        return data
    name = {"id": str(node), "name": view.name(node), "pinned": node in view.pinned}
    return data | name | panel_data.head(view, node, source)


def _name_and_page(node: NodeId, graph: AttributionGraph) -> None:
    """Let the visitor change the feature's name, or read on elsewhere."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="identity"):
        with st.popover("Rename", key=f"rename {node.feature}", type="tertiary"):
            label_box.draw(node.feature, graph)
        if st.button("Feature page", key="feature page", type="tertiary"):
            update_session(finding=replace(read_session().finding, feature=node.feature))
            st.switch_page(page_script("features"))


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
