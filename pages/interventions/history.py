"""Scenarios beyond this run: the history, other prompts, and exports."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Final

import streamlit as st

from cache import Job, ScenarioRequest, StoreError, TraceRequest
from charts.scenario_figures import outcome_sentence
from charts.scenario_tables import other_prompts_table, outcomes_table
from pages.shared import progress, resources
from pages.shared.escape import plain, sentence
from pages.shared.session import read_session, update_session, visitor_id
from tracer.catalog.embedded import gallery
from tracer.errors import TracerError
from tracer.graph.graph import AttributionGraph
from tracer.interventions.script import python_script

if TYPE_CHECKING:
    from tracer.interventions.run import ScenarioRun

_LAST: Final = "last remembered"
_LISTED: Final = 20


def remember(key: str, run: ScenarioRun) -> None:
    """Store the scenarios and their outcomes in the history of the trace ``key``."""
    session = read_session()
    last = (key, session.scenarios)
    if st.session_state.get(_LAST) == last:
        return
    outcomes = [
        "failed" if isinstance(outcome, TracerError) else outcome_sentence(run.baseline, outcome)
        for outcome in run.outcomes
    ]
    try:
        resources.backend().remember_run(key, session.scenarios, " ".join(outcomes))
    except StoreError as error:
        st.warning(plain(sentence(error)))
    st.session_state[_LAST] = last


def history(key: str) -> None:
    """Draw earlier runs on this trace, each with a button that restores it."""
    session = read_session()
    try:
        runs = resources.backend().runs(key)
    except StoreError as error:
        st.warning(plain(sentence(error)))
        return
    earlier = [run for run in runs if run.scenarios != session.scenarios]
    if not earlier:
        return
    with st.expander(f"Earlier runs on this prompt ({len(earlier)})", key="earlier runs"):
        for number, run in enumerate(earlier[:_LISTED]):
            names = ", ".join(scenario.name for scenario in run.scenarios)
            when = datetime.datetime.fromtimestamp(run.ran).strftime("%d %b %H:%M")
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(
                    f"**{plain(names)}** :gray[{plain(when)}]  \n{plain(run.summary)}",
                    width="stretch",
                )
                st.button(
                    "Restore",
                    key=f"run {number} {run.ran}",
                    on_click=update_session,
                    kwargs={"scenarios": run.scenarios},
                )


def export(run: ScenarioRun) -> None:
    """Draw downloads of the outcomes as a table and of the scenarios as a script."""
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
            "scenarios.csv",
            "text/csv",
            key="csv",
            on_click="ignore",
        )
        st.download_button(
            "Download as Python script",
            script,
            "scenarios.py",
            "text/x-python",
            key="script",
            on_click="ignore",
            help="Runs the same scenarios through the Python API.",
        )


def other_prompts(graph: AttributionGraph) -> None:
    """Run the same edits on other prompts, at positions matched from the end."""
    session = read_session()
    with st.expander("Run these scenarios on other prompts", key="others"):
        entries = gallery(session.choice.model)
        entry = next((entry for entry in entries if entry.prompt == session.prompt), None)
        prompts = [entry.prompt for entry in entries if entry.prompt != session.prompt]
        related = [e.prompt for e in entries if entry is not None and e.group == entry.group]
        chosen = st.multiselect(
            "Prompts",
            prompts,
            default=[prompt for prompt in related if prompt != session.prompt][:3],
            key=f"other prompts {session.prompt}",
            accept_new_options=True,
            help="Edits apply at the same number of tokens from the end. Steering strengths "
            "multiply a feature's activation on that prompt, so a feature that is inactive there "
            "stays inactive.",
        )
        if not chosen or not st.toggle("Run on these prompts", key="run others"):
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
            [(prompt, _outcome(run)) for prompt, run in zip(chosen, runs, strict=True)],
            [scenario.name for scenario in session.scenarios],
        )
        st.dataframe(table, hide_index=True, key="other outcomes")


def _moved(traced: Job[AttributionGraph], prompt: str, n_pos: int) -> Job[ScenarioRun] | str:
    """Run the session's scenarios on another prompt, whose trace is ``traced``; or say why not."""
    session = read_session()
    try:
        by = len(traced.result().tokens) - n_pos
        moved = tuple(scenario.moved(by) for scenario in session.scenarios)
    except TracerError as error:
        return sentence(error)
    return resources.backend().scenarios(
        ScenarioRequest(prompt, moved, session.choice), visitor_id()
    )


def _outcome(run: Job[ScenarioRun] | str) -> ScenarioRun | str:
    try:
        return run if isinstance(run, str) else run.result()
    except TracerError as error:
        return sentence(error)
