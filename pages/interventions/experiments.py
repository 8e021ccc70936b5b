"""Measured series: a dose–response curve, and the check of the graph's predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import streamlit as st

from charts.edit_groups import Group, group_of, lone_names
from charts.faithfulness_figures import check_sentence, group_check, ranked_figure, scatter_figure
from charts.flow_figure import flow_data, flow_groups
from charts.graph_view import GraphView
from charts.palette import Palette
from charts.scenario_figures import dose_figure, shared_tokens
from charts.text import token_text
from pages.interventions import editor
from pages.shared import selection
from pages.shared.escape import plain, sentence
from pages.shared.graph_component import draw_chart, draw_flow
from pages.shared.session import read_session
from tracer.errors import TracerError
from tracer.interventions.faithfulness import check_groups, check_target, switched_off
from tracer.interventions.scenario import Scenario
from tracer.types import NodeId

if TYPE_CHECKING:
    from tracer.interventions.run import ScenarioRun

Run = Callable[..., "ScenarioRun | None"]
"""Runs scenarios on the session's prompt; draws the error and returns None if that fails. The
second argument names the place on the page that waits for them."""
_STEPS: Final = 10
_CHECKED: Final = 30
"""Most influential features that are switched off one by one."""
_ALL_FROZEN: Final = "attention and norms"
_ATTENTION_FROZEN: Final = "attention only"
_INFLUENTIAL: Final = "most influential features"


def sweep(groups: tuple[Group, ...], run: Run, theme: Palette) -> None:
    """Run one group at decreasing strengths, and draw where the answer flips."""
    st.markdown("#### Dose–response: how much steering flips the answer?")
    left, right = st.columns([2, 1], gap="large")
    name = left.selectbox(
        "Features",
        [group.name for group in groups],
        key="swept group",
        help="All features of the group are set to the same multiple of their activation.",
    )
    reach = right.slider(
        "Maximum negative strength (×)",
        0.0,
        10.0,
        4.0,
        1.0,
        key="sweep reach",
        help="Where the curve ends. It starts at 1× (unchanged) and passes 0× (off).",
    )
    group = group_of(groups, name) if name else None
    if group is None:
        return
    strengths = [1 - step * (1 + reach) / _STEPS for step in range(_STEPS + 1)]
    steps = tuple(
        Scenario(f"{strength:g}×", editor.scale(group, strength)) for strength in strengths
    )
    swept = run(steps, "sweep")
    if swept is None:
        return
    outcomes = [outcome for outcome in swept.outcomes if not isinstance(outcome, TracerError)]
    if len(outcomes) < len(steps):
        st.error("At some strengths the model's output is NaN or infinite: lower the maximum.")
        return
    known = dict(shared_tokens([swept.baseline, *outcomes], limit=24))
    top = dict(shared_tokens([swept.baseline, *outcomes], limit=5))
    chosen = st.multiselect(
        "Tokens to plot",
        list(known),
        default=list(top),
        key=f"sweep tokens {name} {reach}",
        format_func=lambda token: token_text(known.get(token, str(token))),
    )
    tokens = [(token, known[token]) for token in chosen if token in known]
    figure = dose_figure(strengths, outcomes, tokens, theme)
    draw_chart(figure, "sweep")


def check_faithfulness(view: GraphView, run: Run, theme: Palette) -> None:
    """Switch features off one by one, and compare the effects with the graph's predictions."""
    st.markdown(
        "#### Faithfulness check",
        help="A graph is faithful if its edges predict what happens to the model when features "
        "change.",
    )
    st.caption(
        "Switches each feature off on its own and runs the model. Bars show the measured change "
        "of the target token's logit; ticks show what the graph's edges predict, summed over all "
        "paths."
    )
    pinned = [node for node in sorted(view.pinned) if node.kind == "feature"]
    own = "pinned feature" if len(pinned) == 1 else f"{len(pinned)} pinned features"
    options = [own, _INFLUENTIAL] if pinned else [_INFLUENTIAL]
    left, right = st.columns(2, gap="large")
    chosen = left.segmented_control(
        "Features to switch off",
        options,
        default=options[0],
        required=True,
        key=f"truth of {len(pinned)}",
    )
    frozen = right.segmented_control(
        "Freeze",
        (_ALL_FROZEN, _ATTENTION_FROZEN),
        default=_ALL_FROZEN,
        required=True,
        key="truth held",
        help="Edges describe the model with attention patterns and normalisation scales frozen. "
        "With norms left free, they can compensate for the missing feature.",
    )
    if not st.toggle("Run check", key="check truth"):
        return
    nodes = pinned if chosen == own else list(view.most_influential(_CHECKED))
    if not nodes:
        st.info("This graph has no features to switch off.")
        return
    groups = {name: (node,) for node, name in lone_names(view, nodes).items()}
    _effects(view, groups, run, frozen == _ALL_FROZEN, theme)
    _flow(view, run, frozen == _ALL_FROZEN, theme)


def _effects(
    view: GraphView,
    groups: Mapping[str, tuple[NodeId, ...]],
    run: Run,
    freeze_norms: bool,
    theme: Palette,
) -> None:
    outcomes = run(switched_off(groups, freeze_norms=freeze_norms), "faithfulness check")
    if outcomes is None:
        return
    try:
        check = check_target(view.pruned.graph, groups, outcomes, 0)
    except TracerError as error:
        st.error(plain(sentence(error)))
        return
    left, right = st.columns(2, gap="medium")
    with left:
        draw_chart(ranked_figure(check, theme), "ranked")
    with right:
        draw_chart(scatter_figure(check, theme), "truth")
        st.markdown(plain(check_sentence(check)))


def _flow(view: GraphView, run: Run, freeze_norms: bool, theme: Palette) -> None:
    """Draw the supernodes with one of them off, and the remaining activation of the others."""
    boxes = flow_groups(view, read_session().supernodes)
    features = {
        group.name: nodes
        for group in boxes
        if (nodes := tuple(node for node in group.nodes if node.kind == "feature"))
    }
    if len(features) < 2:
        st.caption(
            "Pin features on the Trace page, or group them into supernodes, to get a diagram of "
            "how switching one off affects the others."
        )
        return
    st.markdown("**Switch off one group: remaining activation of the others**")
    watch = tuple(dict.fromkeys(node for nodes in features.values() for node in nodes))
    outcomes = run(
        switched_off(features, freeze_norms=freeze_norms), "faithfulness flow", watch=watch
    )
    if outcomes is None:
        return
    try:
        predicted, measured = check_groups(view.pruned.graph, features, outcomes)
    except TracerError as error:
        st.error(plain(sentence(error)))
        return
    names = list(features)
    off = st.selectbox("Switched off", names, key="flow off")
    number = names.index(off) if off in names else 0
    positions = {p.name: (p.x, p.y) for p in read_session().annotations.positions}
    diagrams = st.columns(2, gap="medium")
    for column, title, shares in zip(
        diagrams, ("Measured", "Predicted by the edges"), (measured, predicted), strict=True
    ):
        with column:
            st.caption(title)
            left = {name: float(share) for name, share in zip(names, shares[number], strict=True)}
            data = flow_data(view, boxes, positions, 480.0, left, names[number])
            draw_flow("interventions", data, selection.flow_event, title)
    check = group_check(names, predicted, measured)
    if len(check.names) > 2:
        with st.columns(2, gap="medium")[0]:
            figure = scatter_figure(check, theme)
            draw_chart(figure, "flow truth")
            st.markdown(plain(check_sentence(check)))
