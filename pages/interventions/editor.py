"""Adding edits to a column: from this graph, from another prompt's graph, or any feature."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import streamlit as st

from cache import TraceRequest
from charts.edit_groups import Group, feature_groups, group_of, own_groups
from charts.graph_view import GraphView
from charts.text import percent, plural, times, token_text, truncate
from pages.interventions import graph_picker, heads
from pages.interventions.columns import MAX_STRENGTH
from pages.shared import progress, resources
from pages.shared.escape import plain, sentence
from pages.shared.graph_view import session_view
from pages.shared.session import read_session, update_session, visitor_id
from tracer.catalog.embedded import embedded, gallery
from tracer.errors import InterventionError, TracerError
from tracer.graph.graph import AttributionGraph
from tracer.interventions.scenario import Edit, Scenario, edit_all
from tracer.interventions.transfer import transplant
from tracer.types import FeatureId

NEW: Final = "New column"
_SOURCES: Final = ("This graph", "Another prompt", "All features", "Attention heads")
_HERE, _ONWARD = "this position only", "this position onward"
_POSITIONS_HELP: Final = (
    "Onward: also at every later token of the prompt, and at every token the model generates."
)
_STRENGTH_HELP: Final = (
    "0 switches the features off, 1 leaves them unchanged, negative values steer against them."
)
_SUGGESTED: Final = 3


def scale(group: Group, strength: float) -> tuple[Edit, ...]:
    """Return edits that set all features of a group to a multiple of their own activation."""
    return edit_all(group.nodes, "scale", strength)


def draw(key: str, view: GraphView, groups: tuple[Group, ...]) -> None:
    """Draw suggestions while there are no columns, then the ways to add edits."""
    graph = view.pruned.graph
    scenarios = read_session().scenarios
    if not scenarios:
        _suggestions(graph, groups)
    with st.expander("Add edits", expanded=bool(scenarios)):
        this_graph, other_prompt, all_features, attention_heads = st.tabs(_SOURCES, key="ways")
        with this_graph:
            _from_this_graph(key, view, groups, scenarios)
        with other_prompt:
            _from_another_prompt(graph, scenarios)
        with all_features:
            _from_all_features(graph, scenarios)
        with attention_heads:
            heads.draw(key, graph, scenarios)


def _suggestions(graph: AttributionGraph, groups: tuple[Group, ...]) -> None:
    """Scenarios to start with: steer against the strongest groups, or replace the strongest."""
    if not groups:
        return
    st.markdown("**Suggested scenarios**")
    with st.container(horizontal=True):
        swap = _swap(graph, groups[0])
        if swap is not None:
            st.button(plain(swap.name), key="suggest swap", on_click=_add_all, args=((swap,),))
        for group in groups[:_SUGGESTED]:
            st.button(
                plain(f"Steer against “{truncate(group.name, 30)}”"),
                key=f"suggest {group.name}",
                on_click=_add,
                args=(f"−2×: {group.name}", scale(group, -2.0)),
            )


def _swap(graph: AttributionGraph, strongest: Group) -> Scenario | None:
    """Replace the strongest group with the strongest of a related prompt of the gallery."""
    session = read_session()
    entries = gallery(session.choice.model)
    entry = next((entry for entry in entries if entry.prompt == session.prompt), None)
    related = [e.prompt for e in entries if entry and e.group == entry.group and e != entry]
    if not related or embedded(session.choice.model) is None:
        return None
    try:
        other, groups = _groups_of(related[0], "suggestion")
        if not groups:
            return None
        edits = scale(strongest, -1.0) + transplant(other, groups[0].nodes, graph)
    except TracerError:  # not traced, or without a matching position: there is nothing to suggest
        return None
    return Scenario(f"Replace “{strongest.name}” with “{groups[0].name}”", edits)


def _groups_of(prompt: str, slot: str) -> tuple[AttributionGraph, tuple[Group, ...]]:
    """Trace another prompt; return its graph and feature groups, supernodes included.

    Raises the error that the trace ended with.
    """
    session = read_session()
    job = resources.backend().trace(TraceRequest(prompt, session.choice), visitor_id())
    progress.wait_for(job, slot, prompt, finish=True)
    graph = job.result()
    pruned = resources.pruned_graph(job.key, session.thresholds)
    annotations = resources.backend().annotations(job.key)
    other = replace(
        session, prompt=prompt, selected=None, edits=(), scenarios=(), annotations=annotations
    )
    view = session_view(other, pruned)
    return graph, (*own_groups(view, annotations.supernodes), *feature_groups(view))


def _describe(group: Group) -> str:
    return f"{group.name} · {plural(len(group.nodes), 'feature')}"


def _target(scenarios: tuple[Scenario, ...], key: str) -> None:
    columns = [f"{i + 1}: {scenario.name}" for i, scenario in enumerate(scenarios)]
    if columns:
        st.selectbox("Add to column", [NEW, *columns], key=key)


def _from_this_graph(
    key: str, view: GraphView, groups: tuple[Group, ...], scenarios: tuple[Scenario, ...]
) -> None:
    by_name = {_describe(group): group for group in groups}
    graph_picker.draw(key, view, by_name, "groups")
    chosen = st.multiselect(
        "Features to edit",
        list(by_name),
        key="groups",
        placeholder="Search this graph's features",
        help="Supernodes and pinned features come first, then the graph's features, grouped by "
        "label.",
    )
    strength, positions = st.columns(2, gap="large")
    strength.slider(
        "Steering strength (× activation)",
        -MAX_STRENGTH,
        MAX_STRENGTH,
        0.0,
        0.25,
        key="factor",
        help=_STRENGTH_HELP,
    )
    with positions:
        _positions("where")
    _target(scenarios, "target here")
    st.button("Add", key="add groups", disabled=not chosen, on_click=_add_groups, args=(by_name,))


def _positions(key: str) -> None:
    st.segmented_control(
        "Positions",
        (_HERE, _ONWARD),
        default=_HERE,
        required=True,
        key=key,
        help=_POSITIONS_HELP,
    )


def _add_groups(by_name: dict[str, Group]) -> None:
    """Add what the widgets show at the click; a redraw with their last change may be pending."""
    picked = [by_name[name] for name in st.session_state["groups"] if name in by_name]
    strength = float(st.session_state["factor"])
    what = "Off" if strength == 0 else times(strength)
    edits = tuple(edit for group in picked for edit in scale(group, strength))
    if st.session_state["where"] == _ONWARD:
        edits = tuple(replace(edit, stop=None) for edit in edits)
    _add(f"{what}: {' + '.join(group.name for group in picked)}", edits, "target here")


def _from_another_prompt(graph: AttributionGraph, scenarios: tuple[Scenario, ...]) -> None:
    session = read_session()
    entries = gallery(session.choice.model)
    prompts = [entry.prompt for entry in entries if entry.prompt != session.prompt]
    prompt = st.selectbox(
        "Source prompt",
        prompts,
        # Other models may take minutes to trace a prompt: wait until the visitor picks one.
        index=0 if embedded(session.choice.model) is not None else None,
        key=f"other prompt {session.choice.model}",
        placeholder="Choose a prompt, or type one",
        accept_new_options=True,
        help="Transplants features: sets them to the activations they have on this prompt.",
    )
    if not prompt:
        return
    try:
        other, groups = _groups_of(prompt, "source prompt")
    except TracerError as error:
        st.error(plain(sentence(error)))
        return
    first = other.next_tokens[0]
    next_token = f"Its next token: {token_text(first.token)} ({percent(first.probability)})."
    st.caption(plain(next_token))
    name = st.selectbox(
        "Features to transplant", [group.name for group in groups], key="transplant"
    )
    group = group_of(groups, name) if name else None
    _target(scenarios, "target there")
    if group is None:
        return
    try:
        edits = transplant(other, group.nodes, graph)
    except InterventionError as error:
        st.warning(plain(sentence(error)))
        return
    st.button(
        "Transplant",
        key="add transplant",
        on_click=_add,
        args=(f"Transplant “{group.name}”", edits, "target there"),
        help="Positions are matched from the end of both prompts.",
    )


def _from_all_features(graph: AttributionGraph, scenarios: tuple[Scenario, ...]) -> None:
    """Edit any feature of the transcoders, active on this prompt or not, at any token."""
    words = st.text_input(
        "Search all features by label or number",
        key="feature search",
        placeholder="Texas, or L1/887",
    )
    choice = read_session().choice
    try:
        index = resources.backend().library.features(choice)
        matches = index.search(words) if words else ()
    except TracerError as error:
        st.error(plain(sentence(error)))
        return
    if words and not matches:
        st.caption("No feature label matches this search.")
    if not matches:
        return
    names = {f"{resources.feature_name(choice, f) or 'feature'} · {f}": f for f in matches}
    left, right = st.columns(2, gap="large")
    picked = left.selectbox("Feature", list(names), key="found feature")
    tokens = {f"{i}: {token_text(token)}": i for i, token in enumerate(graph.tokens) if i}
    token = right.selectbox("Token", list(tokens), index=len(tokens) - 1, key="found position")
    if picked not in names or token not in tokens:
        return
    feature = names[picked]
    try:
        card = resources.card(choice, feature)
    except TracerError as error:
        st.warning(plain(sentence(error)))
        card = None
    strongest = card.act_max if card is not None and card.act_max > 0 else 1.0
    known = card is not None and card.act_max > 0
    label = f"Activation (× its maximum, {strongest:.2f})" if known else "Activation"
    with left:
        factor = st.slider(
            label,
            -MAX_STRENGTH / 2,
            MAX_STRENGTH / 2,
            1.0,
            0.1,
            key="found strength",
            help="The feature is set to this value, whether it is active on this prompt or not.",
        )
    with right:
        _positions("where found")
    _target(scenarios, "target found")
    st.button(
        "Add feature",
        key="add found",
        on_click=_add_found,
        args=(picked, feature, tokens[token], strongest),
    )
    if known:
        st.caption(plain(f"{factor:g} × {strongest:.2f} = {factor * strongest:.2f}"))


def _add_found(name: str, feature: FeatureId, position: int, strongest: float) -> None:
    value = float(st.session_state["found strength"]) * strongest
    onward = st.session_state["where found"] == _ONWARD
    edit = Edit(feature, position, None if onward else position + 1, "set", value)
    _add(f"Set {name}", (edit,), "target found")


def _add_all(scenarios: tuple[Scenario, ...]) -> None:
    update_session(scenarios=(*read_session().scenarios, *scenarios))


def _add(name: str, edits: tuple[Edit, ...], target_key: str | None = None) -> None:
    """Add edits as a new column, or to the column chosen under ``target_key``."""
    scenarios = list(read_session().scenarios)
    target = str(st.session_state.get(target_key, NEW)) if target_key else NEW
    number = len(scenarios) if target == NEW else int(target.split(":")[0]) - 1
    if number >= len(scenarios):  # also when the column was removed meanwhile
        scenarios.append(Scenario(truncate(name, 48), edits))
    else:
        old = scenarios[number]
        scenarios[number] = replace(
            old, name=truncate(f"{old.name}, {name}", 48), edits=(*old.edits, *edits)
        )
    update_session(scenarios=tuple(scenarios))
