"""The what-ifs as columns beside the unchanged model: what each says, and how to change it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import streamlit as st

from charts.edit_groups import EditGroup, Group, edit_groups, edit_line
from charts.palette import Palette
from charts.scenario_figures import (
    activation_figure,
    continuation_parts,
    outcome_figure,
    outcome_sentence,
    shared_tokens,
)
from charts.text import percent, token_text
from pages.shared import resources
from pages.shared.escape import plain
from pages.shared.session import read_session, set_widget
from pages.shared.session_actions import arrange_scenario, change_scenario
from tracer.errors import TracerError
from tracer.graph.graph import AttributionGraph
from tracer.interventions.scenario import Edit, Scenario
from tracer.types import FeatureId, NodeId

if TYPE_CHECKING:
    from tracer.interventions.run import Outcome, ScenarioRun

_PER_ROW: Final = 3
_STATIC: Final = {"displayModeBar": False, "staticPlot": False}
STRONGEST_PUSH: Final = 6.0
Followed = tuple[int, str] | None
"""Id and text of the token that is watched in every column."""


def draw(
    run: ScenarioRun,
    graph: AttributionGraph,
    watched: tuple[Group, ...],
    followed: Followed,
    theme: Palette,
) -> None:
    """The unchanged model first, then every scenario; the same tokens in the same places."""
    scenarios = read_session().scenarios
    good = [outcome for outcome in run.outcomes if not isinstance(outcome, TracerError)]
    tokens = shared_tokens([run.baseline, *good])
    if followed is not None and followed not in tokens:
        tokens = [*tokens, followed]
    numbers = list(range(-1, len(scenarios)))
    for start in range(0, len(numbers), _PER_ROW):
        columns = st.columns(_PER_ROW)
        for column, number in zip(columns, numbers[start : start + _PER_ROW], strict=False):
            with column, st.container(border=True, height="stretch"):
                if number < 0:
                    _baseline(run.baseline, tokens, followed, theme)
                else:
                    _column(number, run, graph, tokens, watched, followed, theme)


def name_of(feature: FeatureId) -> str | None:
    """What a feature of the session's model is called."""
    return resources.feature_name(read_session().choice, feature)


def _baseline(
    baseline: Outcome, tokens: list[tuple[int, str]], followed: Followed, theme: Palette
) -> None:
    st.markdown("##### Baseline")
    st.caption("What the model says.")
    figure = outcome_figure(baseline, None, tokens, theme)
    st.plotly_chart(figure, key="baseline", theme=None, config=_STATIC)
    if followed is not None:
        share = percent(baseline.probability(followed[0]))
        st.caption(plain(f"Probability of {token_text(followed[1])}: {share}"))
    _continuation(baseline)


def _column(
    number: int,
    run: ScenarioRun,
    graph: AttributionGraph,
    tokens: list[tuple[int, str]],
    watched: tuple[Group, ...],
    followed: Followed,
    theme: Palette,
) -> None:
    scenario, outcome = read_session().scenarios[number], run.outcomes[number]
    groups = edit_groups(scenario, graph, name_of)
    st.markdown(f"##### {plain(scenario.name)}")
    st.caption("  \n".join(plain(edit_line(group)) for group in groups))
    if isinstance(outcome, TracerError):
        st.error(plain(str(outcome)))
    else:
        figure = outcome_figure(run.baseline, outcome, tokens, theme)
        st.plotly_chart(figure, key=f"column {number}", theme=None, config=_STATIC)
        st.markdown(plain(outcome_sentence(run.baseline, outcome)))
        facts = f"KL divergence {outcome.kl:.3f} nats"
        if followed is not None:
            before, after = run.baseline.probability(followed[0]), outcome.probability(followed[0])
            facts += f" · {token_text(followed[1])} {percent(before)} → {percent(after)}"
        st.caption(plain(facts))
        _continuation(outcome)
        _watched(number, watched, run.baseline, outcome, theme)
    _buttons(number, scenario, groups, graph.n_layers)


def _continuation(outcome: Outcome) -> None:
    if not outcome.continuation_tokens:
        return
    same, parts, rest = continuation_parts(outcome)
    text = f"… {plain(same)}"
    if parts:
        text += f" :orange-background[{plain(parts.strip())}]{plain(rest)}"
    st.markdown(f":gray[goes on:] {text}")


