"""Columns as a recipe: what was run before, the same on other prompts, and out of the app."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import streamlit as st

from cache import Job, ScenarioRequest, StoreError, TraceRequest
from charts.scenario_figures import outcome_sentence
from charts.scenario_tables import other_prompts_table, outcomes_table
from pages.shared import progress, resources
from pages.shared.escape import plain
from pages.shared.session import read_session, update_session, visitor_id
from tracer.atlas.gallery import gallery
from tracer.errors import TracerError
from tracer.graph.graph import AttributionGraph
from tracer.interventions.script import python_script

if TYPE_CHECKING:
    from tracer.interventions.run import ScenarioRun


def remember(key: str, run: ScenarioRun) -> None:
    """Keep the columns in the trace's history, with what came out."""
    session = read_session()
    last = (key, session.scenarios)
    if st.session_state.get("last remembered") == last:
        return
    said = [
        "failed" if isinstance(outcome, TracerError) else outcome_sentence(run.baseline, outcome)
        for outcome in run.outcomes
    ]
    try:
        resources.backend().remember_run(key, session.scenarios, " ".join(said))
    except StoreError as error:
        st.warning(plain(str(error)))
    st.session_state["last remembered"] = last


def history(key: str) -> None:
    """Earlier runs on this trace, each one click away."""
    session = read_session()
    try:
        runs = resources.backend().runs(key)
    except StoreError as error:
        st.warning(plain(str(error)))
        return
    earlier = [run for run in runs if run.scenarios != session.scenarios]
    if not earlier:
        return
    with st.expander(f"Earlier runs on this prompt ({len(earlier)})", key="earlier runs"):
        for number, run in enumerate(earlier[:20]):
            names = ", ".join(scenario.name for scenario in run.scenarios)
            when = datetime.datetime.fromtimestamp(run.ran).strftime("%d %b %H:%M")
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(
                    f"**{plain(names)}** :gray[{plain(when)}]  \n{plain(run.said)}",
                    width="stretch",
                )
                st.button(
                    "Bring back",
                    key=f"run {number} {run.ran}",
                    on_click=update_session,
                    kwargs={"scenarios": run.scenarios},
                )


def export(run: ScenarioRun) -> None:
    """The outcomes as a table, the scenarios as a script."""
    session = read_session()
    options = session.run
    script = python_script(
        session.choice.model,
        session.choice.transcoders,
        session.prompt,
        session.scenarios,
        options.generate,
        options.temperature,
        options.seed,
        session.choice.dtype,
    )
    with st.container(horizontal=True):
        st.download_button(
            "Download as CSV",
            outcomes_table(run).to_csv(index=False),
            "what-ifs.csv",
            "text/csv",
            key="csv",
            on_click="ignore",
        )
        st.download_button(
            "Download as Python script",
            script,
            "what_ifs.py",
            "text/x-python",
            key="script",
            on_click="ignore",
            help="Runs the same what-ifs through the public API.",
        )


def other_prompts(graph: AttributionGraph) -> None:
    """The same edits on other prompts, places counted from the end."""
    session = read_session()
    with st.expander("Try these columns on other prompts", key="others"):
        here = next((entry for entry in gallery() if entry.prompt == session.prompt), None)
        prompts = [entry.prompt for entry in gallery() if entry.prompt != session.prompt]
        alike = [e.prompt for e in gallery() if here is not None and e.group == here.group]
        chosen = st.multiselect(
            "Prompts",
            prompts,
            default=[prompt for prompt in alike if prompt != session.prompt][:3],
            key=f"other prompts {session.prompt}",
            accept_new_options=True,
            help="Edits stand as many tokens from the end as they do here. Multiples count from "
            "what a feature does on that prompt: a feature that is silent there stays silent.",
        )
        if not chosen or not st.toggle("Run them", key="run others"):
            return
        backend = resources.backend()
        jobs = [
            backend.trace(TraceRequest(prompt, session.choice), visitor_id()) for prompt in chosen
        ]
        progress.wait_for_all(jobs, "other prompts", "Tracing the other prompts", finish=True)
        runs = [
            _moved(job, prompt, len(graph.tokens)) for job, prompt in zip(jobs, chosen, strict=True)
        ]
        moved = [run for run in runs if isinstance(run, Job)]
        progress.wait_for_all(moved, "scenarios on other prompts", "Running the scenarios")
        table = other_prompts_table(
            [(prompt, _came_out(run)) for prompt, run in zip(chosen, runs, strict=True)],
            [scenario.name for scenario in session.scenarios],
        )
        st.dataframe(table, hide_index=True, key="other outcomes")


def _moved(traced: Job[AttributionGraph], prompt: str, n_pos: int) -> Job[ScenarioRun] | str:
    """The session's scenarios, moved to another prompt of which ``traced`` is the trace; or why
    they cannot be."""
    session = read_session()
    try:
        by = len(traced.result().tokens) - n_pos
        moved = tuple(scenario.moved(by) for scenario in session.scenarios)
    except TracerError as error:
        return str(error)
    return resources.backend().scenarios(
        ScenarioRequest(prompt, moved, session.choice), visitor_id()
    )


def _came_out(run: Job[ScenarioRun] | str) -> ScenarioRun | str:
    try:
        return run if isinstance(run, str) else run.result()
    except TracerError as error:
        return str(error)
