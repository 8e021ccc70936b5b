"""What one visitor has chosen: one frozen value under one key, mirrored in the address bar."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import streamlit as st

from cache import ModelChoice
from tracer.atlas.gallery import gallery
from tracer.errors import InterventionError, ThresholdError
from tracer.scenarios import Scenario
from tracer.sources import ATLAS_TRANSCODERS
from tracer.types import NodeId, Thresholds

_KEY: Final = "session"
LARGEST_FACTOR: Final = 10.0


@dataclass(frozen=True)
class Session:
    """Ids only, never results."""

    prompt: str = gallery()[0].prompt
    choice: ModelChoice = ModelChoice()
    thresholds: Thresholds = Thresholds()
    selected: NodeId | None = None
    edits: tuple[tuple[NodeId, float], ...] = ()
    """Features that are switched off, each with the multiple of its activation it is set to:
    0 is off, a negative one pushes against it."""
    scenarios: tuple[Scenario, ...] = ()
    """The what-ifs of the Interventions page, a column each."""

    @property
    def off(self) -> tuple[NodeId, ...]:
        return tuple(node for node, _ in self.edits)

    def factor(self, node: NodeId) -> float | None:
        """What the node is multiplied by; None while it is left alone."""
        return dict(self.edits).get(node)


def read() -> Session:
    """The visitor's session; at their first run, what the address bar asks for."""
    if _KEY not in st.session_state:
        st.session_state[_KEY] = from_query(st.query_params.to_dict())
    session: Session = st.session_state[_KEY]
    return session


def write(**changes: Any) -> None:
    """Replace parts of the session; a new prompt or model drops what was selected in the old."""
    session = read()
    if "prompt" in changes or "choice" in changes:
        changes = {"selected": None, "edits": (), "scenarios": (), **changes}
    st.session_state[_KEY] = replace(session, **changes)


def mirror() -> None:
    """Bring the address bar up to date, so that it can be copied as a link."""
    wanted = to_query(read())
    if st.query_params.to_dict() != wanted:
        st.query_params.from_dict(wanted)


def to_query(session: Session) -> dict[str, str]:
    """What differs from a fresh session, as query parameters."""
    fresh, query = Session(), {"prompt": session.prompt}
    if session.choice != fresh.choice:
        query["transcoders"] = session.choice.transcoders
    if session.thresholds.node != fresh.thresholds.node:
        query["nodes"] = f"{session.thresholds.node:g}"
    if session.thresholds.edge != fresh.thresholds.edge:
        query["edges"] = f"{session.thresholds.edge:g}"
    if session.selected is not None:
        query["node"] = str(session.selected)
    if session.edits:
        query["off"] = ",".join(
            f"{node}*{factor:g}" if factor else str(node) for node, factor in session.edits
        )
    if session.scenarios:
        stored = [scenario.to_dict() for scenario in session.scenarios]
        query["scenarios"] = json.dumps(stored, separators=(",", ":"), ensure_ascii=False)
    return query


def from_query(query: Mapping[str, str]) -> Session:
    """The inverse of :func:`to_query`; whatever makes no sense is left at its default."""
    session = Session()
    if query.get("prompt"):
        session = replace(session, prompt=query["prompt"])
    if query.get("transcoders") in ATLAS_TRANSCODERS:
        session = replace(session, choice=ModelChoice("atlas", query["transcoders"]))
    try:
        thresholds = Thresholds(
            float(query.get("nodes", session.thresholds.node)),
            float(query.get("edges", session.thresholds.edge)),
        )
        session = replace(session, thresholds=thresholds)
    except (ThresholdError, ValueError):
        pass  # a mistyped link opens at the defaults
    try:
        stored = json.loads(query.get("scenarios", "[]"))
        scenarios = tuple(Scenario.from_dict(entry) for entry in stored)
    except (InterventionError, TypeError, ValueError):
        scenarios = ()  # as for any mistyped link
    edits = (_edit(part) for part in query.get("off", "").split(","))
    return replace(
        session,
        selected=_node(query.get("node", "")),
        edits=tuple(dict(edit for edit in edits if edit is not None).items()),
        scenarios=scenarios,
    )


def _node(text: str) -> NodeId | None:
    try:
        return NodeId.parse(text)
    except ValueError:
        return None


def _edit(text: str) -> tuple[NodeId, float] | None:
    name, _, factor = text.partition("*")
    node = _node(name)
    try:
        number = float(factor or 0)
    except ValueError:
        return None
    usable = node is not None and node.kind == "feature" and abs(number) <= LARGEST_FACTOR
    return (node, number) if node is not None and usable else None


def change_scenario(number: int, old: Scenario, new: Scenario) -> None:
    """Put ``new`` in the place of ``old``, which the visitor saw in column ``number``.

    Nothing happens when another one stands there by now: two clicks can arrive at once.
    """
    scenarios = list(read().scenarios)
    if scenarios[number : number + 1] == [old]:
        scenarios[number] = new
        write(scenarios=tuple(scenarios))


def arrange_scenario(number: int, scenario: Scenario, step: str) -> None:
    """``duplicate`` or ``remove`` the scenario seen in a column, or move it to the ``left``."""
    scenarios = list(read().scenarios)
    if number >= len(scenarios) or scenarios[number].edits != scenario.edits:
        return  # another one by now
    scenario = scenarios[number]
    if step == "duplicate":
        scenarios.insert(number + 1, scenario)
    elif step == "remove":
        scenarios.pop(number)
    elif number > 0:
        scenarios[number - 1], scenarios[number] = scenario, scenarios[number - 1]
    write(scenarios=tuple(scenarios))
