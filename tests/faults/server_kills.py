"""Kill the server itself while visitors trace: what they saw is in the store afterwards."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from pathlib import Path

from faults import ROOT, Tally, check, fill, folder
from websockets.exceptions import WebSocketException

sys.path.insert(0, str(ROOT / "benchmarks"))

from load import Visitor, free_port, start

from cache.store import Store

_FIRST: float = 240.0
"""Seconds that the first graph may take, on a busy machine."""


def server_kills(count: int, source: random.Random) -> Tally:
    """Kill the server at a random moment after a visitor has seen at least one new graph."""
    tally = Tally()
    with folder() as place:
        root = place / "store"
        fill(root)
        for number in range(count):
            port = free_port()
            server = start(port, root)
            prompts = [f"calc: {10 + number % 90}+{b}=" for b in range(10, 60)]
            seen: list[str] = []
            visit = threading.Thread(target=_visit, args=(port, prompts, seen))
            visit.start()
            end = time.monotonic() + _FIRST
            while not seen and time.monotonic() < end:
                time.sleep(0.05)
            time.sleep(source.uniform(0.0, 2.0))
            server.kill()
            server.wait()
            visit.join()
            if not seen:
                tally.unhandled += 1
                tally.note(f"server {number} showed no graph in {_FIRST:.0f} s")
            check(root, tally, f"kill of server {number}")
            _check_seen(root, seen, tally)
    return tally


def _visit(port: int, prompts: list[str], seen: list[str]) -> None:
    """Open links to prompts, and note those whose graph was drawn, until the server is gone."""

    async def go() -> None:
        for prompt in prompts:
            visitor = Visitor(port)
            await visitor.open()
            await visitor.show(prompt)
            while not visitor.has_graph:
                await asyncio.sleep(0.1)
                await visitor.show(prompt)
            seen.append(prompt)
            await visitor.close()

    try:
        asyncio.run(go())
    except (OSError, WebSocketException):
        return  # the server was killed


def _check_seen(root: Path, seen: list[str], tally: Tally) -> None:
    store = Store(root)
    keys = {entry.prompt: entry.key for entry in store.entries()}
    for prompt in seen:
        graph = store.load(keys[prompt]) if prompt in keys else None
        if graph is None:
            tally.lost += 1
            tally.note(f"the graph of {prompt!r} was shown")
        elif graph.prompt != prompt or not graph.n_edges:
            tally.wrong += 1
    store.close()
