"""Open the backend of this process, as the environment asks for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cache import health, logs, ray_workers
from cache.backend import Backend
from cache.catalogue import StoreError
from cache.engine import TracerEngine
from cache.store import DEFAULT_QUOTA, Store
from tracer import paths
from tracer.errors import TracerError


def default_root() -> Path:
    """Return the folder of the store: ``CIRCUIT_STORE``, else :func:`_usual_root`."""
    chosen = os.environ.get("CIRCUIT_STORE")
    return paths.expand_user(chosen) if chosen else _usual_root(Path(__file__).resolve().parents[1])


def _usual_root(code: Path) -> Path:
    """Return ``.store`` in a checkout of this project, else a folder in the user's cache.

    An installed package is in a folder that other users share, and that an update replaces.
    """
    is_checkout = (code / "pyproject.toml").is_file()
    return code / ".store" if is_checkout else paths.home() / "store"


def open_backend(root: Path | None = None, device: str | None = None) -> Backend[Any]:
    """Open the backend of this process, with its store in ``root`` and its models on ``device``.

    Without ``root`` the store is in ``CIRCUIT_STORE``, else in ``.store`` in a checkout of this
    project, else in ``store`` in :func:`tracer.paths.home`.
    ``CIRCUIT_STORE_GB`` limits its size (default 2). Without ``device``, or with ``"auto"``, models
    are opened on ``CIRCUIT_DEVICE``, else on CUDA, Apple MPS or the CPU. A device that is missing
    fails the jobs, not this function: torch is not imported here.

    With ``CIRCUIT_RAY`` prompts are traced on a Ray cluster; see :mod:`cache.ray_workers`.

    Raises :class:`StoreError` when the store cannot be opened or its size is not a number, and
    :class:`TracerError` when the cluster cannot be used.

    >>> import tempfile
    >>> from cache import TraceRequest
    >>> backend = open_backend(Path(tempfile.mkdtemp()), "cpu")
    >>> job = backend.trace(TraceRequest("The capital of the state containing Dallas is"))
    >>> job.result().targets[0].label
    ' Austin'
    >>> backend.trace(TraceRequest("The capital of the state containing Dallas is")).from_cache
    True
    >>> backend.close()
    """
    root = root or default_root()
    quota = paths.shared_quota("CIRCUIT_STORE_GB", DEFAULT_QUOTA, StoreError)
    backend = Backend(Store(root, quota), TracerEngine(device))
    if os.environ.get(logs.VARIABLE) == "json":
        logs.log_json()
    address = os.environ.get(ray_workers.VARIABLE)
    if address:
        try:
            backend.trace_on(*ray_workers.connect(address))
        except TracerError:
            backend.close()
            raise
    port = os.environ.get(health.VARIABLE, "")
    if port.isdecimal():
        backend.serve_health(int(port))
    return backend
