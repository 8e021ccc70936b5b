"""Next-token probabilities: unedited, or with the visitor's edits."""

from __future__ import annotations

import streamlit as st

from cache import InterveneRequest
from charts.distributions import comparison_figure, token_figure
from charts.graph_view import GraphView
from charts.palette import Palette
from charts.text import change_sentence, percent, plural, signed, token_text
from pages.shared import progress, resources
from pages.shared.escape import plain, sentence
from pages.shared.graph_component import draw_chart
from pages.shared.session import update_session, visitor_id
from pages.shared.session_state import Session
from tracer.errors import TracerError
from tracer.graph.graph import AttributionGraph
from tracer.types import Intervention


def draw(view: GraphView, session: Session, palette: Palette) -> None:
    """Draw the probabilities of the next token; with edits, before and after."""
    graph, index = view.pruned.graph, view.pruned.graph.index
    edits = [(node, strength) for node, strength in session.edits if node in index]
    if not edits or resources.is_imported(graph):
        st.markdown(f"##### Next token {_likeliest(graph)}")
        figure = token_figure(graph.next_tokens, palette)
        draw_chart(figure, "next tokens")
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
    draw_chart(comparison_figure(result.compare(), palette), "comparison")
    first = result.baseline[0]
    moved = float(result.edited_logits[first.token_id]) - first.logit
    st.caption(
        f"{plain(change_sentence(result.baseline, result.edited))} "
        f"Logit of {plain(token_text(first.token))}: {plain(signed(moved))}. "
        f"KL divergence: {result.kl:.3f} nats. Attention is frozen.",
        help="KL divergence measures how far the edits move the next-token distribution; 0 means "
        "no change. Frozen attention keeps the attention patterns of the unedited prompt.",
    )


def _likeliest(graph: AttributionGraph) -> str:
    if not graph.next_tokens:
        return ""
    first = graph.next_tokens[0]
    return f"**{plain(token_text(first.token))}** :gray[{percent(first.probability)}]"
