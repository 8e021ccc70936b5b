"""Panels that are sent ahead of a click: the same as those drawn after it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from page_components import choose_node, component_data
from streamlit.testing.v1 import AppTest

from cache import ModelChoice
from charts.graph_payload import DIGEST_LENGTH
from charts.graph_view import GraphView
from charts.palette import LIGHT
from pages.shared import resources
from pages.shared.graph_view import session_view
from pages.shared.session_state import Session
from pages.trace import panels_ahead
from tracer.errors import TracerError
from tracer.types import FeatureId, Thresholds


def shown(app: AppTest) -> GraphView:
    """Return the view of the page's graph with nothing selected."""
    key = resources.backend().stored()[0].key
    return session_view(Session(), resources.pruned_graph(key, Thresholds()))


def sent(app: AppTest) -> dict[str, Any]:
    """Return the panels that the page has sent."""
    (element,) = (
        element
        for element in app.get("bidi_component")
        if element.proto.component_name == "circuit_ahead"
    )
    panels: dict[str, Any] = json.loads(element.proto.bytes[DIGEST_LENGTH:])
    return panels


def test_the_panel_of_every_kind_of_node_is_the_one_drawn_after_the_click(app: AppTest) -> None:
    panels, view = sent(app), shown(app)
    index = view.pruned.graph.index
    assert set(panels) == {str(index.node(row)) for row in view.rows}
    for kind in ("feature", "error", "token", "logit"):
        node = next(index.node(row) for row in view.rows if index.node(row).kind == kind)
        choose_node(app, node)
        ahead, head = panels[str(node)], component_data(app, "head")
        lists = component_data(app, "neighbours")
        assert head["id"] == lists["node"] == str(node)
        assert {name: head[name] for name in ("facts", "help", "source", "link", "widgets")} == {
            name: ahead[name] for name in ("facts", "help", "source", "link", "widgets")
        }
        assert ahead["examples"] == lists["examples"]
        assert (ahead["examples"] is not None) == (kind == "feature")
        for few, complete in zip(ahead["lists"], lists["lists"], strict=True):
            assert few["rows"] == complete["rows"][:6]
            assert few["total"] == len(complete["rows"])
            assert (few["title"], few["count"]) == (complete["title"], complete["count"])
    assert any(panel["lists"][0]["total"] > 6 for panel in panels.values())


def test_only_the_most_influential_panels_of_a_large_graph_are_sent(
    app: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = shown(app)
    index = view.pruned.graph.index
    monkeypatch.setattr(panels_ahead, "_MOST", 5)
    panels = dict(panels_ahead.panels_of(view, Session(), LIGHT))
    order = sorted((index.node(row) for row in view.rows), key=view.influence, reverse=True)
    assert list(panels) == [str(node) for node in order[:5]]


def test_a_table_of_the_graph_has_no_panels_ahead(app: AppTest) -> None:
    assert sent(app)
    app.segmented_control(key="graph as").set_value("Table").run()
    with pytest.raises(ValueError, match="not enough values"):
        sent(app)


def test_examples_that_cannot_be_read_are_left_to_the_panel(
    app: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(source: ModelChoice, feature: FeatureId) -> None:
        raise TracerError("the index is damaged")

    monkeypatch.setattr(resources, "card", damaged)
    panels = dict(panels_ahead.panels_of(shown(app), Session(), LIGHT))
    assert panels and all(panel["examples"] is None for panel in panels.values())
