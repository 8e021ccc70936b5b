"""Many visitors at once: WebSocket sessions that click through cached graphs, on loopback.

    python benchmarks/load.py [--sessions 20] [--seconds 120]

Starts the app with an empty store, traces a few prompts so that every later click is answered from
the store, and then lets each session load the page and click, with a pause between clicks as a
person makes. A click is over when the server says that the script has run. Prints the latencies,
the errors, and the memory of the server at the beginning and end. No browser: the protocol is
spoken directly.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

import psutil
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.state.session_state import STREAMLIT_INTERNAL_KEY_PREFIX
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = (
    "The capital of the state containing Dallas is",
    "The opposite of hot is",
    "The capital of the state containing Oakland is",
    "The capital of Texas is",
)
PAUSE = 3.0
"""Seconds between two clicks of a session, on average."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(port: int, store: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "app.py")]
    command += ["--server.port", str(port), "--server.headless", "true"]
    command += ["--server.enableXsrfProtection", "false"]
    server = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "CIRCUIT_STORE": str(store)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=2):
                return server
        except OSError:
            time.sleep(0.3)
    server.kill()
    raise TimeoutError("the server did not start within two minutes")


class Visitor:
    """One WebSocket session."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: ClientConnection | None = None
        self._prompts = ""
        self.errors = 0
        self.has_graph = False
        """Whether the last link led to a graph."""

    async def open(self) -> None:
        self._socket = await connect(
            f"ws://127.0.0.1:{self._port}/_stcore/stream",
            subprotocols=["streamlit"],
            max_size=200 * 2**20,
            ping_interval=None,
        )

    async def show(self, prompt: str) -> float:
        """Open a link to a prompt and return the seconds until the script has run.

        A session reads its link once: later links of one visitor change nothing.
        """
        message = BackMsg()
        message.rerun_script.query_string = urlencode({"prompt": prompt})
        return await self._run(message)

    async def click(self, prompt: str) -> float:
        """Click a prompt in the sidebar and return the seconds until the script has run."""
        message = BackMsg()
        event = {"event": "event", "value": {"type": "prompt", "prompt": prompt}}
        pressed = message.rerun_script.widget_states.widgets.add()
        pressed.id = f"{STREAMLIT_INTERNAL_KEY_PREFIX}_{self._prompts}__events"
        pressed.json_trigger_value = json.dumps([event])
        return await self._run(message)

    async def _run(self, message: BackMsg) -> float:
        assert self._socket is not None
        begun, self.has_graph = time.perf_counter(), False
        await self._socket.send(message.SerializeToString())
        while True:
            content = await self._socket.recv()
            answer = ForwardMsg()
            answer.ParseFromString(content if isinstance(content, bytes) else content.encode())
            kind = answer.WhichOneof("type")
            element = answer.delta.new_element.WhichOneof("type") if kind == "delta" else None
            self.errors += element == "exception"
            if element == "bidi_component":
                component = answer.delta.new_element.bidi_component
                self.has_graph |= component.component_name == "circuit_graph"
                if component.component_name == "circuit_prompts":
                    self._prompts = component.id
            if kind == "script_finished":
                return time.perf_counter() - begun

    async def close(self) -> None:
        if self._socket is not None:
            await self._socket.close()


async def visit(port: int, seconds: float, source: random.Random) -> tuple[list[float], int]:
    visitor, times = Visitor(port), []
    try:
        await visitor.open()
        await visitor.show(source.choice(PROMPTS))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await asyncio.sleep(source.uniform(0, 2 * PAUSE))
            times.append(await asyncio.wait_for(visitor.click(source.choice(PROMPTS)), 60))
    except (OSError, TimeoutError, WebSocketException):
        visitor.errors += 1
    finally:
        await visitor.close()
    return times, visitor.errors


async def load(port: int, sessions: int, seconds: float) -> tuple[list[float], int]:
    results = await asyncio.gather(
        *(visit(port, seconds, random.Random(number)) for number in range(sessions))
    )
    return [t for times, _ in results for t in times], sum(errors for _, errors in results)


async def warm(port: int) -> None:
    """Trace every prompt, so that later clicks are answered from memory."""
    visitor = Visitor(port)
    await visitor.open()
    await visitor.show(PROMPTS[0])
    for prompt in PROMPTS:
        await visitor.click(prompt)
        while not visitor.has_graph:
            await asyncio.sleep(1)
            await visitor.click(prompt)
    await visitor.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        server = start(port, Path(folder) / "store")
        try:
            asyncio.run(warm(port))
            memory = psutil.Process(server.pid).memory_info().rss
            begun = time.monotonic()
            times, errors = asyncio.run(load(port, options.sessions, options.seconds))
            took = time.monotonic() - begun
            after = psutil.Process(server.pid).memory_info().rss
        finally:
            server.terminate()
            server.wait(20)
    times.sort()
    print(
        f"{options.sessions} sessions, {took:.0f} s: {len(times)} clicks, "
        f"{len(times) / took:.1f} a second, {errors} errors"
    )
    print(
        f"p50 {statistics.median(times):.2f} s, p95 {times[int(0.95 * len(times))]:.2f} s; "
        f"memory {memory / 1e6:.0f} MB before, {after / 1e6:.0f} MB after"
    )


if __name__ == "__main__":
    main()
