"""Files on the Hugging Face Hub: resolve a revision to a commit, list its files, download them.

Everything is pinned to a commit first. This is the only package that imports ``huggingface_hub``,
and only when it is first needed, so importing this package is cheap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracer.errors import (
    BrokenTransferError,
    HubFileMissingError,
    HubUnreachableError,
    NetworkOffError,
)
from tracer.hub import answers, cache
from tracer.hub.cache import cache_folder
from tracer.hub.reference import Reference
from tracer.hub.transfer import contents_at, download, part_of
from tracer.types import Progress

__all__ = [
    "HubFile",
    "Listing",
    "Reference",
    "cache_folder",
    "fetch",
    "look_up",
    "network_allowed",
    "read_range",
]

_MAIN = "main"
_resolved_commits: dict[tuple[str, str, str], str] = {}
"""Commits that the hub named in this process: (endpoint, repository, revision) -> commit."""


@dataclass(frozen=True)
class HubFile:
    """A file of a repository."""

    path: str
    """Path inside the repository, with slashes."""
    size: int
    """Size in bytes."""


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit."""

    repo: str
    commit: str
    files: tuple[HubFile, ...]
    complete: bool = True
    """False when the hub could not be reached: only the files in the cache are listed."""


def network_allowed() -> bool:
    """Return whether the network may be used.

    It may not when ``HF_HUB_OFFLINE``, ``TRANSFORMERS_OFFLINE`` or ``CIRCUIT_OFFLINE`` is true.

    >>> import os
    >>> os.environ["CIRCUIT_OFFLINE"] = "1"
    >>> network_allowed()
    False
    >>> del os.environ["CIRCUIT_OFFLINE"]
    """
    return not answers.switches()


def look_up(reference: Reference, anew: bool = False) -> Listing:
    """Return the current commit of ``reference`` and all files of the repository at that commit.

    When the network is off or the hub does not answer, return the last known commit and its files
    in the cache; with ``anew``, raise instead. Raises :class:`tracer.errors.HubError`.
    """
    cached = None if anew else _in_cache(reference)
    if not network_allowed():
        if cached is None:
            why = "cannot be updated" if anew else f"is not in the cache {cache.cache_folder()}"
            raise answers.network_is_off(f"{reference} {why}")
        return cached
    try:
        # With a cached listing to fall back on, one attempt is enough.
        commit, contents = contents_at(reference, answers.WAITS if cached is None else ())
    except (HubUnreachableError, BrokenTransferError):
        if cached is None:
            raise
        return cached
    _resolved_commits[(answers.endpoint(), reference.repo, reference.revision or _MAIN)] = commit
    return Listing(reference.repo, commit, tuple(HubFile(c.path, c.size) for c in contents))


def fetch(
    reference: Reference,
    paths: Sequence[str],
    progress: Progress | None = None,
    commit: str | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Path:
    """Download the files ``paths`` of a repository, all at one commit, unless they are cached.

    Returns the snapshot folder, which contains each file under its path. ``progress`` is called
    with bytes, ``(done, total, "downloading <path>")``; when it raises, the download stops and the
    bytes received so far are kept for the next attempt. ``commit`` defaults to the current commit
    of the reference. A cached file whose size differs from the one in ``sizes`` is fetched again.
    The network is not used when all files are cached. Raises :class:`tracer.errors.HubError`.
    """
    repo, revision = reference.repo, reference.revision or _MAIN
    for path in paths:
        _check_path(repo, path)
    if commit is None:
        commit = look_up(reference).commit
    root = cache.snapshot(repo, commit)
    sizes = sizes or {}
    missing = [p for p in dict.fromkeys(paths) if not _is_cached(root / p, sizes.get(p))]
    try:
        if missing:
            if not network_allowed():
                raise _not_cached(missing, reference, root)
            download(repo, commit, missing, progress)
        current = _resolved_commits.get((answers.endpoint(), repo, revision))
        if current == commit or cache.known_commit(repo, revision) is None:
            cache.remember(repo, revision, commit)
    except OSError as error:
        raise cache.unwritable(cache.cache_folder(), error) from error
    return root


def read_range(repo: str, path: str, commit: str, start: int, stop: int) -> bytes:
    """Return bytes ``start`` to ``stop`` of a file, from the cache or from the hub.

    Only these bytes are downloaded. Raises :class:`tracer.errors.HubError`, also when the file ends
    before ``stop``.
    """
    _check_path(repo, path)
    if stop <= start:
        return b""
    cached = cache.snapshot(repo, commit) / path
    if cached.is_file():
        with cached.open("rb") as file:
            file.seek(start)
            part = file.read(stop - start)
    elif network_allowed():
        part = part_of(repo, path, commit, start, stop)
    else:
        raise _not_cached([path], Reference(repo, revision=commit), cached.parent)
    if len(part) != stop - start:
        raise BrokenTransferError(
            f"{path} of {repo} is too short: expected bytes {start} to {stop}, got {len(part)} of "
            "them; the file does not match the index that describes it"
        )
    return part


def _is_cached(file: Path, size: int | None) -> bool:
    return file.is_file() and size in (None, file.stat().st_size)


def _in_cache(reference: Reference) -> Listing | None:
    commit = cache.known_commit(reference.repo, reference.revision or _MAIN)
    if commit is None:
        return None
    files = (HubFile(path, size) for path, size in cache.cached_files(reference.repo, commit))
    return Listing(reference.repo, commit, tuple(files), complete=False)


def _check_path(repo: str, path: str) -> None:
    if not cache.stays_inside(path):
        raise HubFileMissingError(
            f"{path[:200]!r} is not a path inside {repo}: expected names joined by slashes"
        )


def _not_cached(missing: Sequence[str], reference: Reference, root: Path) -> NetworkOffError:
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    verb = "are" if more else "is"
    return answers.network_is_off(f"{missing[0]}{more} of {reference} {verb} not in {root}")
