"""The inline components of a page under AppTest, which can read them but cannot click them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from streamlit.testing.v1 import AppTest

from tracer.types import NodeId


def has_component(app: AppTest, name: str) -> bool:
    """Return whether the page has a component ``name``."""
    elements = app.get("bidi_component")
    return any(element.proto.component_name == f"circuit_{name}" for element in elements)


def component_data(app: AppTest, name: str) -> dict[str, Any]:
    """Return the data sent to the component ``name``, such as ``"neighbours"``."""
    for element in app.get("bidi_component"):
        if element.proto.component_name == f"circuit_{name}":
            data: dict[str, Any] = json.loads(element.proto.json)
            return data
    raise AssertionError(f"the page has no component {name}")


def listed(app: AppTest) -> dict[str, NodeId]:
    """Return the nodes in the panel's lists by their names."""
    lists = component_data(app, "neighbours")["lists"]
    return {row["name"]: NodeId.parse(row["id"]) for part in lists for row in part["rows"]}


def choose_node(app: AppTest, node: NodeId) -> AppTest:
    """Select a node, as a click in the graph does."""
    session = app.session_state["session"]
    app.session_state["session"] = replace(session, selected=node)
    return app.run()
