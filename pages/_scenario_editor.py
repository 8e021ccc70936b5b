"""Adding edits to a column: groups of this graph's features, or features of another prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import streamlit as st

from cache import TraceRequest
from charts.groups import Group, feature_groups, group_of, transplant
from charts.wording import percent, truncate
from pages import _graph, _resources, _session
from pages._text import plain
from tracer.atlas.gallery import gallery
from tracer.errors import TracerError
from tracer.graph import AttributionGraph
from tracer.scenarios import Edit, Scenario, edit_all

NEW: Final = "a new column"
_FACTORS: Final = (0.0, -1.0, -2.0, -4.0, 2.0)
_WAIT: Final = 20.0
_SUGGESTED: Final = 3


def scale(group: Group, factor: float) -> tuple[Edit, ...]:
    """All features of a group at a multiple of their own activation."""
    return edit_all(group.nodes, "scale", factor)


def draw(graph: AttributionGraph, groups: tuple[Group, ...]) -> None:
    """Suggestions while there is no column yet, then the two ways to add edits."""
    scenarios = _session.read().scenarios
    if not scenarios:
        _suggestions(graph, groups)
    with st.expander("Add a what-if", expanded=bool(scenarios)):
        left, right = st.columns(2, gap="large")
        with left:
            _from_this_graph(groups, scenarios)
        with right:
            _from_another_prompt(graph, scenarios)


def _suggestions(graph: AttributionGraph, groups: tuple[Group, ...]) -> None:
    """First clicks: push against the strongest groups, or put another prompt's in their place."""
    if not groups:
        return
    st.markdown("**Start with one of these**")
    with st.container(horizontal=True):
        swap = _swap(graph, groups[0])
        if swap is not None:
            st.button(plain(swap.name), key="suggest swap", on_click=_add_all, args=((swap,),))
        for group in groups[:_SUGGESTED]:
            st.button(
                plain(f"Push against “{truncate(group.name, 30)}”"),
                key=f"suggest {group.name}",
                on_click=_add,
                args=(f"−2×: {group.name}", scale(group, -2.0)),
            )


def _swap(graph: AttributionGraph, strongest: Group) -> Scenario | None:
    """Against the strongest group, with the strongest of a sister prompt in its place."""
    session = _session.read()
    here = next((entry for entry in gallery() if entry.prompt == session.prompt), None)
    sisters = [e.prompt for e in gallery() if here and e.group == here.group and e != here]
    if not sisters:
        return None
    found = _groups_of(sisters[0])
    if found is None or not found[1]:
        return None
    other, groups = found
    try:
        edits = scale(strongest, -1.0) + transplant(other, groups[0].nodes, graph)
    except ValueError:  # it stands where this prompt has no token
        return None
    return Scenario(f"Put “{groups[0].name}” in the place of “{strongest.name}”", edits)


def _groups_of(prompt: str) -> tuple[AttributionGraph, tuple[Group, ...]] | None:
    """Another prompt's graph and its groups; None while it is being traced.

    Raises the error that its trace ended with.
    """
    session = _session.read()
    job = _resources.backend().trace(TraceRequest(prompt, session.choice))
    if not job.wait(_WAIT):
        return None
    graph = job.result()
    pruned = _resources.pruned_graph(job.key, session.thresholds)
    plain_session = replace(session, prompt=prompt, selected=None, edits=(), scenarios=())
    return graph, feature_groups(_graph.view(plain_session, pruned))


def _describe(group: Group) -> str:
    count = f"{len(group.nodes)} features" if len(group.nodes) > 1 else "1 feature"
    return f"{group.name} · {count}"


def _target(scenarios: tuple[Scenario, ...], key: str) -> None:
    columns = [f"{i + 1}: {scenario.name}" for i, scenario in enumerate(scenarios)]
    if columns:
        st.selectbox("Put it into", [NEW, *columns], key=key)


def _from_this_graph(groups: tuple[Group, ...], scenarios: tuple[Scenario, ...]) -> None:
    st.markdown("**Change features of this graph**")
    by_name = {_describe(group): group for group in groups}
    chosen = st.multiselect("Groups of features that share a name", list(by_name), key="groups")
    st.segmented_control(
        "Set to this multiple of their activation",
        _FACTORS,
        default=0.0,
        format_func=lambda value: "off" if value == 0 else f"{value:g}×".replace("-", "−"),
        required=True,
        key="factor",
    )
    _target(scenarios, "target here")
    st.button("Add", key="add groups", disabled=not chosen, on_click=_add_groups, args=(by_name,))


def _add_groups(by_name: dict[str, Group]) -> None:
    """What the widgets say at the click: the last of them may not have been drawn anew yet."""
    picked = [by_name[name] for name in st.session_state["groups"] if name in by_name]
    factor = float(st.session_state["factor"])
    what = "Off" if factor == 0 else f"{factor:g}×".replace("-", "−")
    edits = tuple(edit for group in picked for edit in scale(group, factor))
    _add(f"{what}: {' + '.join(group.name for group in picked)}", edits, "target here")


def _from_another_prompt(graph: AttributionGraph, scenarios: tuple[Scenario, ...]) -> None:
    st.markdown("**Put in features of another prompt**")
    session = _session.read()
    prompts = [entry.prompt for entry in gallery() if entry.prompt != session.prompt]
    prompt = st.selectbox("The prompt they come from", prompts, key="other prompt")
    try:
        found = _groups_of(prompt)
    except TracerError as error:
        st.error(plain(str(error)))
        return
    if found is None:
        st.info("Still tracing that prompt.")
        return
    other, groups = found
    first = other.next_tokens[0]
    st.caption(plain(f"It goes on with{first.token} ({percent(first.probability)})."))
    name = st.selectbox("Group of its features", [group.name for group in groups], key="transplant")
    group = group_of(groups, name) if name else None
    _target(scenarios, "target there")
    if group is None:
        return
    try:
        edits = transplant(other, group.nodes, graph)
    except ValueError as error:
        st.warning(plain(str(error)))
        return
    st.button(
        "Put in",
        key="add transplant",
        on_click=_add,
        args=(f"Put in “{group.name}”", edits, "target there"),
        help="Sets them to the values they have there, at the same place counted from the end.",
    )


def _add_all(scenarios: tuple[Scenario, ...]) -> None:
    _session.write(scenarios=(*_session.read().scenarios, *scenarios))


def _add(name: str, edits: tuple[Edit, ...], target_key: str | None = None) -> None:
    """Into a new column, or the end of the one that was chosen under ``target_key``."""
    scenarios = list(_session.read().scenarios)
    target = str(st.session_state.get(target_key, NEW)) if target_key else NEW
    if target == NEW:
        scenarios.append(Scenario(truncate(name, 48), edits))
    else:
        number = int(target.split(":")[0]) - 1
        old = scenarios[number]
        scenarios[number] = replace(
            old, name=truncate(f"{old.name}, {name}", 48), edits=(*old.edits, *edits)
        )
    _session.write(scenarios=tuple(scenarios))
