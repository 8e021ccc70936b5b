"""Read an uploaded file in a process of its own, with a limit on its memory and time.

A legal file of 100 MB can take gigabytes and many seconds to parse. In the server's own process
that would stop every visitor. Small files cannot, and are read here.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cache.annotations import Annotations
from cache.graph_files import ImportedGraph, read_import
from cache.machine import measured
from tracer.errors import ExternalGraphError, TracerError
from tracer.files import format_bytes
from tracer.graph.graph import load_graph

SMALL: Final = 10**6
"""Bytes, uncompressed, of a file that is read in this process."""
MEMORY: Final = 4 * 10**9
"""The most memory that reading a file may take; less where less is free."""
SECONDS: Final = 120.0
_LEAST_MEMORY: Final = 10**9
_POLL: Final = 0.05
_ROOT: Final = Path(__file__).resolve().parents[1]
_START: Final = "import sys; sys.path.insert(0, sys.argv[1]); from cache.upload import main; main()"


def read_upload(
    content: bytes,
    name: str,
    check: Callable[[], None] = lambda: None,
    memory: int = MEMORY,
    seconds: float = SECONDS,
) -> ImportedGraph:
    """Read published JSON or a `.pt`, as :func:`cache.graph_files.read_import` does.

    ``check`` is called while a large file is read; if it raises, reading ends. Raises
    :class:`ExternalGraphError` also when the file needs more than ``memory`` bytes or ``seconds``.
    """
    if _unpacked(content) <= SMALL:
        return read_import(content, name)
    allowed = max(_LEAST_MEMORY, min(memory, measured().free_memory // 2))
    with tempfile.TemporaryDirectory(prefix="upload-") as folder:
        place = Path(folder)
        (place / "upload").write_bytes(content)
        command = [
            sys.executable,
            "-c",
            _START,
            str(_ROOT),
            folder,
            name,
            str(min(allowed, memory)),
        ]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        ) as child:
            try:
                _wait(child, name, check, seconds)
            finally:
                child.kill()
        return _result(place, content, name, min(allowed, memory))


def _unpacked(content: bytes) -> int:
    """Return the size of a file; for a zip, what it says that it unpacks to."""
    if not content.startswith(b"PK"):
        return len(content)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            return max(len(content), sum(entry.file_size for entry in file.infolist()))
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return len(content)


def _wait(
    child: subprocess.Popen[bytes], name: str, check: Callable[[], None], seconds: float
) -> None:
    end = time.monotonic() + seconds
    while child.poll() is None:
        check()
        if time.monotonic() > end:
            raise ExternalGraphError(
                f"{name} takes longer than {seconds:.0f} s to read: prune the graph before you "
                "export it"
            )
        time.sleep(_POLL)


def _result(place: Path, content: bytes, name: str, memory: int) -> ImportedGraph:
    try:
        stored: dict[str, Any] = json.loads((place / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExternalGraphError(
            f"{name} needs more than {format_bytes(memory)} of memory to read: prune the graph "
            "before you export it"
        ) from error
    if "error" in stored:
        raise ExternalGraphError(stored["error"])
    return ImportedGraph(
        stored["key"],
        load_graph(place / "graph"),
        stored["title"],
        Annotations.from_json(stored["annotations"]),
        content if stored["has_original"] else None,
    )


def main() -> None:
    """Read the file in the folder ``sys.argv[2]``; the result is written next to it."""
    _, folder, name, memory = sys.argv[1:]
    place = Path(folder)
    _limit(int(memory))
    try:
        new = read_import((place / "upload").read_bytes(), name)
    except TracerError as error:
        result: dict[str, Any] = {"error": str(error)}
    else:
        (place / "graph").write_bytes(new.graph.to_bytes())
        result = {
            "key": new.key,
            "title": new.title,
            "annotations": new.annotations.to_json(),
            "has_original": new.original is not None,
        }
    partial = place / "result.part"
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.replace(place / "result.json")


def _limit(memory: int) -> None:
    """Limit the memory of this process, where the system can; it is also killed first."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.nice(5)
