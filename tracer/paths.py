"""Where things are kept that are neither the project's nor the hub cache's. No torch here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tracer.errors import TracerError

HOME_VARIABLE: Final = "CIRCUIT_HOME"
MODELS_VARIABLE: Final = "CIRCUIT_MODELS"


ATLAS_WEIGHTS: Final = Path(__file__).parent / "atlas" / "weights"
"""The embedded model, its transcoder sets and their feature indexes."""


def expand_user(path: str) -> Path:
    """A path as a person writes it: ``~`` is their home, and left as it is where it is no home."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (which raises)


def is_file(path: Path) -> bool:
    """False for what no path can be, or nobody may look at, too: it is said like any other."""
    return os.path.isfile(path)  # noqa: PTH113 (which raises)


def home() -> Path:
    """``CIRCUIT_HOME``, else a folder in the user's cache."""
    chosen = os.environ.get(HOME_VARIABLE)
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expand_user(chosen or f"{cache}/circuit-tracing")


def user_registry() -> Path:
    """The user's own list of models: ``CIRCUIT_MODELS``, else ``models.yaml`` in :func:`home`."""
    chosen = os.environ.get(MODELS_VARIABLE)
    return expand_user(chosen) if chosen else home() / "models.yaml"


def shared_quota(variable: str, default: int, refusal: type[TracerError]) -> int:
    """How many bytes the environment's ``variable``, a number of gigabytes, allows.

    Raises ``refusal`` where it is no positive number.
    """
    text = os.environ.get(variable)
    if not text:
        return default
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = -1.0
    if not 0 < gigabytes < float("inf"):
        raise refusal(f"{variable} is {text!r}: expected a positive number of gigabytes")
    return int(gigabytes * 10**9)


def downloads() -> Path:
    """Notes of what was downloaded, at which revision."""
    return home() / "downloads"


def explanations() -> Path:
    """Feature examples that were fetched one by one."""
    return home() / "explanations"


def indexes() -> Path:
    """Feature indexes built for sets whose own folder is not ours to write to."""
    return home() / "indexes"
