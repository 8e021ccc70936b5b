"""Measured series: one group at many strengths, and every group switched off in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import streamlit as st

from charts.edit_groups import Group, group_of, lone_names
from charts.faithfulness_figures import check_sentence, group_check, ranked_figure, scatter_figure
from charts.flow_figure import flow_figure, flow_groups
from charts.graph_view import GraphView
from charts.palette import Palette
from charts.scenario_figures import dose_figure, shared_tokens
from charts.text import token_text
from pages.interventions import editor
from pages.shared.escape import plain
from pages.shared.session import read_session
from tracer.errors import TracerError
from tracer.interventions.faithfulness import check_groups, check_target, switched_off
from tracer.interventions.scenario import Scenario
from tracer.types import NodeId

if TYPE_CHECKING:
    from tracer.interventions.run import ScenarioRun

Run = Callable[..., "ScenarioRun | None"]
"""Runs scenarios on the session's prompt, or draws why there is no outcome and gives None."""
_STATIC: Final = {"displayModeBar": False, "staticPlot": False}
_STEPS: Final = 10
_SWITCHED: Final = 30
_HELD: Final = "attention and norms"
_FREE: Final = "attention only"


def sweep(groups: tuple[Group, ...], run: Run, theme: Palette) -> None:
    """One group, from as it is to pushed against: where does the answer flip?"""
    st.markdown("#### How hard must one push?")
    what, reach = st.columns([2, 1], gap="large")
    name = what.selectbox(
        "Group of features",
        [group.name for group in groups],
        key="swept group",
        help="All features of the group are set to the same multiple of their activation.",
    )
    most = reach.slider(
        "Up to, times against them", 0.0, 10.0, 4.0, 1.0, key="sweep reach", help="0 is off."
    )
    group = group_of(groups, name) if name else None
    if group is None:
        return
    factors = [1 - step * (1 + most) / _STEPS for step in range(_STEPS + 1)]
    steps = tuple(Scenario(f"{factor:g}×", editor.scale(group, factor)) for factor in factors)
    swept = run(steps, "sweep")
    if swept is None:
        return
    outcomes = [outcome for outcome in swept.outcomes if not isinstance(outcome, TracerError)]
    if len(outcomes) < len(steps):
        st.error("The model answers with numbers that are not finite at some of the strengths.")
        return
    known = dict(shared_tokens([swept.baseline, *outcomes], limit=24))
    likeliest = dict(shared_tokens([swept.baseline, *outcomes], limit=5))
    chosen = st.multiselect(
        "Tokens to follow",
        list(known),
        default=list(likeliest),
        key=f"sweep tokens {name} {most}",
        format_func=lambda token: token_text(known.get(token, str(token))),
    )
    tokens = [(token, known[token]) for token in chosen if token in known]
    figure = dose_figure(factors, outcomes, tokens, theme)
    st.plotly_chart(figure, key="sweep", theme=None, config=_STATIC)


def switch_off_in_turn(view: GraphView, run: Run, theme: Palette) -> None:
    """Every pinned feature off, one after the other, beside what the graph's edges predict."""
    st.markdown("#### Does the graph tell the truth?")
    st.caption(
        "Each feature is switched off alone, and the model runs. The bar is what happens to the "
        "answer's logit; the tick is what the graph's edges predict, along all paths."
    )
    pinned = [node for node in sorted(view.pinned) if node.kind == "feature"]
    which = f"your {len(pinned)} pinned features"
    options = [which, "the strongest features"] if pinned else ["the strongest features"]
    left, right = st.columns(2, gap="large")
    chosen = left.segmented_control(
        "Switch off", options, default=options[0], required=True, key=f"truth of {len(pinned)}"
    )
    held = right.segmented_control(
        "Held still",
        (_HELD, _FREE),
        default=_HELD,
        required=True,
        key="truth held",
        help="Edges speak of the model with attention patterns and norms as they are. Let the "
        "norms go, and they can make up for what is missing.",
    )
    if not st.toggle("Check it", key="check truth"):
        return
    nodes = pinned if chosen == which else list(view.most_influential(_SWITCHED))
    if not nodes:
        st.info("There is no feature in this graph to switch off.")
        return
    groups = {name: (node,) for node, name in lone_names(view, nodes).items()}
    _effects(view, groups, run, held == _HELD, theme)
    _flow(view, run, held == _HELD, theme)


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
        st.error(plain(str(error)))
        return
    left, right = st.columns(2, gap="medium")
    with left:
        st.plotly_chart(ranked_figure(check, theme), key="ranked", theme=None, config=_STATIC)
    with right:
        st.plotly_chart(scatter_figure(check, theme), key="truth", theme=None, config=_STATIC)
        st.markdown(plain(check_sentence(check)))


def _flow(view: GraphView, run: Run, freeze_norms: bool, theme: Palette) -> None:
    """The supernodes' diagram with one of them off: what is left of the others."""
    marked = flow_groups(view, read_session().supernodes)
    features = {
        group.name: nodes
        for group in marked
        if (nodes := tuple(node for node in group.nodes if node.kind == "feature"))
    }
    if len(features) < 2:
        st.caption(
            "Pin features on the Trace page, or name several as one, and a diagram here shows "
            "what each leaves of the others when it is switched off."
        )
        return
    st.markdown("**One group off: what is left of the others**")
    watch = tuple(dict.fromkeys(node for nodes in features.values() for node in nodes))
    outcomes = run(
        switched_off(features, freeze_norms=freeze_norms), "faithfulness flow", watch=watch
    )
    if outcomes is None:
        return
    try:
        predicted, measured = check_groups(view.pruned.graph, features, outcomes)
    except TracerError as error:
        st.error(plain(str(error)))
        return
    names = list(features)
    off = st.selectbox("Switched off", names, key="flow off")
    number = names.index(off) if off in names else 0
    diagrams = st.columns(2, gap="medium")
    for column, title, shares in zip(
        diagrams, ("Measured", "Predicted by the edges"), (measured, predicted), strict=True
    ):
        with column:
            st.caption(title)
            left = {name: float(share) for name, share in zip(names, shares[number], strict=True)}
            figure = flow_figure(view, marked, theme, width=480.0, left=left, off=names[number])
            st.plotly_chart(figure, key=f"flow {title}", theme=None, config=_STATIC)
    check = group_check(names, predicted, measured)
    if len(check.names) > 2:
        with st.columns(2, gap="medium")[0]:
            figure = scatter_figure(check, theme)
            st.plotly_chart(figure, key="flow truth", theme=None, config=_STATIC)
            st.markdown(plain(check_sentence(check)))
