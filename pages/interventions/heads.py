"""Edits of attention heads: off, frozen, or without the pairs that made them look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import streamlit as st

from cache import WhyLook
from charts.edit_groups import head_line
from charts.text import token_text, truncate
from pages.shared import progress, resources
from pages.shared.escape import plain, sentence
from pages.shared.session import read_session, update_session, visitor_id
from pages.shared.session_actions import change_scenario
from tracer.errors import TracerError
from tracer.graph.graph import AttributionGraph
from tracer.interventions.head_edit import HeadEdit, HeadOperation
from tracer.interventions.scenario import Scenario

_OPERATIONS: Final[dict[str, HeadOperation]] = {
    "Switch off": "off",
    "Freeze its pattern": "freeze",
    "Take pairs out": "score",
}
_MOST_PAIRS: Final = 12
_NEW: Final = "New column"
_HELP: Final = (
    "Off: the head writes nothing. Frozen: it looks where it looked before the edits, while all "
    "others respond. Take pairs out: its score between two tokens loses the strongest pairs of "
    "sources."
)


def draw(key: str, graph: AttributionGraph, scenarios: Sequence[Scenario]) -> None:
    """Draw the choice of a head and of what to do with it."""
    shape = _shape(graph)
    if shape is None:
        return
    names = {f"L{layer} H{head}": (layer, head) for layer in range(shape[0])
             for head in range(shape[1])}  # fmt: skip
    opened = read_session().heads.head
    start = f"L{opened[0]} H{opened[1]}" if opened is not None else ""
    left, right = st.columns(2, gap="large")
    left.selectbox(
        "Head", list(names), index=list(names).index(start) if start in names else 0, key="head"
    )
    right.segmented_control(
        "What to do",
        list(_OPERATIONS),
        default="Switch off",
        required=True,
        key="head operation",
        help=_HELP,
    )
    operation = _OPERATIONS[str(st.session_state["head operation"])]
    edit: HeadEdit | None = HeadEdit(*names[str(st.session_state["head"])], operation, 0, 0)
    if edit is not None and operation == "score":
        edit = _without(key, graph, edit)
    columns = [f"{i + 1}: {scenario.name}" for i, scenario in enumerate(scenarios)]
    target = _NEW
    if columns:
        target = st.selectbox("Add to column", [_NEW, *columns], key="target head") or _NEW
    st.toggle(
        "Also at a random other head, in a column of its own",
        value=True,
        key="head control",
        disabled=target != _NEW,
        help="A control: what the same edit does at a head that was not chosen for it.",
    )
    st.button(
        "Add head",
        key="add head",
        disabled=edit is None,
        on_click=_add,
        args=(edit, tuple(names.values()), graph.tokens),
    )


def _shape(graph: AttributionGraph) -> tuple[int, int] | None:
    """Return how many layers the model has, and how many heads each; None after an error."""
    session = read_session()
    job = resources.backend().attention.shape(session.choice, visitor_id())
    progress.wait_for(job, "heads of the model")
    try:
        return job.result()
    except TracerError as error:
        st.error(plain(sentence(error)))
        return None


def _without(key: str, graph: AttributionGraph, edit: HeadEdit) -> HeadEdit | None:
    """Draw the choice of two tokens and a number of pairs; None while it is not known."""
    tokens = {f"{at}: {token_text(token)}": at for at, token in enumerate(graph.tokens) if at}
    query, key_column, count = st.columns(3)
    looks = query.selectbox("From", list(tokens), index=len(tokens) - 1, key="pairs query")
    most = "where it looks most"
    at = key_column.selectbox("At", [most, *tokens], key="pairs key")
    number = count.slider("Pairs to take out", 1, _MOST_PAIRS, 3, key="pairs number")
    question = WhyLook(edit.layer, edit.head, tokens[looks], tokens.get(at))
    job = resources.backend().attention.look(key, question, read_session().choice, visitor_id())
    progress.wait_for(job, "pairs", "Following attention")
    try:
        look = job.result()
    except TracerError as error:
        st.warning(plain(sentence(error)))
        return None
    removed = sum(pair.weight for pair in look.pairs[:number])
    edit = HeadEdit(edit.layer, edit.head, "score", look.query, look.key, -removed)
    st.caption(plain(f"Will {head_line(edit, graph.tokens)}."))
    return edit


def _add(edit: HeadEdit, heads: Sequence[tuple[int, int]], tokens: Sequence[str]) -> None:
    """Add the edit to a column, or a new column, and one with the edit at a random other head."""
    scenarios = list(read_session().scenarios)
    target = str(st.session_state.get("target head", _NEW))
    number = len(scenarios) if target == _NEW else int(target.split(":")[0]) - 1
    if number < len(scenarios):
        old = scenarios[number]
        name = truncate(f"{old.name}, {head_line(edit, tokens)}", 60)
        scenarios[number] = replace(old, name=name, head_edits=(*old.head_edits, edit))
        update_session(scenarios=tuple(scenarios))
        return
    added = [edit]
    others = [head for head in heads if head != (edit.layer, edit.head)]
    if st.session_state.get("head control") and others:
        layer, head = others[int(np.random.default_rng(number).integers(len(others)))]
        added.append(replace(edit, layer=layer, head=head))
    for place, one in enumerate(added):
        name = f"{'Control: ' if place else ''}{head_line(one, tokens)}"
        scenarios.append(Scenario(truncate(name, 60), (), False, head_edits=(one,)))
    update_session(scenarios=tuple(scenarios))


def draw_removals(number: int, scenario: Scenario) -> None:
    """Draw a button for every edit of a head that removes it from its column."""
    alone = len(scenario.head_edits) == 1 and not scenario.edits
    for place, edit in enumerate(scenario.head_edits):
        st.caption(plain(edit.label))
        st.button(
            "Remove edit",
            key=f"drop head {number} {place}",
            on_click=change_scenario,
            args=(
                number,
                scenario,
                replace(
                    scenario,
                    head_edits=(*scenario.head_edits[:place], *scenario.head_edits[place + 1 :]),
                ),
            ),
            disabled=alone,
        )
