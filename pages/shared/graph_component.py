"""The interactive graph: a Streamlit component that draws a Plotly figure and answers clicks.

The script is inline and has no build step: the files of `browser/` are joined in the order of their
names. plotly.js is the installed package's own file, which `app.py` serves; where it does not, the
component asks for a loader that carries it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import plotly
import plotly.graph_objects as go
import streamlit as st

_BROWSER: Final = Path(__file__).with_name("browser")
PLOTLY_JS: Final = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
PLOTLY_PATH: Final = f"assets/plotly-{plotly.__version__}.min.js"
"""Where the server serves plotly.js, below its base path."""
_NEEDS_LOADER: Final = "plotly loader"

OnEvent = Callable[[dict[str, Any]], None]
"""Called with what a visitor did: an object with a ``type``."""


@cache
def graph_script() -> str:
    """Return the script of the graph itself, which knows nothing of Streamlit."""
    files = sorted(_BROWSER.glob("[0-9]_*.js"))
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


@cache
def graph_style() -> str:
    """Return the style sheet of the graph."""
    return page_script_part("graph.css")


@cache
def page_script_part(name: str) -> str:
    """Return a file of `browser/` by its name."""
    return (_BROWSER / name).read_text(encoding="utf-8")


@cache
def _component(name: str) -> Callable[..., Any]:
    """Register a component once for the whole process."""
    script, style = page_script_part(f"streamlit_{name}.js"), ""
    if name in ("chart", "graph"):
        script = f"{page_script_part('mount.js')}\n{script}"
    if name == "graph":
        script = f"{graph_script()}\n{script}"
    elif name == "loader":
        script = f"{PLOTLY_JS.read_text(encoding='utf-8')}\n{script}"
    elif name in ("chart", "prompts", "remote", "first"):  # they may come before the graph does
        script = f"{page_script_part('1_shared.js')}\n{script}"
    elif name in ("ahead", "head", "neighbours"):
        script = f"{page_script_part('1_shared.js')}\n{page_script_part('panel.js')}\n{script}"
    if (_BROWSER / f"{name}.css").is_file():
        style = page_script_part(f"{name}.css")
    if name == "neighbours":
        style += page_script_part("examples.css")
    mount: Callable[..., Any] = st.components.v2.component(
        f"circuit_{name}", html="<!---->", css=style, js=script, isolate_styles=False
    )
    return mount


def draw_node_head(data: Mapping[str, Any], on_event: OnEvent) -> None:
    """Draw a node's name, the buttons next to it, and the facts below it.

    ``data`` has the texts ``id`` (empty for no node), ``name``, ``facts``, ``help``, ``source`` and
    ``link`` (an address), says whether the node is ``pinned``, one can go ``back`` or ``forward``,
    and what is above the head ``keeps`` its place when a node is clicked, and has the ``serial`` of
    the last event heard and the number of ``widgets`` below the head. ``on_event`` is called with
    ``{"type": "step", "by": …}``, or what a graph would send.
    """
    key = "node head"
    _component("head")(key=key, data=dict(data), on_event_change=_listener(key, on_event))


def draw_neighbours(
    graph: str,
    lists: Sequence[Mapping[str, Any]],
    empty: str,
    on_event: OnEvent,
    name: str | None = None,
    **more: Any,
) -> None:
    """Draw lists of a node's neighbours next to the graph of that name.

    Each list has ``title``, ``note`` and ``rows`` with ``id``, ``name``, ``where``, ``weight`` and
    ``share``, strongest first. A click selects the node in the graph, or is an event if the graph
    has no node of that id. ``name`` tells the lists of one page apart; it is the graph's name by
    default. The lists of a node's panel have ``more``: the ``node``, its ``examples`` as
    ``pages.shared.feature_card.group_data`` returns them, and the ``serial`` of the last event
    heard.
    """
    key = f"neighbours {name or graph}"
    data = {"graph": graph, "lists": list(lists), "empty": empty, "serial": None, **more}
    _component("neighbours")(key=key, data=data, on_event_change=_listener(key, on_event))


def draw_panels_ahead(panels: bytes) -> None:
    """Send panels that the browser shows as soon as their node is clicked on the Trace page.

    ``panels`` is a digest of 16 characters and then JSON: by node id, what the head, the lists and
    the examples show.
    """
    _component("ahead")(key="panels ahead", data=panels)


def draw_flow(
    graph: str, data: Mapping[str, Any], on_event: OnEvent, name: str | None = None
) -> None:
    """Draw the diagram of ``charts.flow_figure.flow_data``, whose boxes can be dragged.

    A click on a box selects its node in the graph called ``graph``. ``name`` tells two diagrams of
    one page apart; it is the graph's name by default.
    """
    key = f"flow {name or graph}"
    _component("flow")(
        key=key, data={"graph": graph, **data}, on_event_change=_listener(key, on_event)
    )


def draw_graph(name: str, payload: bytes, chosen: Mapping[str, Any], on_event: OnEvent) -> None:
    """Draw the graph of ``charts.graph_payload`` and mark what is chosen in it.

    ``chosen`` has ``selected`` (a node id or None), ``pinned`` and ``off`` (node ids), ``groups``
    (supernodes with a colour) and ``serial``, that of the last event heard. ``on_event`` is called
    with what the visitor did: ``{"type": "select" | "pin" | "pin-all" | "group" | "size", …}``, and
    with ``"head"`` where :func:`draw_beads` put beads on edges.
    """
    key = f"graph {name}"

    def heard(event: dict[str, Any]) -> None:
        if event["type"] == "loader":
            st.session_state[_NEEDS_LOADER] = True
        else:
            on_event(event)

    _component("graph")(key=key, data=payload, on_event_change=_listener(key, heard))
    _component("remote")(key=f"remote {name}", data={"name": name, **chosen})


def draw_graph_first(name: str, payload: bytes) -> None:
    """Show a graph in the place of the Trace page's, before the run that draws it there.

    ``payload`` is empty where nothing has changed. ``name`` tells the callers of a page apart.
    """
    _component("first")(key=f"graph first {name}", data=payload)


def draw_chart(
    figure: go.Figure, key: str, on_point: Callable[[float], None] | None = None
) -> None:
    """Draw a Plotly figure as wide as its place; its height is in its layout.

    ``on_point`` is called with the x of a point or bar that was clicked.
    """

    def heard(event: dict[str, Any]) -> None:
        x = event.get("x")
        if event["type"] == "loader":
            st.session_state[_NEEDS_LOADER] = True
        elif on_point is not None and isinstance(x, int | float):
            on_point(float(x))

    data = {"figure": figure.to_json(), "plotly": PLOTLY_PATH}
    _component("chart")(key=key, data=data, on_event_change=_listener(key, heard))


def draw_prompts(
    groups: Sequence[Mapping[str, Any]], current: str | None, on_prompt: Callable[[str], None]
) -> None:
    """Draw prompts to choose from in groups that fold, and mark the current one.

    Each group has a ``name`` and ``prompts`` with ``title`` and ``prompt``. ``on_prompt`` is called
    with the prompt that was clicked.
    """

    def heard(event: dict[str, Any]) -> None:
        if isinstance(event.get("prompt"), str):
            on_prompt(event["prompt"])

    data = {"groups": list(groups), "current": current}
    _component("prompts")(key="prompts", data=data, on_event_change=_listener("prompts", heard))


def draw_beads(name: str, node: str, edges: Sequence[Mapping[str, str]]) -> None:
    """Put beads on the edges into ``node`` in the graph of that name, while it is selected.

    Each edge has ``source`` (a node id), ``text`` (for the tooltip) and ``head``, which a click
    sends as the ``id`` of a ``{"type": "head"}`` event to the graph's ``on_event``. The beads go
    when this is not drawn again.
    """
    data = {"name": name, "beads": {"node": node, "edges": list(edges)}}
    _component("remote")(key=f"beads {name}", data=data)


def draw_loader() -> None:
    """Send plotly.js to a browser that could not load it. Every run ends with it."""
    if st.session_state.get(_NEEDS_LOADER):
        _component("loader")(key=_NEEDS_LOADER)


def _listener(key: str, on_event: OnEvent) -> Callable[[], None]:
    """Return the function Streamlit calls when the component ``key`` has sent something."""

    def happened() -> None:
        event = _event(st.session_state.get(key))
        if event is not None:
            on_event(event)

    return happened


def _event(state: object) -> dict[str, Any] | None:
    """Return what the browser sent if it is an object with a type, else None."""
    event = getattr(state, "event", None)
    if event is None and isinstance(state, Mapping):
        event = state.get("event")
    if isinstance(event, Mapping) and isinstance(event.get("type"), str):
        return dict(event)
    return None
