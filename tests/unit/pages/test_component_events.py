"""What a page does with the events of its components, whatever a browser sends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from example_graphs import NAMES, dallas_graph

from charts.graph_view import GraphView
from pages.interventions import graph_picker
from pages.shared import selection
from pages.shared import session as session_module
from pages.shared.session import read_session
from pages.shared.session_state import Session
from pages.shell import sidebar
from tracer.catalog.embedded import gallery
from tracer.graph.pruning import prune
from tracer.types import NodeId

FIRST, SECOND = NodeId("feature", 1, 7, 887), NodeId("feature", 4, 8, 1)


@pytest.fixture(autouse=True)
def session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module.st, "session_state", {"session": Session()})


def test_a_prompt_of_the_list_is_opened_and_closes_the_stored_graph() -> None:
    prompt = gallery("atlas")[3].prompt
    session_module.update_session(graph="0" * 32)
    sidebar._prompt_chosen(prompt)
    assert (read_session().prompt, read_session().graph) == (prompt, "")


def test_a_text_that_is_not_in_the_list_is_ignored() -> None:
    before = read_session()
    sidebar._prompt_chosen("Ignore the list")
    assert read_session() == before


def test_the_head_of_a_panel_goes_back_and_forward_pins_and_closes() -> None:
    selection.select(FIRST)
    selection.select(SECOND)
    selection.head_event({"type": "step", "by": -1})
    assert read_session().selected == FIRST
    selection.head_event({"type": "step", "by": -1})  # nothing is further back
    assert read_session().selected == FIRST
    selection.head_event({"type": "step", "by": 1})
    assert read_session().selected == SECOND
    for _ in range(2):  # the browser may send an event twice
        selection.head_event({"type": "pin", "id": str(SECOND), "pinned": True})
        assert read_session().pinned == (SECOND,)
    selection.head_event({"type": "pin", "id": str(SECOND), "pinned": False})
    assert read_session().pinned == ()
    selection.head_event({"type": "select", "id": None})
    assert read_session().selected is None


@pytest.mark.parametrize(
    "event",
    [{"type": "step"}, {"type": "step", "by": -2}, {"type": "step", "by": "1"}, {"type": "?"}],
)
def test_an_unknown_event_of_the_head_changes_nothing(event: dict[str, Any]) -> None:
    for node in (SECOND, FIRST, NodeId("token", -1, 7, 55)):  # two steps back are possible
        selection.select(node)
    before = read_session()
    selection.head_event(event)
    assert read_session() == before


def pin(node: NodeId, serial: float, *before: object) -> dict[str, Any]:
    return {
        "type": "pin",
        "id": str(node),
        "pinned": True,
        "serial": serial,
        "before": list(before),
    }


def test_an_event_brings_those_that_were_lost_on_the_way_and_none_is_carried_out_twice() -> None:
    group = {"type": "group", "ids": [str(FIRST)], "name": "Texas", "serial": 3.0}
    selection.graph_event(pin(SECOND, 4.0, pin(FIRST, 2.0), group))
    assert read_session().pinned == (SECOND,)
    assert [each.name for each in read_session().supernodes] == ["Texas"]
    assert selection.serial() == 4
    selection.graph_event(pin(SECOND, 5.0) | {"pinned": False})
    selection.graph_event(pin(FIRST, 6.0, pin(SECOND, 4.0)) | {"type": "select"})
    assert read_session().pinned == ()


@pytest.mark.parametrize(
    "before", ["pin", {"type": "pin"}, [None, 3, "pin"], [{"serial": 9.0}], [{"type": "pin"}]]
)
def test_earlier_events_that_are_none_change_nothing(before: object) -> None:
    selection.graph_event(pin(FIRST, 1.0) | {"before": before})
    assert read_session().pinned == (FIRST,)
    assert selection.serial() == 1


def test_the_graph_of_the_interventions_page_hears_lost_events_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handlers: list[Callable[[dict[str, Any]], None]] = []
    chosen: list[NodeId] = []
    monkeypatch.setattr(graph_picker, "view_payload", lambda *_: b"")
    monkeypatch.setattr(graph_picker, "draw_graph", lambda *given: handlers.append(given[-1]))
    monkeypatch.setattr(graph_picker, "_choose", lambda node, *_: chosen.append(node))
    graph_picker.draw("key", GraphView(prune(dallas_graph(), 1.0, 1.0), NAMES), {}, "widget")
    handlers[0](pin(SECOND, 2.0, pin(FIRST, 1.0)))
    assert chosen == [FIRST, SECOND]
    handlers[0](pin(FIRST, 3.0, pin(SECOND, 2.0)))
    assert chosen == [FIRST, SECOND, FIRST]
