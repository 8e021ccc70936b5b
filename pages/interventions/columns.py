"""Scenarios as columns next to the baseline: their outcomes, and how to change them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import streamlit as st

from charts.edit_groups import EditGroup, Group, edit_groups, edit_line, head_line
from charts.palette import Palette
from charts.scenario_figures import (
    activation_figure,
    continuation_parts,
    outcome_figure,
    outcome_sentence,
    shared_tokens,
)
from charts.text import percent, token_text
from pages.interventions import heads
from pages.shared import resources
from pages.shared.escape import plain, sentence
from pages.shared.graph_component import draw_chart
from pages.shared.session import heard, read_session, set_widget
from pages.shared.session_actions import arrange_scenario, change_scenario
from tracer.errors import TracerError
from tracer.graph.graph import AttributionGraph
from tracer.interventions.scenario import Edit, Scenario
from tracer.types import FeatureId, NodeId

if TYPE_CHECKING:
    from tracer.interventions.run import Outcome, ScenarioRun

_PER_ROW: Final = 3
MAX_STRENGTH: Final = 6.0
Tracked = tuple[int, str] | None
"""Id and text of the token whose probability is shown in every column."""


def draw(
    run: ScenarioRun,
    graph: AttributionGraph,
    watched: tuple[Group, ...],
    tracked: Tracked,
    theme: Palette,
) -> None:
    """Draw the baseline, then every scenario, with the same tokens in the same places."""
    scenarios = read_session().scenarios
    good = [outcome for outcome in run.outcomes if not isinstance(outcome, TracerError)]
    tokens = shared_tokens([run.baseline, *good])
    if tracked is not None and tracked not in tokens:
        tokens = [*tokens, tracked]
    numbers = list(range(-1, len(scenarios)))
    for start in range(0, len(numbers), _PER_ROW):
        columns = st.columns(_PER_ROW)
        for column, number in zip(columns, numbers[start : start + _PER_ROW], strict=False):
            with column, st.container(border=True, height="stretch"):
                if number < 0:
                    _baseline(run.baseline, tokens, tracked, theme)
                else:
                    _column(number, run, graph, tokens, watched, tracked, theme)


def name_of(feature: FeatureId) -> str | None:
    """Return the display name of a feature of the session's model."""
    return resources.feature_name(read_session().choice, feature)


def _baseline(
    baseline: Outcome, tokens: list[tuple[int, str]], tracked: Tracked, theme: Palette
) -> None:
    st.markdown("##### Baseline")
    st.caption("The model without edits.")
    figure = outcome_figure(baseline, None, tokens, theme)
    draw_chart(figure, "baseline")
    if tracked is not None:
        share = percent(baseline.probability(tracked[0]))
        st.caption(plain(f"Probability of {token_text(tracked[1])}: {share}"))
    _continuation(baseline)


def _column(
    number: int,
    run: ScenarioRun,
    graph: AttributionGraph,
    tokens: list[tuple[int, str]],
    watched: tuple[Group, ...],
    tracked: Tracked,
    theme: Palette,
) -> None:
    scenario, outcome = read_session().scenarios[number], run.outcomes[number]
    groups = edit_groups(scenario, graph, name_of)
    st.markdown(f"##### {plain(scenario.name)}")
    lines = [edit_line(group) for group in groups]
    lines += [head_line(edit, graph.tokens) for edit in scenario.head_edits]
    st.caption("  \n".join(map(plain, lines)))
    if isinstance(outcome, TracerError):
        st.error(plain(sentence(outcome)))
    else:
        figure = outcome_figure(run.baseline, outcome, tokens, theme)
        draw_chart(figure, f"column {number}")
        st.markdown(plain(outcome_sentence(run.baseline, outcome)))
        facts = f"KL divergence {outcome.kl:.3f} nats"
        if tracked is not None:
            before, after = run.baseline.probability(tracked[0]), outcome.probability(tracked[0])
            facts += f" · {token_text(tracked[1])} {percent(before)} → {percent(after)}"
        st.caption(
            plain(facts),
            help="KL divergence measures how far the edits move the next-token distribution away "
            "from the baseline; 0 means no change.",
        )
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
    st.markdown(f":gray[Continuation:] {text}")


