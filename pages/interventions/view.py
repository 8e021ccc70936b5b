"""The layout of the Interventions page: prompt, editor, columns, history, experiments."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import streamlit as st

from cache import ScenarioRequest
from charts.edit_groups import Group, feature_groups, own_groups
from charts.graph_view import GraphView
from charts.palette import palette
from charts.text import percent, token_text
from pages.interventions import columns, editor, experiments, history
from pages.shared import progress, prompt_bar, resources
from pages.shared.annotations_sync import sync_annotations
from pages.shared.escape import plain, sentence
from pages.shared.graph_view import session_view
from pages.shared.navigation import page_script
from pages.shared.session import (
    heard,
    mirror_to_url,
    read_session,
    set_text_widget,
    set_widget,
    update_session,
    visitor_id,
)
from pages.shared.session_state import MOST_GENERATED, MOST_RANDOM
from tracer.errors import TracerError
from tracer.interventions.scenario import Scenario
from tracer.types import NodeId

if TYPE_CHECKING:
    from tracer.interventions.run import ScenarioRun


def draw() -> None:
    """Draw the page for the current session."""
    job = prompt_bar.traced()
    if job is None:
        mirror_to_url()
        return
    if resources.is_imported(job.result()):
        mirror_to_url()
        _no_model()
        return
    sync_annotations(job.key)
    mirror_to_url()
    graph, session = job.result(), read_session()
    theme = palette(st.context.theme.type)
    view = session_view(session, resources.pruned_graph(job.key, session.thresholds))
    own = own_groups(view, session.supernodes)
    groups = (*own, *feature_groups(view))
    first = graph.next_tokens[0]
    st.markdown(
        f"{plain(graph.prompt)} **{plain(token_text(first.token))}** "
        f":gray[{percent(first.probability)}]"
    )
    st.caption(
        "A graph is a hypothesis about the model; test it here. Each column is a scenario: edit "
        "some features, and compare what the model predicts with the baseline."
    )
    editor.draw(job.key, view, groups)
    if session.scenarios:
        tracked = _options()
        watched = tuple(group for group in own if _is_pinned(group, view))
        options = session.run
        run = _run(
            session.scenarios,
            "scenarios",
            watch=tuple(dict.fromkeys(node for group in watched for node in group.nodes)),
            generate=options.generate,
            temperature=options.temperature,
            seed=options.seed,
        )
        if run is not None:
            columns.draw(run, graph, watched, tracked, theme)
            history.remember(job.key, run)
            history.export(run)
            history.other_prompts(graph)
    history.history(job.key)
    if session.scenarios:
        experiments.sweep(groups, _run, theme)
    experiments.check_faithfulness(view, _run, theme)


def _no_model() -> None:
    """Say why nothing can be run on an imported graph."""
    st.info(
        "This graph was imported without its model, so its features cannot be edited. Close it to "
        "run scenarios on a prompt of your own, or view it on the Trace page."
    )
    if st.button("View on the Trace page", key="to trace", type="primary"):
        st.switch_page(page_script("trace"))


def _is_pinned(group: Group, view: GraphView) -> bool:
    """Return whether all nodes of a group are pinned; the selected node alone need not be."""
    return all(node in view.pinned for node in group.nodes)


def _run(
    scenarios: tuple[Scenario, ...],
    slot: str,
    watch: tuple[NodeId, ...] = (),
    generate: int = 0,
    temperature: float = 0.0,
    seed: int = 0,
) -> ScenarioRun | None:
    """Run scenarios on the session's prompt; draw the error and return None if that fails."""
    session = read_session()
    request = ScenarioRequest(
        session.prompt, scenarios, session.choice, generate, watch, temperature, seed
    )
    job = resources.backend().scenarios(request, visitor_id())
    progress.wait_for(job, slot)
    try:
        return job.result()
    except TracerError as error:
        st.error(plain(sentence(error)))
        return None


def _options() -> columns.Tracked:
    """Draw the options of all columns; return the tracked token, if there is one."""
    options = read_session().run
    track, length, random, seed = st.columns([1.4, 1, 1, 0.8], gap="medium", border=False)
    set_text_widget("follow", options.follow)
    track.text_input(
        "Track token",
        key="follow",
        placeholder="for example: Sacramento",
        on_change=heard("follow", _option_changed),
        args=("follow", "follow"),
        help="Shows the probability of this token in every column.",
    )
    set_widget("generate", options.generate)
    length.slider(
        "Tokens to generate",
        0,
        MOST_GENERATED,
        key="generate",
        on_change=heard("generate", _option_changed),
        args=("generate", "generate"),
        help="Length of the continuation shown in every column.",
    )
    set_widget("temperature", options.temperature)
    random.slider(
        "Temperature",
        0.0,
        MOST_RANDOM,
        step=0.1,
        key="temperature",
        on_change=heard("temperature", _option_changed),
        args=("temperature", "temperature"),
        help="0 always takes the most likely token. Above 0, tokens are sampled with the same "
        "random numbers in every column, so that differences come from the edits.",
    )
    set_widget("seed", options.seed)
    seed.number_input(
        "Seed",
        0,
        2**31 - 1,
        key="seed",
        on_change=heard("seed", _option_changed),
        args=("seed", "seed"),
        disabled=options.temperature == 0,
        help="Seed for sampling; used at temperatures above 0.",
    )
    return _tracked_token(options.follow)


def _option_changed(name: str, key: str) -> None:
    value = st.session_state[key]
    if name == "follow":
        value = value.strip()
    update_session(run=replace(read_session().run, **{name: value}))


def _tracked_token(text: str) -> columns.Tracked:
    """Return the token the visitor typed, with a leading space as within a text, or without."""
    if not text:
        return None
    error: TracerError | None = None
    for candidate in (f" {text}", text):
        job = resources.backend().token(read_session().choice, candidate, visitor_id())
        progress.wait_for(job, "tracked token")
        try:
            return job.result(), candidate
        except TracerError as refused:
            error = refused
    if error is not None:
        st.warning(plain(sentence(error)))
    return None