def _watched(
    number: int, watched: tuple[Group, ...], baseline: Outcome, outcome: Outcome, theme: Palette
) -> None:
    """What became of the pinned features: unless this run was asked before they were pinned."""
    groups: dict[str, tuple[NodeId, ...]] = {
        group.name: group.nodes
        for group in watched
        if all(node in outcome.activations for node in group.nodes)
    }
    if groups:
        st.caption("What is left of your pins' activation")
        figure = activation_figure(groups, baseline, outcome, theme)
        st.plotly_chart(figure, key=f"pins {number}", theme=None, config=_STATIC)


def _buttons(number: int, scenario: Scenario, groups: tuple[EditGroup, ...], n_layers: int) -> None:
    set_widget(f"attention {number}", scenario.freeze_attention)
    st.toggle(
        "Attention held",
        key=f"attention {number}",
        on_change=change_scenario,
        args=(number, scenario, replace(scenario, freeze_attention=not scenario.freeze_attention)),
        help="Keep every attention pattern as it is without the edits, as the graph does.",
    )
    with st.container(horizontal=True):
        # Filled only when open: what a closed one holds is not there to be told its value.
        change = st.popover("Change", key=f"change {number}", on_change="rerun")
        if change.open:
            with change:
                _change(number, scenario, groups, n_layers)
        with st.popover("Rename", key=f"rename {number}"):
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
                on_click=arrange_scenario,
                args=(number, scenario, step),
            )


def _renamed(number: int, scenario: Scenario, key: str) -> None:
    name = str(st.session_state[key]).strip() or scenario.name
    change_scenario(number, scenario, replace(scenario, name=name))


def _change(number: int, scenario: Scenario, groups: tuple[EditGroup, ...], n_layers: int) -> None:
    """Strength of every edit, and what is held still."""
    for place, group in enumerate(groups):
        key = f"strength {number} {place}"
        if group.operation == "scale":
            set_widget(key, max(-STRONGEST_PUSH, min(STRONGEST_PUSH, group.value)))
            st.slider(
                plain(f"{group.name} at “{group.token}”, times its activation"),
                -STRONGEST_PUSH,
                STRONGEST_PUSH,
                step=0.25,
                key=key,
                on_change=_pushed,
                args=(number, scenario, group, key),
            )
        else:
            st.caption(plain(edit_line(group)))
        st.button(
            "Leave alone",
            key=f"drop {number} {place}",
            on_click=_dropped,
            args=(number, scenario, group),
            disabled=len(groups) == 1,
        )
    set_widget(f"norms {number}", scenario.freeze_norms)
    st.toggle(
        "Norms held",
        key=f"norms {number}",
        on_change=change_scenario,
        args=(number, scenario, replace(scenario, freeze_norms=not scenario.freeze_norms)),
        help="Keep the scale of every norm as it is without the edits. With attention held too, "
        "only the MLPs answer: what the graph's edges speak of.",
    )
    every = tuple(range(n_layers)) if scenario.constrained_layers is None else None
    set_widget(f"constrained {number}", scenario.constrained_layers is not None)
    st.toggle(
        "Direct effects only",
        key=f"constrained {number}",
        on_change=change_scenario,
        args=(number, scenario, replace(scenario, constrained_layers=every)),
        help="Hold every MLP and norm: each edit reaches the answer along its own edges only.",
    )


def _pushed(number: int, scenario: Scenario, group: EditGroup, key: str) -> None:
    """Of the scenario as it is now: under a key held down it has moved on since it was drawn."""
    now = read_session().scenarios[number : number + 1]
    if not now or list(map(_where, now[0].edits)) != list(map(_where, scenario.edits)):
        return  # another column by now
    value, chosen = float(st.session_state[key]), set(map(_where, group.edits))
    edits = tuple(
        replace(edit, value=value) if _where(edit) in chosen else edit for edit in now[0].edits
    )
    change_scenario(number, now[0], replace(now[0], edits=edits))


def _where(edit: Edit) -> Edit:
    """The edit but for how strong it is."""
    return replace(edit, value=0.0)


def _dropped(number: int, scenario: Scenario, group: EditGroup) -> None:
    edits = tuple(edit for edit in scenario.edits if edit not in group.edits)
    change_scenario(number, scenario, replace(scenario, edits=edits))
