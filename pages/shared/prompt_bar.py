"""The prompt at the top of a page and its trace: finished, in progress, cancelled or refused."""

from __future__ import annotations

from typing import Final

import streamlit as st

from cache import Job, ModelChoice, StoreError, TraceRequest
from pages.shared import (
    forecast,
    later,
    many_prompts,
    progress,
    prompt_panel,
    resources,
    stored_graph,
    visits,
)
from pages.shared.escape import plain, sentence
from pages.shared.explaining import Explain
from pages.shared.known_words import suggestions
from pages.shared.navigation import page_script
from pages.shared.session import heard, read_session, set_text_widget, update_session, visitor_id
from pages.shared.session_state import Session
from pages.shared.use_model import use_model
from pages.shared.without_chat import ask_for_chat
from tracer.catalog.embedded import ATLAS, EMBEDDED_SETS, embedded, gallery, installed
from tracer.errors import (
    ChatNeededError,
    EmptyPromptError,
    ModelError,
    TargetError,
    TracerError,
    TranscoderError,
    UnknownTokenError,
)
from tracer.graph.graph import AttributionGraph

_BOX: Final = "prompt box"
_LAST: Final = "last traced"
_CANCELLED: Final = "cancelled trace"


def traced() -> Job[AttributionGraph] | None:
    """Draw the prompt bar and return the finished trace of the session's prompt.

    A stored graph that is open takes its place. Returns None when something else was drawn in
    place of a graph: progress, or an error.
    """
    session = read_session()
    if session.graph:
        return stored_graph.opened(session.graph)
    later.draw_later(st.container(), _bar)
    request = session.request
    if st.session_state.get(_CANCELLED) == request:
        _cancelled()
        return None
    st.session_state.pop(_CANCELLED, None)
    if not forecast.agreed(request):
        return None
    try:
        job = resources.backend().trace(request, visitor_id())
    except StoreError as error:
        st.error(plain(sentence(error)))
        return None
    visits.only_this(job, "trace")
    if not progress.ends_within(job, progress.AT_ONCE):
        later.draw_the_rest()
    if not progress.ends_within(job, progress.PATIENCE - progress.AT_ONCE):
        _progress(job, request)
        return None
    try:
        job.result()
    except TracerError as error:
        _refused(error)
        if job.key and not isinstance(error, EmptyPromptError):
            visits.retry_button(job)
        return None
    st.session_state[_LAST] = session.prompt
    return job


def _bar() -> None:
    """Draw the text box with its buttons: previous and next prompt, options, many prompts."""
    session = read_session()
    # The box follows the session, which other widgets change too.
    set_text_widget(_BOX, session.prompt)
    typed = heard(_BOX, _prompt_typed)
    with st.container(horizontal=True, vertical_alignment="center", key="prompt bar", gap="small"):
        st.text_area(
            "Prompt (the graph explains its next token)",
            key=_BOX,
            on_change=typed,
            height=68,
            label_visibility="collapsed",
            placeholder="Write a text; the graph explains its next token",
        )
        st.button("Trace", key="trace prompt", type="primary", on_click=typed)
        entries = gallery(session.choice.model)
        prompts = many_prompts.prompts() or tuple(entry.prompt for entry in entries)
        st.button("◀", key="previous", help="Previous prompt", on_click=_step, args=(-1, prompts))
        st.button("▶", key="next", help="Next prompt", on_click=_step, args=(1, prompts))
        prompt_panel.draw(session)
    many_prompts.draw_progress()
    said = session.explain.sentence()
    if said:
        st.caption(plain(f"This trace {said}."))


def _prompt_typed() -> None:
    # An empty box means that it was not filled yet when the visitor clicked, or that the visitor
    # cleared it: keep the prompt rather than complain.
    typed = st.session_state[_BOX]
    if typed and typed != read_session().prompt:
        update_session(prompt=typed)


def _step(by: int, prompts: tuple[str, ...]) -> None:
    number = prompts.index(read_session().prompt) if read_session().prompt in prompts else -by
    prompt = prompts[(number + by) % len(prompts)]
    update_session(prompt=prompt, explain=many_prompts.explained(prompt))


def _refused(error: TracerError) -> None:
    """Say in one sentence what is wrong with the prompt, and offer a way back."""
    if isinstance(error, ChatNeededError):
        ask_for_chat(read_session())
        return
    st.error(plain(sentence(error)))
    if isinstance(error, ModelError | TranscoderError):
        with st.container(horizontal=True):
            if st.button("Models", key="to models", type="primary"):
                st.switch_page(page_script("models"))
            _back_to_atlas()
        return
    session = read_session()
    last = st.session_state.get(_LAST, gallery(session.choice.model)[0].prompt)
    if isinstance(error, TargetError) and session.explain.targets is not None:
        st.button(
            "Explain the likeliest tokens",
            key="explain likeliest",
            on_click=update_session,
            kwargs={"explain": Explain(), "prompt": session.prompt},
        )
        return
    if isinstance(error, UnknownTokenError) and session.choice.model == ATLAS:
        _read_by_another_model(session)
        _known_words(session.prompt)
    if embedded(session.choice.model) is None and last == session.prompt:
        st.caption(
            "The prompts in the sidebar were written for atlas: type one that suits this model."
        )
        _back_to_atlas()
        return
    st.button(
        plain(f"Back to “{last}”"), on_click=update_session, kwargs={"prompt": last}, key="go back"
    )


def _read_by_another_model(session: Session) -> None:
    """Offer the prompt to an embedded model that reads any text, if one is installed."""
    other = next((model for model in installed() if model.any_text), None)
    if other is None:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.button(
            f"Trace it with {other.name}",
            key="trace with another model",
            type="primary",
            on_click=use_model,
            args=(ModelChoice(other.name, EMBEDDED_SETS[0]), session.prompt),
        )
        st.caption(f"{other.name.capitalize()} is embedded too, and reads any text.")


def _known_words(prompt: str) -> None:
    """Offer the prompt with the nearest words that atlas knows in place of those it does not."""
    for word, close in suggestions(prompt).items():
        if not close:
            continue
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.caption(plain(f"Instead of “{word[:40]}”:"), width="content")
            for known in close:
                st.button(
                    plain(known),
                    key=f"instead of {word[:40]}: {known}",
                    type="tertiary",
                    on_click=update_session,
                    kwargs={"prompt": prompt.replace(word, known, 1)},
                )
    st.caption(
        "Atlas is a small model with 1,584 words. The prompts in the sidebar use words it knows."
    )


def _back_to_atlas() -> None:
    st.button(
        "Back to atlas",
        key="back to atlas",
        on_click=use_model,
        args=(ModelChoice(),),
    )


def _cancelled() -> None:
    st.info("Tracing was cancelled.")
    st.button("Trace this prompt", key="trace again", type="primary", on_click=_trace_again)


def _trace_again() -> None:
    st.session_state.pop(_CANCELLED, None)


@st.fragment(run_every=progress.POLL)
def _progress(job: Job[AttributionGraph], request: TraceRequest) -> None:
    """Show how far the trace is; redraw the page when it has ended."""
    if not progress.is_active(job):
        st.rerun()
    progress.bar(job)
    if st.button("Cancel", key="cancel"):
        progress.cancel(job)
        st.session_state[_CANCELLED] = request
        last = st.session_state.get(_LAST)
        if last is not None and last != read_session().prompt:
            update_session(prompt=last)
        st.rerun()
