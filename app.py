"""The dashboard: ``streamlit run app.py``.

The main script is in another folder. Otherwise Streamlit would take the `pages/` folder next to
this file for its legacy pages, and a deep link to a cold server would run one without the shell.
plotly.js is served from the installed package, under a path that changes with its version.
"""

from pathlib import Path

import streamlit as st
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

from pages.shared.graph_component import PLOTLY_JS, PLOTLY_PATH

_FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}


async def plotly_js(request: Request) -> FileResponse:
    """Serve plotly.js to the graph component."""
    return FileResponse(PLOTLY_JS, media_type="text/javascript", headers=_FOREVER)


app = st.App(
    Path(__file__).parent / "pages" / "shell" / "main.py",
    # Streamlit puts its own routes below server.baseUrlPath, but not these.
    routes=[Route(f"/{PLOTLY_PATH}", plotly_js), Route(f"/{{base:path}}/{PLOTLY_PATH}", plotly_js)],
)
