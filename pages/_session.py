"""What one visitor has chosen: one frozen value under one key, mirrored in the address bar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import streamlit as st

from cache import ModelChoice
from tracer.atlas.gallery import gallery
from tracer.errors import ThresholdError
from tracer.sources import ATLAS_TRANSCODERS
from tracer.types import NodeId, Thresholds

_KEY: Final = "session"


@dataclass(frozen=True)
class Session:
    """Ids only, never results."""

    prompt: str = gallery()[0].prompt
    choice: ModelChoice = ModelChoice()
    thresholds: Thresholds = Thresholds()
    selected: NodeId | None = None
    off: tuple[NodeId, ...] = ()
    """Features that are switched off."""


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
        changes = {"selected": None, "off": (), **changes}
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
    if session.off:
        query["off"] = ",".join(map(str, session.off))
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
    selected = _nodes(query.get("node", ""))
    off = tuple(node for node in _nodes(query.get("off", "")) if node.kind == "feature")
    return replace(session, selected=selected[0] if selected else None, off=off)


def _nodes(text: str) -> tuple[NodeId, ...]:
    found = []
    for part in text.split(","):
        try:
            found.append(NodeId.parse(part))
        except ValueError:
            continue
    return tuple(found)
