"""Models and transcoders on the hub: which commit a revision is, its files, and getting them.

Whatever is asked for is pinned to a commit first. The only package that knows ``huggingface_hub``,
which is imported when first needed: to import this is cheap.
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
"""What the hub said in this process: (endpoint, repository, revision) -> commit."""


@dataclass(frozen=True)
class HubFile:
    """A file of a repository."""

    path: str
    """Its path inside the repository, with slashes."""
    size: int
    """In bytes."""


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit."""

    repo: str
    commit: str
    files: tuple[HubFile, ...]
    whole: bool = True
    """False where the hub could not be asked: these are the files that are in the cache."""


def network_allowed() -> bool:
    """False when ``HF_HUB_OFFLINE`` or ``CIRCUIT_OFFLINE`` is set to a true value."""
    return not answers.switches()


def look_up(reference: Reference, anew: bool = False) -> Listing:
    """The commit that ``reference`` stands for now, and all files of the repository there.

    When the network is off or the hub does not answer: the commit that the revision was when last
    asked, and those of its files that are in the cache; not so when it has to be asked ``anew``.
    Raises :class:`tracer.errors.HubError`.
    """
    known = None if anew else _in_cache(reference)
    if not network_allowed():
        if known is None:
            why = "cannot be asked for" if anew else f"is not in the cache {cache.cache_folder()}"
            raise answers.network_is_off(f"{reference} {why}")
        return known
    try:
        # With something in the cache to fall back on, a silent host is asked once only.
        commit, contents = contents_at(reference, answers.WAITS if known is None else ())
    except (HubUnreachableError, BrokenTransferError):
        if known is None:
            raise
        return known
    _resolved_commits[(answers.endpoint(), reference.repo, reference.revision or _MAIN)] = commit
    return Listing(reference.repo, commit, tuple(HubFile(c.path, c.size) for c in contents))


def fetch(
    reference: Reference,
    paths: Sequence[str],
    progress: Progress | None = None,
    commit: str | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Path:
    """Have the files ``paths`` of a repository on this disk, all of one commit.

    Returns the folder of the snapshot, in which each file stands under its path. ``progress`` is
    called with bytes, ``(done, total, "downloading <path>")``; when it raises, the download stops
    and what has arrived is kept for the next time. Without ``commit`` it is what the reference
    stands for now. A file that is not of the size in ``sizes`` is fetched again. Nothing is asked
    of the network when all files are there. Raises
    :class:`tracer.errors.HubError`.
    """
    repo, revision = reference.repo, reference.revision or _MAIN
    for path in paths:
        _check_path(repo, path)
    if commit is None:
        commit = look_up(reference).commit
    root = cache.snapshot(repo, commit)
    sizes = sizes or {}
    missing = [path for path in dict.fromkeys(paths) if not _is_here(root / path, sizes.get(path))]
    try:
        if missing:
            if not network_allowed():
                raise _not_here(missing, reference, root)
            download(repo, commit, missing, progress)
        asked = _resolved_commits.get((answers.endpoint(), repo, revision))
        if asked == commit or cache.known_commit(repo, revision) is None:
            cache.remember(repo, revision, commit)
    except OSError as error:
        raise cache.unwritable(cache.cache_folder(), error) from error
    return root


def read_range(repo: str, path: str, commit: str, start: int, stop: int) -> bytes:
    """Bytes ``start`` to ``stop`` of a file, from the cache or by asking the hub for no more.

    Raises :class:`tracer.errors.HubError`, also when the file ends before ``stop``.
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
        raise _not_here([path], Reference(repo, revision=commit), cached.parent)
    if len(part) != stop - start:
        raise BrokenTransferError(
            f"{path} of {repo} holds {len(part)} of the bytes {start} to {stop}: the file is "
            "shorter than its index says"
        )
    return part


def _is_here(file: Path, size: int | None) -> bool:
    return file.is_file() and size in (None, file.stat().st_size)


def _in_cache(reference: Reference) -> Listing | None:
    commit = cache.known_commit(reference.repo, reference.revision or _MAIN)
    if commit is None:
        return None
    files = (HubFile(path, size) for path, size in cache.cached_files(reference.repo, commit))
    return Listing(reference.repo, commit, tuple(files), whole=False)


def _check_path(repo: str, path: str) -> None:
    if not cache.stays_inside(path):
        raise HubFileMissingError(
            f"{path!r} is no path inside {repo}: expected names joined by slashes"
        )


def _not_here(missing: Sequence[str], reference: Reference, root: Path) -> NetworkOffError:
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    verb = "are" if more else "is"
    return answers.network_is_off(f"{missing[0]}{more} of {reference} {verb} not in {root}")
