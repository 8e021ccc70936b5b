"""What a failed browser test leaves behind: what its pages showed, and the last messages.

All of it is among pytest's temporary files, which it keeps for three runs. The failure message
names them, and has the end of the messages and of the server's log.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

from playwright.sync_api import BrowserContext, Error, Page, WebSocket
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

_MOST: Final = 1000
"""Messages kept for each page: those of about eight runs."""
_LINES: Final = 40
"""Lines in the failure message."""

Frames = deque[tuple[float, bool, str | bytes]]
"""Seconds, whether the page sent the message, and the message."""
_frames: Final[WeakKeyDictionary[Page, Frames]] = WeakKeyDictionary()


def listen(context: BrowserContext) -> None:
    """Keep the last messages of every page that is opened in ``context``."""

    def opened(page: Page) -> None:
        frames: Frames = deque(maxlen=_MOST)
        _frames[page] = frames

        def connected(socket: WebSocket) -> None:
            socket.on("framereceived", lambda data: frames.append((time.monotonic(), False, data)))
            socket.on("framesent", lambda data: frames.append((time.monotonic(), True, data)))

        page.on("websocket", connected)

    context.on("page", opened)


def collect(name: str, fixtures: dict[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    """Yield headings and texts for the failure message of a test, and save its pages."""
    values = [each for value in fixtures.values() for each in _flat(value)]
    for number, page in enumerate(value for value in values if isinstance(value, Page)):
        file = folder / f"{re.sub(r'[^a-z0-9_]+', '-', name.lower())[:80]}-{number}"
        lines = [_line(frame) for frame in _frames.get(page, ())]
        file.with_suffix(".txt").write_text("\n".join(lines), encoding="utf-8")
        try:
            page.screenshot(path=file.with_suffix(".png"), timeout=10_000)
            file.with_suffix(".html").write_text(page.content(), encoding="utf-8")
        except Error as error:
            yield f"page {number}", f"{page.url} cannot be saved: {error}"
        else:
            yield f"page {number}", f"{page.url} is in {file}.png and .html, its messages in .txt"
        yield f"last messages of page {number}", "\n".join(lines[-_LINES:])
    for log in {value.log for value in values if isinstance(getattr(value, "log", None), Path)}:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        yield f"end of {log}", "\n".join(lines[-_LINES:])


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        yield from value
    else:
        yield value


def _line(frame: tuple[float, bool, str | bytes]) -> str:
    """Say in one line what a message is: which run, which element, where."""
    seconds, is_sent, data = frame
    raw = data.encode("latin-1") if isinstance(data, str) else data
    text = _back(BackMsg.FromString(raw)) if is_sent else _forward(ForwardMsg.FromString(raw))
    return f"{seconds:.3f} {'>' if is_sent else '<'} {text}"


def _back(message: BackMsg) -> str:
    kind = message.WhichOneof("type") or "nothing"
    if kind != "rerun_script":
        return kind
    asked = message.rerun_script
    events = [each.json_trigger_value[:120] for each in asked.widget_states.widgets]
    return f"{kind} {asked.fragment_id} {' '.join(filter(None, events))}"


def _forward(message: ForwardMsg) -> str:
    kind, run = message.WhichOneof("type") or "nothing", message.metadata.run.script_run_id[:8]
    path = "/".join(map(str, message.metadata.delta_path))
    if kind == "delta":
        delta = message.delta
        if delta.WhichOneof("type") == "add_block":
            return f"block {path} {delta.add_block.WhichOneof('type')} {delta.add_block.id}"
        return f"element {path} {delta.new_element.WhichOneof('type')} {delta.fragment_id}"
    if kind == "script_finished":
        return f"{kind} {run} {ForwardMsg.ScriptFinishedStatus.Name(message.script_finished)}"
    if kind == "session_status_changed":
        return f"{kind} running={message.session_status_changed.script_is_running}"
    return f"{kind} {run}{path}"
