"""What the model says next: unchanged, or with features switched off."""

from __future__ import annotations

from typing import Final

import streamlit as st

from cache import InterveneRequest
from charts.distributions import comparison_figure, token_figure
from charts.graph_view import GraphView
from charts.palette import Palette
from charts.text import change_sentence, signed, token_text
from pages.shared import progress, resources
from pages.shared.escape import plain
from pages.shared.session import update_session, visitor_id
from pages.shared.session_state import Session
from tracer.errors import TracerError
from tracer.types import Intervention

STATIC: Final = {"displayModeBar": False, "staticPlot": False}


def draw(view: GraphView, session: Session, palette: Palette) -> None:
    """Draw the probabilities of the next token; with edits, before and after."""
    graph, index = view.pruned.graph, view.pruned.graph.index
    edits = [(node, factor) for node, factor in session.edits if node in index]
    if not edits or resources.is_imported(graph):
        st.markdown("##### Next token")
        figure = token_figure(graph.next_tokens, palette)
        st.plotly_chart(figure, key="next tokens", theme=None, config=STATIC)
        return
    count = "1 feature" if len(edits) == 1 else f"{len(edits)} features"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"##### Next token, {count} edited", width="stretch")
        st.button("Reset edits", key="all on", on_click=update_session, kwargs={"edits": ()})
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
        comparison_figure(result.compare(), palette), key="comparison", theme=None, config=STATIC
    )
    first = result.baseline[0]
    moved = float(result.edited_logits[first.token_id]) - first.logit
    st.caption(
        f"{plain(change_sentence(result.baseline, result.edited))} "
        f"Logit of {plain(token_text(first.token))} {plain(signed(moved))}, "
        f"KL divergence {result.kl:.3f} nats, with attention frozen."
    )