def _watched(
    number: int, watched: tuple[Group, ...], baseline: Outcome, outcome: Outcome, theme: Palette
) -> None:
    """Draw the remaining activation of pinned features, if they were pinned before this run."""
    groups: dict[str, tuple[NodeId, ...]] = {
        group.name: group.nodes
        for group in watched
        if all(node in outcome.activations for node in group.nodes)
    }
    if groups:
        st.caption("Remaining activation of pinned features")
        figure = activation_figure(groups, baseline, outcome, theme)
        draw_chart(figure, f"pins {number}")


def _buttons(number: int, scenario: Scenario, groups: tuple[EditGroup, ...], n_layers: int) -> None:
    set_widget(f"attention {number}", scenario.freeze_attention)
    st.toggle(
        "Freeze attention",
        key=f"attention {number}",
        on_change=heard(f"attention {number}", change_scenario),
        args=(number, scenario, replace(scenario, freeze_attention=not scenario.freeze_attention)),
        help="Keep the attention patterns of the unedited prompt, as the attribution graph does.",
    )
    with st.container(horizontal=True):
        # Drawn only when open: a closed popover does not take the values of its widgets.
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
            ("Duplicate", "duplicate", "Add a column with the same edits"),
            ("◀", "left", "Move left"),
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
    """Draw the steering strength of every edit, and what is frozen."""
    for place, group in enumerate(groups):
        key = f"strength {number} {place}"
        st.caption(plain(edit_line(group)))
        if group.operation == "scale":
            set_widget(key, max(-MAX_STRENGTH, min(MAX_STRENGTH, group.value)))
            st.slider(
                "Edit strength (× activation)",
                -MAX_STRENGTH,
                MAX_STRENGTH,
                step=0.25,
                key=key,
                on_change=heard(key, _strength_moved),
                args=(number, scenario, group, key),
                help="0 switches the features off, 1 leaves them unchanged, negative values steer "
                "against them.",
            )
        st.button(
            "Remove edit",
            key=f"drop {number} {place}",
            on_click=_edit_removed,
            args=(number, scenario, group),
            disabled=len(groups) == 1 and not scenario.head_edits,
        )
    heads.draw_removals(number, scenario)
    set_widget(f"norms {number}", scenario.freeze_norms)
    st.toggle(
        "Freeze norms",
        key=f"norms {number}",
        on_change=heard(f"norms {number}", change_scenario),
        args=(number, scenario, replace(scenario, freeze_norms=not scenario.freeze_norms)),
        help="Keep the normalisation scales of the unedited prompt. With attention frozen too, "
        "only the MLPs react to the edits, which is what the graph's edges describe.",
    )
    every = tuple(range(n_layers)) if scenario.constrained_layers is None else None
    set_widget(f"constrained {number}", scenario.constrained_layers is not None)
    st.toggle(
        "Direct effects only",
        key=f"constrained {number}",
        on_change=heard(f"constrained {number}", change_scenario),
        args=(number, scenario, replace(scenario, constrained_layers=every)),
        help="Freeze every MLP output and norm, so that each edit reaches the logits only along "
        "the direct paths of its own features.",
    )


def _strength_moved(number: int, scenario: Scenario, group: EditGroup, key: str) -> None:
    """Change the current scenario: while a key is held down, it is newer than the one drawn."""
    now = read_session().scenarios[number : number + 1]
    if not now or list(map(_without_value, now[0].edits)) != list(
        map(_without_value, scenario.edits)
    ):
        return  # the column has changed meanwhile
    value, chosen = float(st.session_state[key]), set(map(_without_value, group.edits))
    edits = tuple(
        replace(edit, value=value) if _without_value(edit) in chosen else edit
        for edit in now[0].edits
    )
    change_scenario(number, now[0], replace(now[0], edits=edits))


def _without_value(edit: Edit) -> Edit:
    """Return what an edit changes and how, regardless of its value."""
    return replace(edit, value=0.0)


def _edit_removed(number: int, scenario: Scenario, group: EditGroup) -> None:
    edits = tuple(edit for edit in scenario.edits if edit not in group.edits)
    change_scenario(number, scenario, replace(scenario, edits=edits))
