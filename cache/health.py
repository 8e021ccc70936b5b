"""A health endpoint for load balancers, and the facts that a bug report needs.

``CIRCUIT_HEALTH_PORT`` starts it, on the loopback interface: ``GET /health`` answers 200 while
requests can be served, and 503 otherwise, with JSON either way.
"""

from __future__ import annotations

import json
import logging
import platform
import sys
import threading
from collections.abc import Callable, Mapping
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import psutil

logger = logging.getLogger(__name__)

VARIABLE: Final = "CIRCUIT_HEALTH_PORT"
_PACKAGES: Final = (
    "circuit-tracing", "torch", "transformer-lens", "transformers", "streamlit", "numpy", "ray",
)  # fmt: skip


def serve_health(look: Callable[[], dict[str, Any]], port: int) -> ThreadingHTTPServer:
    """Answer ``GET /health`` with what ``look`` returns; its ``ok`` decides the status.

    Raises ``OSError`` when the port is taken. Close it with ``shutdown``.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/health":
                self.send_error(404)
                return
            try:
                answer = look()
            except Exception:  # a failing look is an unhealthy server
                logger.exception("the health of the server could not be determined")
                answer = {"ok": False}
            content = json.dumps(answer).encode()
            self.send_response(200 if answer.get("ok") else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *values: object) -> None:
            logger.debug(format, *values)

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server


@cache
def versions() -> Mapping[str, str]:
    """Return the versions of Python, the system and the libraries that matter."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def memory() -> dict[str, int]:
    """Return the memory of this process and of the machine, in bytes."""
    machine = psutil.virtual_memory()
    return {
        "process": int(psutil.Process().memory_info().rss),
        "free": int(machine.available),
        "total": int(machine.total),
        "threads": threading.active_count(),
        "recursion_limit": sys.getrecursionlimit(),
    }
