"""The Interventions page's frame: the prompt, how to add a what-if, the columns, what follows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from cache import ScenarioRequest
from charts.graph_view import GraphView
from charts.groups import Group, feature_groups, own_groups
from charts.palette import palette
from charts.wording import percent, token_text
from pages import (
    _columns,
    _experiments,
    _graph,
    _pins,
    _prompt,
    _recipes,
    _resources,
    _scenario_editor,
    _session,
    _waiting,
)
from pages._text import plain
from tracer.errors import TracerError
from tracer.scenarios import Scenario
from tracer.types import NodeId

if TYPE_CHECKING:
    from tracer.interventions import ScenarioRun

"""Seconds that scenarios are waited for; they are a few forward passes."""


def draw() -> None:
    """Draw the page for the session as it stands."""
    job = _prompt.traced()
    if job is None:
        _session.mirror()
        return
    if _resources.is_imported(job.result()):
        _session.mirror()
        _no_model()
        return
    _pins.sync(job.key)
    _session.mirror()
    graph, session = job.result(), _session.read()
    theme = palette(st.context.theme.type)
    view = _graph.view(session, _resources.pruned_graph(job.key, session.thresholds))
    own = own_groups(view, session.supernodes)
    groups = (*own, *feature_groups(view))
    first = graph.next_tokens[0]
    st.markdown(
        f"{plain(graph.prompt)} **{plain(token_text(first.token))}** "
        f":gray[{percent(first.probability)}]"
    )
    st.caption(
        "A graph is a hypothesis; here it is tested. Change features in one or several columns, "
        "and see what the model would have said in each, beside what it says unchanged."
    )
    _scenario_editor.draw(graph, groups)
    if session.scenarios:
        followed = _options(view)
        watched = tuple(group for group in own if _is_marked(group, view))
        options = session.run
        run = _run(
            session.scenarios,
            watch=tuple(dict.fromkeys(node for group in watched for node in group.nodes)),
            generate=options.generate,
            temperature=options.temperature,
            seed=options.seed,
        )
        if run is not None:
            _columns.draw(run, graph, watched, followed, theme)
            _recipes.remember(job.key, run)
            _recipes.export(run)
            _recipes.other_prompts(graph)
    _recipes.history(job.key)
    if session.scenarios:
        _experiments.sweep(groups, _run, theme)
    _experiments.switch_off_in_turn(view, _run, theme)


def _no_model() -> None:
    """What to do with a graph that nothing can be tried on."""
    st.info(
        "This graph was imported: there is no model behind it that could be run with a feature "
        "changed. Close it to try what-ifs on a prompt of your own, or look at it on the Trace "
        "page."
    )
    if st.button("Look at it on the Trace page", key="to trace", type="primary"):
        st.switch_page(Path(__file__).with_name("trace.py"))


def _is_marked(group: Group, view: GraphView) -> bool:
    """A person's own group; the selected node alone is none."""
    return all(node in view.pinned for node in group.nodes)


def _run(
    scenarios: tuple[Scenario, ...],
    watch: tuple[NodeId, ...] = (),
    generate: int = 0,
    temperature: float = 0.0,
    seed: int = 0,
) -> ScenarioRun | None:
    """The outcomes; None when an error or a note has been drawn in their place."""
    session = _session.read()
    request = ScenarioRequest(
        session.prompt, scenarios, session.choice, generate, watch, temperature, seed
    )
    job = _resources.backend().scenarios(request)
    _waiting.wait_for(job)
    try:
        return job.result()
    except TracerError as error:
        st.error(plain(str(error)))
        return None


def _options(view: GraphView) -> _columns.Followed:
    """What holds for all columns; the token that is followed, if there is one."""
    options = _session.read().run
    follow, length, random, seed = st.columns([1.4, 1, 1, 0.8], gap="medium", border=False)
    _session.show_text("follow", options.follow)
    follow.text_input(
        "Follow the probability of",
        key="follow",
        placeholder="a token, for example Sacramento",
        on_change=_option_changed,
        args=("follow", "follow"),
    )
    _session.show("generate", options.generate)
    length.slider(
        "Tokens to go on by",
        0,
        _session.MOST_GENERATED,
        key="generate",
        on_change=_option_changed,
        args=("generate", "generate"),
    )
    _session.show("temperature", options.temperature)
    random.slider(
        "Temperature",
        0.0,
        _session.MOST_RANDOM,
        step=0.1,
        key="temperature",
        on_change=_option_changed,
        args=("temperature", "temperature"),
        help="0: the likeliest token each time. Above: drawn at random, with the same random "
        "numbers in every column, so that a difference comes from the edits.",
    )
    _session.show("seed", options.seed)
    seed.number_input(
        "Seed",
        0,
        2**31 - 1,
        key="seed",
        on_change=_option_changed,
        args=("seed", "seed"),
        disabled=options.temperature == 0,
    )
    return _followed(options.follow)


def _option_changed(name: str, key: str) -> None:
    value = st.session_state[key]
    if name == "follow":
        value = value.strip()
    _session.write(run=replace(_session.read().run, **{name: value}))


def _followed(text: str) -> _columns.Followed:
    """The token a person named: with a space before it, as in the middle of a text, or without."""
    if not text:
        return None
    error: TracerError | None = None
    for candidate in (f" {text}", text):
        job = _resources.backend().token(_session.read().choice, candidate)
        _waiting.wait_for(job)
        try:
            return job.result(), candidate
        except TracerError as refused:
            error = refused
    st.warning(plain(str(error)))
    return None
