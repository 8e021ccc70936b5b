"""`open_backend`: the backend with the real engine, as the environment configures it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cache.backend import Backend
from cache.catalogue import StoreError
from cache.engine import TracerEngine
from cache.store import DEFAULT_QUOTA, Store
from tracer import paths


def open_backend(root: Path | None = None, device: str | None = None) -> Backend[Any]:
    """Open the backend of this process, with its store in ``root`` and its models on ``device``.

    Without ``root`` the store is in ``CIRCUIT_STORE``, else in ``.store`` next to this package.
    ``CIRCUIT_STORE_GB`` limits its size (default 2). Without ``device``, or with ``"auto"``, models
    are opened on ``CIRCUIT_DEVICE``, else on CUDA, Apple MPS or the CPU. A device that is missing
    fails the jobs, not this function: torch is not imported here.

    Raises :class:`StoreError` when the store cannot be opened or its size is not a number.

    >>> import tempfile
    >>> from cache.request import TraceRequest
    >>> backend = open_backend(Path(tempfile.mkdtemp()), "cpu")
    >>> job = backend.trace(TraceRequest("The capital of the state containing Dallas is"))
    >>> job.result().targets[0].label
    ' Austin'
    >>> backend.trace(TraceRequest("The capital of the state containing Dallas is")).from_cache
    True
    >>> backend.close()
    """
    if root is None:
        default = Path(__file__).resolve().parent.parent / ".store"
        root = paths.expand_user(os.environ.get("CIRCUIT_STORE") or str(default))
    quota = paths.shared_quota("CIRCUIT_STORE_GB", DEFAULT_QUOTA, StoreError)
    return Backend(Store(root, quota), TracerEngine(device))
