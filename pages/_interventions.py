"""The Interventions page's frame: the prompt, how to add a what-if, and the columns."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import streamlit as st

from cache import ScenarioRequest
from charts.groups import Group, edit_lines, feature_groups, group_of
from charts.palette import Palette, palette
from charts.scenario_figures import (
    continuation_parts,
    dose_figure,
    outcome_figure,
    outcome_sentence,
    shared_tokens,
)
from charts.wording import percent, token_text
from pages import _graph, _prompt, _resources, _scenario_editor, _session
from pages._text import plain
from tracer.errors import TracerError
from tracer.graph import AttributionGraph
from tracer.scenarios import Scenario
from tracer.types import FeatureId

if TYPE_CHECKING:
    from tracer.interventions import Outcome, ScenarioRun

_GENERATED: Final = 6
_PER_ROW: Final = 3
_WAIT: Final = 20.0
"""Seconds that scenarios are waited for; they are a few forward passes."""
_STATIC = {"displayModeBar": False, "staticPlot": False}
_FACTORS: Final = tuple(1 - step * 0.5 for step in range(11))
"""Of a sweep: from the features as they are, through off, to four times against them."""


def draw() -> None:
    """Draw the page for the session as it stands."""
    _session.mirror()
    job = _prompt.traced()
    if job is None:
        return
    graph, session = job.result(), _session.read()
    theme = palette(st.context.theme.type)
    view = _graph.view(session, _resources.pruned_graph(job.key, session.thresholds))
    groups = feature_groups(view)
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
    if not session.scenarios:
        return
    run = _run(session.scenarios)
    if run is not None:
        _columns(run, graph, theme)
    _sweep(groups, theme)


def _run(scenarios: tuple[Scenario, ...], generate: int = _GENERATED) -> ScenarioRun | None:
    """The outcomes; None when an error or a note has been drawn in their place."""
    session = _session.read()
    request = ScenarioRequest(session.prompt, scenarios, session.choice, generate)
    job = _resources.backend().scenarios(request)
    if not job.wait(_WAIT):
        st.info("Still working: the columns appear when the page is drawn again.")
        return None
    try:
        return job.result()
    except TracerError as error:
        st.error(plain(str(error)))
        return None


def _columns(run: ScenarioRun, graph: AttributionGraph, theme: Palette) -> None:
    scenarios = _session.read().scenarios
    good = [outcome for outcome in run.outcomes if not isinstance(outcome, TracerError)]
    tokens = shared_tokens([run.baseline, *good])
    numbers = list(range(-1, len(scenarios)))
    for start in range(0, len(numbers), _PER_ROW):
        columns = st.columns(_PER_ROW)
        for column, number in zip(columns, numbers[start : start + _PER_ROW], strict=False):
            with column, st.container(border=True, height="stretch"):
                if number < 0:
                    _baseline(run.baseline, tokens, theme)
                else:
                    _column(number, run, graph, tokens, theme)


def _name_of(feature: FeatureId) -> str | None:
    return _resources.feature_name(_session.read().choice, feature)


def _baseline(baseline: Outcome, tokens: list[tuple[int, str]], theme: Palette) -> None:
    st.markdown("##### Unchanged")
    st.caption("What the model says.")
    figure = outcome_figure(baseline, None, tokens, theme)
    st.plotly_chart(figure, key="baseline", theme=None, config=_STATIC)
    _continuation(baseline)


def _column(
    number: int,
    run: ScenarioRun,
    graph: AttributionGraph,
    tokens: list[tuple[int, str]],
    theme: Palette,
) -> None:
    scenario, outcome = _session.read().scenarios[number], run.outcomes[number]
    st.markdown(f"##### {plain(scenario.name)}")
    st.caption("  \n".join(plain(line) for line in edit_lines(scenario, graph, _name_of)))
    if isinstance(outcome, TracerError):
        st.error(plain(str(outcome)))
    else:
        figure = outcome_figure(run.baseline, outcome, tokens, theme)
        st.plotly_chart(figure, key=f"column {number}", theme=None, config=_STATIC)
        st.markdown(plain(outcome_sentence(run.baseline, outcome)))
        st.caption(f"KL divergence {outcome.kl:.3f} nats")
        _continuation(outcome)
    _column_buttons(number, scenario)


def _continuation(outcome: Outcome) -> None:
    same, parts, rest = continuation_parts(outcome)
    text = f"… {plain(same)}"
    if parts:
        text += f" :orange-background[{plain(parts.strip())}]{plain(rest)}"
    st.markdown(f":gray[goes on:] {text}")


def _column_buttons(number: int, scenario: Scenario) -> None:
    # Set, not defaulted: the browser remembers what was last done to a widget of this key.
    st.session_state[f"attention {number}"] = scenario.freeze_attention
    st.toggle(
        "Attention held",
        key=f"attention {number}",
        on_change=_session.change_scenario,
        args=(number, scenario, replace(scenario, freeze_attention=not scenario.freeze_attention)),
        help="Keep every attention pattern as it is without the edits, as the graph does.",
    )
    with st.container(horizontal=True):
        with st.popover("Rename"):
            st.text_input(
                "Name",
                value=scenario.name,
                key=f"name {number} {scenario.name}",
                on_change=_renamed,
                args=(number, scenario, f"name {number} {scenario.name}"),
            )
        for label, step, help_text in (
            ("Duplicate", "duplicate", "Another column with the same edits"),
            ("◀", "left", "Move to the left"),
            ("Remove", "remove", "Delete this column"),
        ):
            st.button(
                label,
                key=f"{step} {number}",
                help=help_text,
                on_click=_session.arrange_scenario,
                args=(number, scenario, step),
            )


def _renamed(number: int, scenario: Scenario, key: str) -> None:
    name = str(st.session_state[key]).strip() or scenario.name
    _session.change_scenario(number, scenario, replace(scenario, name=name))


def _sweep(groups: tuple[Group, ...], theme: Palette) -> None:
    """One group, from as it is to pushed against: where does the answer flip?"""
    st.markdown("#### How hard must one push?")
    name = st.selectbox(
        "Group of features",
        [group.name for group in groups],
        key="swept group",
        help="All features of the group are set to the same multiple of their activation.",
    )
    group = group_of(groups, name) if name else None
    if group is None:
        return
    steps = tuple(
        Scenario(f"{factor:g}×", _scenario_editor.scale(group, factor)) for factor in _FACTORS
    )
    swept = _run(steps, generate=0)
    if swept is None:
        return
    outcomes = [outcome for outcome in swept.outcomes if not isinstance(outcome, TracerError)]
    if len(outcomes) < len(steps):
        st.error("The model answers with numbers that are not finite at some of the strengths.")
        return
    tokens = shared_tokens([swept.baseline, *outcomes], limit=5)
    figure = dose_figure(_FACTORS, outcomes, tokens, theme)
    st.plotly_chart(figure, key="sweep", theme=None, config=_STATIC)
