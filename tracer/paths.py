"""The folders and files that this project keeps outside its own and the hub's. No torch here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import platformdirs

from tracer.errors import TracerError

HOME_VARIABLE: Final = "CIRCUIT_HOME"
MODELS_VARIABLE: Final = "CIRCUIT_MODELS"

ATLAS_WEIGHTS: Final = Path(__file__).parent / "atlas" / "weights"
"""The embedded model, its transcoder sets and their feature indexes."""
NOVELS_WEIGHTS: Final = Path(__file__).parent / "novels" / "weights"
"""The embedded model of English, in the same form."""


def expand_user(path: str) -> Path:
    """Replace a leading ``~`` by the home directory; leave it where there is no home directory.

    >>> expand_user("models.yaml")
    PosixPath('models.yaml')
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser raises)


def is_file(path: Path) -> bool:
    """Return whether ``path`` is a file; False, never an error, if it is malformed or unreadable.

    >>> is_file(Path(__file__)), is_file(Path("no\\0path"))
    (True, False)
    """
    return os.path.isfile(path)  # noqa: PTH113 (Path.is_file raises)


def home() -> Path:
    """Return the folder for everything this project keeps: ``CIRCUIT_HOME``, or the user's cache.

    The user's cache folder is the platform's: ``$XDG_CACHE_HOME/circuit-tracing`` (usually
    ``~/.cache/circuit-tracing``) on Linux. Raises :class:`tracer.errors.TracerError` when neither
    ``CIRCUIT_HOME`` nor a home directory is set.
    """
    if chosen := os.environ.get(HOME_VARIABLE):
        return expand_user(chosen)
    try:
        return platformdirs.user_cache_path("circuit-tracing", appauthor=False)
    except RuntimeError as error:
        raise TracerError(
            f"no cache folder: {error}; or set {HOME_VARIABLE} to a folder to use instead"
        ) from error


def user_registry() -> Path:
    """Return the user's own list of models: ``CIRCUIT_MODELS``, or ``models.yaml`` in `home`."""
    chosen = os.environ.get(MODELS_VARIABLE)
    return expand_user(chosen) if chosen else home() / "models.yaml"


def shared_quota(variable: str, default: int, refusal: type[TracerError]) -> int:
    """Return the quota in bytes that the environment ``variable`` sets in gigabytes.

    Returns ``default`` when it is unset or empty; raises ``refusal`` when it is not a positive
    number.

    >>> shared_quota("CIRCUIT_DOCTEST_GB", 10**9, TracerError)
    1000000000
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
    """Return the folder of download notes: what was downloaded, and at which commit."""
    return home() / "downloads"


def feature_cards() -> Path:
    """Return the folder of feature cards that were fetched one by one."""
    return home() / "explanations"  # the name on disk stays, so that fetched cards are found


def indexes() -> Path:
    """Return the folder of feature indexes built for sets from the hub, whose folder is shared."""
    return home() / "indexes"
