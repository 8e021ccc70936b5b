"""The panel beside the graph: the next token, and the node that was clicked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import streamlit as st

from cache import InterveneRequest
from charts.distributions import comparison_figure, histogram_figure, token_figure
from charts.graph_view import GraphView, Neighbour
from charts.palette import Palette
from charts.text import activation_text, change_sentence, percent, place, signed, token_text
from pages.shared import feature_examples, progress, resources, stored_graph
from pages.shared.escape import chips_html, example_html, plain
from pages.shared.session import read_session, update_session, visitor_id
from pages.shared.session_actions import toggle_pin
from pages.shared.session_state import Session
from tracer.atlas.gallery import gallery
from tracer.errors import TracerError
from tracer.features.cards import FeatureCard
from tracer.types import Intervention, NodeId

_STATIC = {"displayModeBar": False, "staticPlot": False}
_FACTORS = (0.0, -1.0, -2.0, -4.0)


def draw(view: GraphView, session: Session, palette: Palette) -> None:
    """Next token first, then the selected node or, without one, where to begin."""
    _next_token(view, session, palette)
    if view.selected is None:
        _where_to_begin(view, session)
    else:
        _node(view, view.selected, session, palette)


def _next_token(view: GraphView, session: Session, palette: Palette) -> None:
    graph = view.pruned.graph
    index = graph.index
    edits = [(node, factor) for node, factor in session.edits if node in index]
    if not edits or resources.is_imported(graph):
        st.markdown("##### Next token")
        figure = token_figure(graph.next_tokens, palette)
        st.plotly_chart(figure, key="next tokens", theme=None, config=_STATIC)
        return
    count = "1 feature" if len(edits) == 1 else f"{len(edits)} features"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"##### Next token, {count} off", width="stretch")
        st.button("All on again", key="all on", on_click=update_session, kwargs={"edits": ()})
    interventions = tuple(
        Intervention(
            node.layer,
            node.position,
            node.index,
            factor * float(graph.activations[index.row(node)]),
        )
        for node, factor in edits
    )
    job = resources.backend().intervene(
        InterveneRequest(session.prompt, interventions, session.choice), visitor_id()
    )
    progress.wait_for(job, "edited next token")
    try:
        result = job.result()
    except TracerError as error:
        st.error(plain(str(error)))
        return
    st.plotly_chart(
        comparison_figure(result.compare(), palette), key="comparison", theme=None, config=_STATIC
    )
    first = result.baseline[0]
    moved = float(result.edited_logits[first.token_id]) - first.logit
    st.caption(
        f"{plain(change_sentence(result.baseline, result.edited))} "
        f"Logit of {plain(token_text(first.token))} {plain(signed(moved))}, "
        f"KL divergence {result.kl:.3f} nats; attention held."
    )


def _where_to_begin(view: GraphView, session: Session) -> None:
    """What to look for, and the features most of the influence runs through."""
    note = next((entry.note for entry in gallery() if entry.prompt == session.prompt), None)
    if session.graph:
        note = None  # the prompt is another one
    if note is not None:
        st.markdown(f"##### What to look for\n{plain(note)}")
    st.markdown("##### Most influential features")
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
            help="Pinned nodes stay in view, have a diagram of their own, and can be named as one.",
        )
    imported = resources.is_imported(graph)
    asked = resources.feature_source(graph, session.choice)
    facts = [place(graph, node)]
    if node.kind == "feature":
        activation = float(graph.activations[graph.index.row(node)])
        facts += [f"feature {node.index}", f"activation {activation_text(activation)}"]
        covered = resources.label_precision(asked, node.feature)
        if covered is not None:
            facts.append(f"label covers {percent(covered)} of its activation")
    if node.kind == "logit":
        number = graph.index.row(node) - graph.index.logit_rows.start
        facts.append(f"probability {percent(graph.targets[number].probability)}")
    else:
        facts.append(f"influence {percent(view.influence(node))}")
    st.caption(plain(" · ".join(facts)))
    if node not in view.pruned.nodes:
        st.caption("Below the threshold: drawn because it is selected.")
    if node.kind == "feature" and not imported:
        _switch(node, session)
    if node.kind == "error":
        st.caption(
            "An error node is what the features of this layer do not explain of the MLP's output "
            "here. It has effects, but nothing is known of its inputs."
        )
    _neighbours("Strongest inputs", "in", view.inputs(node, 6), view)
    _neighbours("Strongest outputs", "out", view.outputs(node, 6), view)
    if node.kind == "feature" and asked is None:
        st.caption(
            "There are no examples for the features of an imported graph: its model and "
            f"transcoders are not here. {plain(stored_graph.sources(graph))}"
        )
    elif node.kind == "feature" and asked is not None:
        card = feature_examples.card(asked, node.feature)
        _what_it_is(card, float(graph.activations[graph.index.row(node)]), palette)


def _switch(node: NodeId, session: Session) -> None:
    """The switch, and how hard to push once it is off."""
    factor = session.factor(node)
    st.toggle(
        "Turn this feature off",
        value=factor is not None,
        key=f"off {node} {factor is not None}",
        on_change=_switched,
        args=(node,),
        help="Sets it to zero at this token and runs the model again, attention held.",
    )
    if factor is None:
        return
    key = f"factor {node} {factor:g}"
    st.segmented_control(
        "Set to this multiple of its activation",
        _FACTORS,
        default=factor if factor in _FACTORS else None,
        format_func=lambda value: "off" if value == 0 else f"{value:g}×".replace("-", "−"),
        required=True,
        key=key,
        on_change=_pushed,
        args=(node, key),
        help="Often several features carry the same thing, and the others make up for one that is "
        "off. A negative multiple pushes against all of them.",
    )


def _switched(node: NodeId) -> None:
    edits = dict(read_session().edits)
    if edits.pop(node, None) is None:
        edits[node] = 0.0
    update_session(edits=tuple(edits.items()))


def _pushed(node: NodeId, key: str) -> None:
    edits = {**dict(read_session().edits), node: float(st.session_state[key])}
    update_session(edits=tuple(edits.items()))


def _neighbours(title: str, side: str, neighbours: Sequence[Neighbour], view: GraphView) -> None:
    if not neighbours:
        return
    st.markdown(f"**{title}**")
    with st.container(gap=None):
        for found in neighbours:
            colour = "green" if found.weight > 0 else "red"
            weight, where = plain(signed(found.weight)), plain(place(view.pruned.graph, found.node))
            _jump(found.node, f":{colour}[{weight}] {plain(found.name)} :gray[{where}]", side)


def _jump(node: NodeId, label: str, key: str) -> None:
    st.button(
        label,
        key=f"{key} {node}",
        type="tertiary",
        on_click=update_session,
        kwargs={"selected": node},
    )


def _what_it_is(card: FeatureCard | None, activation: float, palette: Palette) -> None:
    if card is None:
        return  # why, is said above
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
        st.markdown("**Promotes** :gray[and suppresses, when it writes straight to the output]")
        st.html(chips_html(card.promoted[:6], palette.positive))
        st.html(chips_html(card.suppressed[:6], palette.negative))
    if card.histogram:
        fires = f"fires on {percent(card.frequency)} of tokens" if card.frequency else ""
        st.markdown(f"**Activations** :gray[{plain(fires)}; the line is this prompt]")
        here = None if math.isnan(activation) else activation
        figure = histogram_figure(card.histogram, card.histogram_top, palette, here)
        st.plotly_chart(figure, key="histogram", theme=None, config=_STATIC)
