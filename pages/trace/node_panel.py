"""The panel next to the graph: next-token probabilities and details of the selected node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import streamlit as st

from cache import InterveneRequest
from charts.distributions import comparison_figure, histogram_figure, token_figure
from charts.graph_view import GraphView, Neighbour
from charts.palette import Palette
from charts.text import (
    activation_text,
    change_sentence,
    percent,
    place,
    plural,
    signed,
    times,
    token_text,
)
from pages.shared import feature_examples, progress, resources, stored_graph
from pages.shared.escape import chips_html, example_html, plain, sentence
from pages.shared.session import read_session, update_session, visitor_id
from pages.shared.session_actions import toggle_pin
from pages.shared.session_state import Session
from tracer.atlas.gallery import gallery
from tracer.errors import TracerError
from tracer.features.cards import FeatureCard
from tracer.types import Intervention, NodeId

_STATIC: Final = {"displayModeBar": False, "staticPlot": False}
_STRENGTHS: Final = (0.0, -1.0, -2.0, -4.0)
INFLUENCE: Final = (
    "Influence: share of all paths from the graph to its target tokens that pass through this "
    "node, weighted by the size of the direct effects along them."
)
ERROR_NODE: Final = (
    "An error node is the part of the MLP's output at this layer and token that the features do "
    "not reconstruct. Its effects are known, its inputs are not."
)


def draw(view: GraphView, session: Session, palette: Palette) -> None:
    """Draw the next token, then the selected node or, without one, where to start."""
    _next_token(view, session, palette)
    if view.selected is None:
        _where_to_start(view, session)
    else:
        _node(view, view.selected, session, palette)


def _next_token(view: GraphView, session: Session, palette: Palette) -> None:
    graph = view.pruned.graph
    index = graph.index
    edits = [(node, strength) for node, strength in session.edits if node in index]
    if not edits or resources.is_imported(graph):
        st.markdown("##### Next token")
        figure = token_figure(graph.next_tokens, palette)
        st.plotly_chart(figure, key="next tokens", theme=None, config=_STATIC)
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        heading = f"##### Next token, {plural(len(edits), 'feature')} edited"
        st.markdown(heading, width="stretch")
        st.button("Reset edits", key="all on", on_click=update_session, kwargs={"edits": ()})
    interventions = tuple(
        Intervention(
            node.layer,
            node.position,
            node.index,
            strength * float(graph.activations[index.row(node)]),
        )
        for node, strength in edits
    )
    job = resources.backend().intervene(
        InterveneRequest(session.prompt, interventions, session.choice), visitor_id()
    )
    progress.wait_for(job, "edited next token")
    try:
        result = job.result()
    except TracerError as error:
        st.error(plain(sentence(error)))
        return
    st.plotly_chart(
        comparison_figure(result.compare(), palette), key="comparison", theme=None, config=_STATIC
    )
    first = result.baseline[0]
    moved = float(result.edited_logits[first.token_id]) - first.logit
    st.caption(
        f"{plain(change_sentence(result.baseline, result.edited))} "
        f"Logit of {plain(token_text(first.token))}: {plain(signed(moved))}. "
        f"KL divergence: {result.kl:.3f} nats. Attention is frozen.",
        help="KL divergence measures how far the edits move the next-token distribution; 0 means "
        "no change. Frozen attention keeps the attention patterns of the unedited prompt.",
    )


def _where_to_start(view: GraphView, session: Session) -> None:
    """Draw what to look for, and the most influential features."""
    note = next((entry.note for entry in gallery() if entry.prompt == session.prompt), None)
    if session.graph:
        note = None  # the graph belongs to another prompt
    if note is not None:
        st.markdown(f"##### What to look for\n{plain(note)}")
    st.markdown("##### Most influential features", help=INFLUENCE)
    with st.container(gap=None):
        for node in view.most_influential(6):
            where = plain(f"{place(view.pruned.graph, node)} · {percent(view.influence(node))}")
            _jump(node, f"{plain(view.name(node))} :gray[{where}]", "begin")


def _node(view: GraphView, node: NodeId, session: Session, palette: Palette) -> None:
    graph = view.pruned.graph
    st.divider()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"#### {plain(view.name(node))}", width="stretch")
        st.button(
            "Unpin" if node in view.pinned else "Pin",
            key=f"pin {node} {node in view.pinned}",
            on_click=toggle_pin,
            args=(node,),
            help="Pinned nodes stay visible at any threshold, have their own diagram, and can be "
            "grouped into supernodes.",
        )
    imported = resources.is_imported(graph)
    source = resources.feature_source(graph, session.choice)
    facts = [place(graph, node)]
    if node.kind == "feature":
        activation = float(graph.activations[graph.index.row(node)])
        facts += [f"feature {node.index}", f"activation {activation_text(activation)}"]
        covered = resources.label_precision(source, node.feature)
        if covered is not None:
            facts.append(f"label covers {percent(covered)} of its activation")
    if node.kind == "logit":
        number = graph.index.row(node) - graph.index.logit_rows.start
        facts.append(f"probability {percent(graph.targets[number].probability)}")
    else:
        facts.append(f"influence {percent(view.influence(node))}")
    st.caption(plain(" · ".join(facts)), help=None if node.kind == "logit" else INFLUENCE)
    if node not in view.pruned.nodes:
        st.caption("Below the node threshold; shown because it is selected.")
    if node.kind == "feature" and not imported:
        _switch(node, session)
    if node.kind == "error":
        st.caption(ERROR_NODE)
    _neighbours("Strongest inputs", "in", view.inputs(node, 6), view)
    _neighbours("Strongest outputs", "out", view.outputs(node, 6), view)
    if node.kind == "feature" and source is None:
        st.caption(
            "No examples: this graph was imported without its model and transcoders. "
            f"{plain(stored_graph.sources(graph))}"
        )
    elif node.kind == "feature" and source is not None:
        card = feature_examples.card(source, node.feature)
        _examples(card, float(graph.activations[graph.index.row(node)]), palette)


def _switch(node: NodeId, session: Session) -> None:
    """Draw the switch and, once the feature is off, the steering strength."""
    strength = session.factor(node)
    st.toggle(
        "Turn this feature off",
        value=strength is not None,
        key=f"off {node} {strength is not None}",
        on_change=_switched,
        args=(node,),
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


def _switched(node: NodeId) -> None:
    edits = dict(read_session().edits)
    if edits.pop(node, None) is None:
        edits[node] = 0.0
    update_session(edits=tuple(edits.items()))


def _strength_chosen(node: NodeId, key: str) -> None:
    edits = {**dict(read_session().edits), node: float(st.session_state[key])}
    update_session(edits=tuple(edits.items()))


def _neighbours(title: str, side: str, neighbours: Sequence[Neighbour], view: GraphView) -> None:
    if not neighbours:
        return
    st.markdown(
        f"**{title}**",
        help="Direct effects: how much one node adds to the other's pre-activation or logit, with "
        "attention patterns and normalisation scales frozen.",
    )
    with st.container(gap=None):
        for neighbour in neighbours:
            colour = "green" if neighbour.weight > 0 else "red"
            weight = plain(signed(neighbour.weight))
            where = plain(place(view.pruned.graph, neighbour.node))
            label = f":{colour}[{weight}] {plain(neighbour.name)} :gray[{where}]"
            _jump(neighbour.node, label, side)


def _jump(node: NodeId, label: str, key: str) -> None:
    st.button(
        label,
        key=f"{key} {node}",
        type="tertiary",
        on_click=update_session,
        kwargs={"selected": node},
    )


def _examples(card: FeatureCard | None, activation: float, palette: Palette) -> None:
    if card is None:
        return  # the reason was drawn in its place
    for number, group in enumerate(card.groups):
        if not group.examples:
            continue
        strongest = max(max(example.activations) for example in group.examples)
        html = "".join(
            example_html(example, card.act_max or strongest, palette) for example in group.examples
        )
        if number == 0:
            st.markdown(f"**{plain(group.name)}**")
            st.html(html)
        else:
            with st.expander(plain(group.name)):
                st.html(html)
    if card.promoted:
        st.markdown(
            "**Promoted and suppressed tokens**",
            help="The tokens whose logits the feature raises and lowers most through its direct "
            "path to the output.",
        )
        st.html(chips_html(card.promoted[:6], palette.positive))
        st.html(chips_html(card.suppressed[:6], palette.negative))
    if card.histogram:
        note = f"active on {percent(card.frequency)} of tokens; " if card.frequency else ""
        st.markdown(
            f"**Activation distribution** :gray[{plain(note)}the line marks this prompt]",
            help="How many tokens of the index's corpus have which activation, on a logarithmic "
            "scale.",
        )
        marked = None if math.isnan(activation) else activation
        figure = histogram_figure(card.histogram, card.histogram_top, palette, marked)
        st.plotly_chart(figure, key="histogram", theme=None, config=_STATIC)
