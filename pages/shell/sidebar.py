"""The sidebar: prompts to choose from, the model and its transcoders, and what is running."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import Any, Final

import streamlit as st

from cache import Backend, Job, ModelChoice, StoreError
from charts.text import percent, truncate
from pages.shared import diagnostics, progress, resources
from pages.shared.escape import plain, sentence
from pages.shared.graph_component import draw_prompts
from pages.shared.model_choices import sets_of, short
from pages.shared.session import PROBLEMS, read_session, update_session
from pages.shared.session_state import Session
from pages.shared.use_model import use_model
from tracer.catalog.embedded import EMBEDDED_SETS, embedded, gallery, installed
from tracer.graph.graph import AttributionGraph

_LISTED: Final = 4
"""Jobs named in the sidebar; of others only the number is shown."""


def draw(trace_page: st.Page, models_page: st.Page, acts: bool) -> None:
    """Draw what is in the sidebar.

    The prompts are shown only where a click on one ``acts``: on the pages that show a prompt.
    """
    session = read_session()
    graph = _open_graph(session)
    if graph is not None and resources.is_imported(graph):
        _imported(graph)
    elif acts:
        _prompts(session)
    else:
        st.page_link(trace_page, label="Trace a prompt", icon=":material/account_tree:")
    if graph is None or not resources.is_imported(graph):
        st.markdown("#### Model")
        if acts:
            _choose_embedded(session)
            _choose_transcoders(session)
        _machine()
    st.page_link(models_page, label="All models", icon=":material/deployed_code:")
    _work()


def _open_graph(session: Session) -> AttributionGraph | None:
    """Return the stored graph that is open, if there is one."""
    if not session.graph:
        return None
    try:
        return resources.backend().graph(session.graph)
    except StoreError:
        return None  # said in place of the graph


def _prompts(session: Session) -> None:
    st.markdown("#### Prompts")
    entries_of_model = gallery(session.choice.model)
    if embedded(session.choice.model) is None:
        st.caption("These were written for atlas. Type your own at the top of the page.")
    else:
        st.caption("Choose one, or type your own at the top of the page.")
    groups = [
        {"name": name, "prompts": [{"title": e.title, "prompt": e.prompt} for e in entries]}
        for name, entries in groupby(entries_of_model, key=lambda entry: entry.group)
    ]
    draw_prompts(groups, None if session.graph else session.prompt, _prompt_chosen)


def _prompt_chosen(prompt: str) -> None:
    """Open a prompt of the list; ignore anything else that a browser may send."""
    if any(entry.prompt == prompt for entry in gallery(read_session().choice.model)):
        update_session(prompt=prompt)


def _imported(graph: AttributionGraph) -> None:
    """Say which model an imported graph is from: it is not the one that prompts would run on."""
    provenance = graph.provenance
    st.markdown("#### Open graph")
    facts = [f"**{plain(str(provenance.get('scan') or 'unknown model'))}**"]
    source = provenance.get("transcoder_set") or provenance.get("source_set")
    if source:
        facts.append(plain(short(str(source))))
    if provenance.get("tool"):
        facts.append(plain(f"created by {provenance['tool']}"))
    facts.append("imported: its model does not run here")
    st.markdown("  \n".join(facts))
    st.button(
        "Back to the prompts",
        key="sidebar close graph",
        on_click=update_session,
        kwargs={"graph": ""},
    )


def link_problems() -> None:
    """Say what of the visitor's link could not be shown, until it is closed."""
    read_session()  # the first run reads the link here
    problems: tuple[str, ...] = st.session_state.get(PROBLEMS, ())
    if not problems:
        return
    with st.container(horizontal=True, vertical_alignment="center", key="link problems"):
        st.warning(plain(" ".join(map(sentence, problems))), width="stretch")
        st.button("Close", key="close problems", on_click=_close_problems)


def _close_problems() -> None:
    st.session_state[PROBLEMS] = ()


def _choose_embedded(session: Session) -> None:
    """Draw the choice between the embedded models, if there is one."""
    names = [model.name for model in installed()]
    if len(names) < 2:
        return
    current = session.choice.model
    key = f"embedded model: {current}"
    st.segmented_control(
        "Embedded model",
        names,
        default=current if current in names else None,
        required=current in names,
        key=key,
        on_change=_embedded_chosen,
        args=(key, session.choice),
        help="Both are part of the app. Atlas knows 1,584 words and its facts are known; novels "
        "reads any English.",
    )


def _embedded_chosen(key: str, shown: ModelChoice) -> None:
    chosen = st.session_state.get(key)
    if chosen is not None and read_session().choice == shown:
        use_model(ModelChoice(chosen, EMBEDDED_SETS[0]))


def _choose_transcoders(session: Session) -> None:
    choice = session.choice
    sets, key = sets_of(choice), f"transcoders of {choice.model}: {choice.transcoders}"
    st.segmented_control(
        f"Transcoders for {short(choice.model)}",
        sets,
        format_func=short,
        default=choice.transcoders,
        required=True,
        key=key,
        on_change=_transcoders_chosen,
        args=(key, choice),
        help="Transcoders imitate the MLPs with sparse features, which become the nodes of the "
        "graph. A per-layer feature writes to its own layer only. A cross-layer feature also "
        "writes to all later layers, so a chain of copies becomes one node.",
    )


def _transcoders_chosen(key: str, shown: ModelChoice) -> None:
    # The event may belong to a control of another model, which a click elsewhere has replaced.
    chosen = st.session_state.get(key)
    if chosen is not None and read_session().choice == shown:
        update_session(choice=replace(shown, transcoders=chosen))


def _machine() -> None:
    try:
        backend = resources.backend()
    except StoreError as error:
        st.error(plain(sentence(error)))
        return
    if backend.store_problem:
        st.warning(plain(sentence(backend.store_problem)))
    choice = read_session().choice
    kind = "Embedded model" if embedded(choice.model) is not None else choice.model
    state = f"on {backend.device}" if backend.device and backend.library.opened else "not loaded"
    st.caption(plain(f"{short(kind)}, {state}"))
    diagnostics.panel()


def _work() -> None:
    """List what is running and waiting, and keep the list fresh while there is something."""
    try:
        backend = resources.backend()
    except StoreError:
        return  # said above
    if _jobs(backend):
        _running()


def _jobs(backend: Backend[Any]) -> list[Job[Any]]:
    jobs = [*backend.queue, *backend.library.downloads, *backend.imports]
    return [job for job in jobs if progress.is_active(job)]


@st.fragment(run_every=2 * progress.POLL)
def _running() -> None:
    jobs = _jobs(resources.backend())
    if not jobs:
        return
    st.markdown("#### Running")
    for job in jobs[:_LISTED]:
        done, total, doing = job.progress
        how_far = f" · {percent(done / total)}" if total > 1 else ""
        state = f"{doing}{how_far}" if job.state == "running" else "waiting"
        st.caption(plain(f"{truncate(job.title, 46)}: {state}"))
    if len(jobs) > _LISTED:
        st.caption(f"and {len(jobs) - _LISTED:,} more in the queue")
