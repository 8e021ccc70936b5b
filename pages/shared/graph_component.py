"""The interactive graph: a Streamlit component that draws a Plotly figure and answers clicks.

The script is inline and has no build step: the files of `browser/` are joined in the order of their
names. plotly.js is the installed package's own file, which `app.py` serves; where it does not, the
component asks for a loader that carries it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import plotly
import streamlit as st

_BROWSER: Final = Path(__file__).with_name("browser")
PLOTLY_JS: Final = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
PLOTLY_PATH: Final = f"assets/plotly-{plotly.__version__}.min.js"
"""Where the server serves plotly.js, below its base path."""
_NEEDS_LOADER: Final = "plotly loader"


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
    host = page_script_part(f"streamlit_{name}.js")
    if name == "graph":
        script, style = f"{graph_script()}\n{host}", graph_style()
    elif name == "loader":
        script, style = f"{PLOTLY_JS.read_text(encoding='utf-8')}\n{host}", ""
    else:
        # it may come to the page before the graph does
        names = "const shared = (globalThis.circuitGraphs ??= { graphs: new Map(), views: new Map(),"
        script, style = f"{names} wanted: new Map(), timings: [] }});\n{host}", ""
    mount: Callable[..., Any] = st.components.v2.component(
        f"circuit_{name}", html="<!---->", css=style, js=script, isolate_styles=False
    )
    return mount


def draw_graph(
    name: str, payload: bytes, chosen: Mapping[str, Any], on_event: Callable[[dict[str, Any]], None]
) -> None:
    """Draw the graph of ``charts.graph_payload`` and say what is chosen in it.

    ``chosen`` has ``selected`` (a node id or None), ``pinned`` and ``off`` (node ids), ``groups``
    (supernodes with a colour) and ``serial``, that of the last event heard. ``on_event`` is called
    with what the visitor did: ``{"type": "select" | "pin" | "pin-all" | "group" | "size", …}``.
    """
    key = f"graph {name}"

    def happened() -> None:
        event = _event(st.session_state.get(key))
        if event is None:
            return
        if event.get("type") == "loader":
            st.session_state[_NEEDS_LOADER] = True
        else:
            on_event(event)

    _component("graph")(key=key, data=payload, on_event_change=happened)
    _component("remote")(key=f"remote {name}", data={"name": name, **chosen})
    if st.session_state.get(_NEEDS_LOADER):
        _component("loader")(key=_NEEDS_LOADER)


def _event(state: object) -> dict[str, Any] | None:
    """What the browser sent, if it is an object with a type."""
    event = getattr(state, "event", None)
    if event is None and isinstance(state, Mapping):
        event = state.get("event")
    if isinstance(event, Mapping) and isinstance(event.get("type"), str):
        return dict(event)
    return None
