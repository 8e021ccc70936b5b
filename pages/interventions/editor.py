"""Adding edits to a column: groups of this graph's features, or features of another prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import streamlit as st

from cache import TraceRequest
from charts.edit_groups import Group, feature_groups, group_of, own_groups
from charts.text import percent, token_text, truncate
from pages.interventions.columns import STRONGEST_PUSH
from pages.shared import progress, resources
from pages.shared.escape import plain
from pages.shared.graph_view import session_view
from pages.shared.session import read_session, update_session, visitor_id
from tracer.atlas.gallery import gallery
from tracer.catalog.resolve import ATLAS
from tracer.errors import InterventionError, TracerError
from tracer.graph.graph import AttributionGraph
from tracer.interventions.scenario import Edit, Scenario, edit_all
from tracer.interventions.transfer import transplant
from tracer.types import FeatureId

NEW: Final = "a new column"
_WAYS: Final = ("This graph", "Another prompt", "Any feature")
_WHERE: Final = ("where they stand", "from there on")
_SUGGESTED: Final = 3


def scale(group: Group, factor: float) -> tuple[Edit, ...]:
    """All features of a group at a multiple of their own activation."""
    return edit_all(group.nodes, "scale", factor)


def draw(graph: AttributionGraph, groups: tuple[Group, ...]) -> None:
    """Suggestions while there is no column yet, then the ways to add edits."""
    scenarios = read_session().scenarios
    if not scenarios:
        _suggestions(graph, groups)
    with st.expander("Add a what-if", expanded=bool(scenarios)):
        here, there, search = st.tabs(_WAYS, key="ways")
        with here:
            _from_this_graph(groups, scenarios)
        with there:
            _from_another_prompt(graph, scenarios)
        with search:
            _from_a_search(graph, scenarios)


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
    session = read_session()
    here = next((entry for entry in gallery() if entry.prompt == session.prompt), None)
    sisters = [e.prompt for e in gallery() if here and e.group == here.group and e != here]
    if not sisters or session.choice.model != ATLAS:
        return None
    other, groups = _groups_of(sisters[0], "suggestion")
    if not groups:
        return None
    try:
        edits = scale(strongest, -1.0) + transplant(other, groups[0].nodes, graph)
    except InterventionError:  # it stands where this prompt has no token
        return None
    return Scenario(f"Put “{groups[0].name}” in the place of “{strongest.name}”", edits)


def _groups_of(prompt: str, slot: str) -> tuple[AttributionGraph, tuple[Group, ...]]:
    """Another prompt's graph and its groups.

    Raises the error that its trace ended with.
    """
    session = read_session()
    job = resources.backend().trace(TraceRequest(prompt, session.choice), visitor_id())
    progress.wait_for(job, slot, prompt, finish=True)
    graph = job.result()
    pruned = resources.pruned_graph(job.key, session.thresholds)
    # What was marked there, too: a supernode of one prompt can be put into another.
    annotations = resources.backend().annotations(job.key)
    there = replace(
        session, prompt=prompt, selected=None, edits=(), scenarios=(), annotations=annotations
    )
    view = session_view(there, pruned)
    return graph, (*own_groups(view, annotations.supernodes), *feature_groups(view))


def _describe(group: Group) -> str:
    count = f"{len(group.nodes)} features" if len(group.nodes) > 1 else "1 feature"
    return f"{group.name} · {count}"


def _target(scenarios: tuple[Scenario, ...], key: str) -> None:
    columns = [f"{i + 1}: {scenario.name}" for i, scenario in enumerate(scenarios)]
    if columns:
        st.selectbox("Put it into", [NEW, *columns], key=key)


def _from_this_graph(groups: tuple[Group, ...], scenarios: tuple[Scenario, ...]) -> None:
    by_name = {_describe(group): group for group in groups}
    chosen = st.multiselect(
        "Your pins and supernodes, and features that share a name",
        list(by_name),
        key="groups",
        placeholder="Search this graph's features",
    )
    strength, where = st.columns(2, gap="large")
    strength.slider(
        "Strength, times their own activation",
        -STRONGEST_PUSH,
        STRONGEST_PUSH,
        0.0,
        0.25,
        key="factor",
        help="0 switches them off, 1 leaves them as they are, less than 0 pushes against them.",
    )
    with where:
        _where()
    _target(scenarios, "target here")
    st.button("Add", key="add groups", disabled=not chosen, on_click=_add_groups, args=(by_name,))


def _where() -> None:
    st.segmented_control(
        "Where",
        _WHERE,
        default=_WHERE[0],
        required=True,
        key="where",
        help="From there on: at every later token too, and while the model goes on writing.",
    )


def _add_groups(by_name: dict[str, Group]) -> None:
    """What the widgets say at the click: the last of them may not have been drawn anew yet."""
    picked = [by_name[name] for name in st.session_state["groups"] if name in by_name]
    factor = float(st.session_state["factor"])
    what = "Off" if factor == 0 else f"{factor:g}×".replace("-", "−")
    edits = tuple(edit for group in picked for edit in scale(group, factor))
    if st.session_state["where"] == _WHERE[1]:
        edits = tuple(replace(edit, stop=None) for edit in edits)
    _add(f"{what}: {' + '.join(group.name for group in picked)}", edits, "target here")


def _from_another_prompt(graph: AttributionGraph, scenarios: tuple[Scenario, ...]) -> None:
    session = read_session()
    prompts = [entry.prompt for entry in gallery() if entry.prompt != session.prompt]
    prompt = st.selectbox(
        "The prompt they come from",
        prompts,
        # Another model is asked only when a person asks: its traces may take minutes.
        index=0 if session.choice.model == ATLAS else None,
        key=f"other prompt {session.choice.model}",
        placeholder="Choose one, or type your own",
        accept_new_options=True,
    )
    if not prompt:
        return
    try:
        other, groups = _groups_of(prompt, "source prompt")
    except TracerError as error:
        st.error(plain(str(error)))
        return
    first = other.next_tokens[0]
    st.caption(plain(f"It goes on with{first.token} ({percent(first.probability)})."))
    name = st.selectbox("Group of its features", [group.name for group in groups], key="transplant")
    group = group_of(groups, name) if name else None
    _target(scenarios, "target there")
    if group is None:
        return
    try:
        edits = transplant(other, group.nodes, graph)
    except InterventionError as error:
        st.warning(plain(str(error)))
        return
    st.button(
        "Put in",
        key="add transplant",
        on_click=_add,
        args=(f"Put in “{group.name}”", edits, "target there"),
        help="Sets them to the values they have there, at the same place counted from the end.",
    )


def _from_a_search(graph: AttributionGraph, scenarios: tuple[Scenario, ...]) -> None:
    """Any feature of the whole set, active on this prompt or not, at any token."""
    words = st.text_input(
        "Search all features by label, or by number",
        key="feature search",
        placeholder="Texas, or L1/887",
    )
    choice = read_session().choice
    try:
        index = resources.backend().library.features(choice)
        found = index.search(words) if words else ()
    except TracerError as error:
        st.error(plain(str(error)))
        return
    if words and not found:
        st.caption("No feature's label holds these words.")
    if not found:
        return
    names = {f"{resources.feature_name(choice, f) or 'feature'} · {f}": f for f in found}
    left, right = st.columns(2, gap="large")
    picked = left.selectbox("Feature", list(names), key="found feature")
    tokens = {f"{i}: {token_text(token)}": i for i, token in enumerate(graph.tokens) if i}
    where = right.selectbox("At", list(tokens), index=len(tokens) - 1, key="found position")
    if picked not in names or where not in tokens:
        return
    feature = names[picked]
    card = resources.card(choice, feature)
    strongest = card.act_max if card is not None and card.act_max > 0 else 1.0
    unit = "its largest activation" if card is not None and card.act_max > 0 else "units"
    with left:
        times = st.slider(
            f"Set to this multiple of {unit} ({strongest:.2f})",
            -STRONGEST_PUSH / 2,
            STRONGEST_PUSH / 2,
            1.0,
            0.1,
            key="found strength",
        )
    with right:
        st.segmented_control("Where", _WHERE, default=_WHERE[0], required=True, key="where found")
    _target(scenarios, "target found")
    st.button(
        "Set it",
        key="add found",
        on_click=_add_found,
        args=(picked, feature, tokens[where], strongest),
    )
    st.caption(plain(f"{times:g} × {strongest:.2f} = {times * strongest:.2f}"))


def _add_found(name: str, feature: FeatureId, position: int, strongest: float) -> None:
    value = float(st.session_state["found strength"]) * strongest
    onwards = st.session_state["where found"] == _WHERE[1]
    edit = Edit(feature, position, None if onwards else position + 1, "set", value)
    _add(f"Set {name}", (edit,), "target found")


def _add_all(scenarios: tuple[Scenario, ...]) -> None:
    update_session(scenarios=(*read_session().scenarios, *scenarios))


def _add(name: str, edits: tuple[Edit, ...], target_key: str | None = None) -> None:
    """Into a new column, or the end of the one that was chosen under ``target_key``."""
    scenarios = list(read_session().scenarios)
    target = str(st.session_state.get(target_key, NEW)) if target_key else NEW
    if target == NEW:
        scenarios.append(Scenario(truncate(name, 48), edits))
    else:
        number = int(target.split(":")[0]) - 1
        old = scenarios[number]
        scenarios[number] = replace(
            old, name=truncate(f"{old.name}, {name}", 48), edits=(*old.edits, *edits)
        )
    update_session(scenarios=tuple(scenarios))
