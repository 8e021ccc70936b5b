"""Start and stop the app as a user does: ``streamlit run app.py``.

A server spends six CPU seconds on its imports. :class:`ServerForks` does so once for the libraries,
and forks a process that does so for the app's own modules. Servers are forked from these two.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Final, Protocol

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
_FORK: Final = """
import gc, json, os, signal, sys
import pandas, plotly.graph_objects, pyarrow, torch, transformer_lens.model_bridge
import uvicorn.protocols.websockets.websockets_sansio_impl
from streamlit.web.cli import main

def run(server):
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(server["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(server["environment"])
    sys.argv = ["streamlit", *server["arguments"]]
    sys.exit(main())

def serve(lines, app_process):
    gc.collect()
    gc.freeze()  # or each server goes through all of it at its start
    for line in lines:
        server = json.loads(line)
        if server["is_cold"] or app_process is None:
            process = os.fork()
            if not process:
                run(server)
            print(process, flush=True)
        else:
            app_process.write(line)
            app_process.flush()

signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended servers need no wait()
here, there = os.pipe()
if os.fork():
    os.close(here)
    serve(sys.stdin, os.fdopen(there, "w"))
else:
    os.close(there)
    sys.path.insert(0, os.getcwd())
    import pages.compare.view, pages.features.view, pages.interventions.view, pages.library.view
    import pages.models.view, pages.shell.sidebar, pages.shell.style, pages.shell.tour
    import pages.trace.view, tracer.attribution, tracer.model.model, tracer.transcoders.load
    import transformers.models.llama.modeling_llama
    from cache.method import method_fingerprint
    method_fingerprint()  # reads every module once
    serve(os.fdopen(here), None)
"""


class Process(Protocol):
    """A server's process."""

    def poll(self) -> int | None:
        """Return None while it runs."""

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """End it."""

    def wait(self, timeout: float) -> int:
        """Wait until it has ended, or raise ``subprocess.TimeoutExpired``."""


class _Fork:
    """A server forked by :class:`ServerForks`, which is not a child of this process."""

    def __init__(self, number: int) -> None:
        self._number = number

    def poll(self) -> int | None:
        try:
            os.kill(self._number, 0)
        except ProcessLookupError:
            return 0
        return None

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def wait(self, timeout: float) -> int:
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("streamlit", timeout)
            time.sleep(0.02)
        return 0

    def _send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self._number, number)


class ServerForks:
    """A process that has imported the libraries and forks servers on request.

    Most have the app's own modules imported too. A cold one has not, like one that a user starts.

    Do not use it for servers with other variables for ``huggingface_hub``, which reads them when it
    is imported.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _FORK],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(
        self, arguments: list[str], environment: dict[str, str], log: Path, is_cold: bool = False
    ) -> Process:
        """Start a server as :func:`start_server` does."""
        assert self._process.stdin is not None and self._process.stdout is not None
        asked = {
            "arguments": arguments,
            "environment": environment,
            "log": str(log),
            "is_cold": is_cold,
        }
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return _Fork(int(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process. Its servers keep running."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def start_server(arguments: list[str], environment: dict[str, str], log: Path) -> Process:
    """Start Streamlit with these arguments and additional environment variables."""
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "streamlit", *arguments],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


_ports: Final[dict[int, bool]] = {}
"""Ports that servers have used, and whether one uses it now."""


def take_port() -> int:
    """Return the first port that no server uses any more, or else a new one.

    (With few addresses, the browser can reuse the scripts that it has compiled.)
    """
    stopped = [port for port, is_used in _ports.items() if not is_used]
    port = stopped[0] if stopped else _free_port()
    _ports[port] = True
    return port


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class App:
    """A running server. With ``forks`` it starts in a second; otherwise as a user starts it."""

    def __init__(
        self,
        store: Path,
        environment: dict[str, str] | None = None,
        base_path: str = "",
        forks: ServerForks | None = None,
        is_cold: bool = False,
    ) -> None:
        self.port = take_port()
        self.url = f"http://localhost:{self.port}{base_path}"
        arguments = ["run", "app.py", "--server.port", str(self.port)]
        arguments += ["--server.showEmailPrompt", "false"]
        if base_path:
            arguments += ["--server.baseUrlPath", base_path.strip("/")]
        self.log = store.with_suffix(".log")
        chosen = {"CIRCUIT_OFFLINE": "1", "CIRCUIT_STORE": str(store)} | (environment or {})
        self.process = (
            forks.start(arguments, chosen, self.log, is_cold)
            if forks
            else start_server(arguments, chosen, self.log)
        )
        self._wait_until_healthy()

    def _wait_until_healthy(self) -> None:
        for _ in range(900):
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.1)
        self.stop()
        pytest.fail(f"the server did not start:\n{self.log.read_text()}")

    def stop(self) -> None:
        """Stop the server and wait until it has ended."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        _ports[self.port] = False
