"""Parts of a page that are drawn after those a visitor is waiting for.

The browser draws a page in the order in which its parts arrive. After a click on a node, its panel
comes first, and the prompts in the sidebar, which stay as they are, come last. Where a part is on
the page depends on its container alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from time import sleep
from typing import Final, NamedTuple

from streamlit import runtime
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.scriptrunner_utils.script_run_context import ThreadState

_SENT: Final = 0.02
"""Seconds in which the server's other thread sends what has been drawn. While a run is drawing, it
waits for the interpreter lock before every message."""


class _Part(NamedTuple):
    place: DeltaGenerator
    draw: Callable[[], None]
    page: str


_parts: Final[ContextVar[list[_Part]]] = ContextVar("parts drawn later")
"""What this run, which has its own thread, has not drawn yet. It is not in the session state. With
Streamlit's fast reruns, which are off here by default, the run of a click starts before the one it
interrupts has ended. Both share that state, and entries of the second can get lost."""


def begin() -> None:
    """Start with no parts. A run begins with it."""
    _parts.set([])


def draw_later(place: DeltaGenerator, draw: Callable[[], None], last: bool = False) -> None:
    """Draw a part into ``place`` at the end of the run, or before a wait that would be noticed.

    Of several parts, the one asked for last is drawn first; but one with ``last`` after all others.
    """
    part = _Part(place, draw, ThreadState.get().active_script_hash)
    parts = _undrawn()
    parts.insert(0 if last else len(parts), part)


def draw_the_rest() -> None:
    """Draw all parts that have not been drawn yet."""
    parts = _undrawn()
    context = get_script_run_ctx()
    if parts and runtime.exists():
        sleep(_SENT)
    while parts and context is not None:
        part = parts.pop()
        # An element's identity has its page in it: as another element it would lose its state.
        with context.run_with_active_hash(part.page), part.place:
            part.draw()


def _undrawn() -> list[_Part]:
    parts = _parts.get(None)
    if parts is None:
        parts = []
        _parts.set(parts)
    return parts
