"""The cache folder that every Hugging Face tool shares: what is in it, and how a file enters it.

    models--org--name/refs/main                  the commit that ``main`` was when last asked
    models--org--name/blobs/<etag>               contents, named by their hash
    models--org--name/snapshots/<commit>/<path>  links into ``blobs``

Disk only: nothing here knows the network, and ``huggingface_hub`` is not needed to look inside.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from pathlib import Path, PurePosixPath

from tracer import paths
from tracer.errors import CacheFolderError, DiskFullError, HubAnswerError
from tracer.files import atomic_write, format_bytes

COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def cache_folder() -> Path:
    """Where downloads go, by the variables that every Hugging Face tool reads."""
    for variable, below in (("HF_HUB_CACHE", ""), ("HF_HOME", "hub"), ("XDG_CACHE_HOME", _HUB)):
        if os.environ.get(variable):
            return paths.expand_user(os.path.expandvars(os.environ[variable])) / below
    return paths.expand_user("~/.cache") / _HUB


_HUB = "huggingface/hub"


def repo_folder(repo: str) -> Path:
    """The folder of one model repository, there or not."""
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def snapshot(repo: str, commit: str) -> Path:
    """The folder that holds the repository's files at ``commit``, there or not."""
    return repo_folder(repo) / "snapshots" / commit


def known_commit(repo: str, revision: str) -> str | None:
    """The commit of a branch, tag or commit when anything of it is in the cache, else None."""
    commit = revision
    if not COMMIT.fullmatch(revision):
        reference = repo_folder(repo) / "refs" / revision
        commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else ""
    if not COMMIT.fullmatch(commit) or not snapshot(repo, commit).is_dir():
        return None
    return commit


def cached_files(repo: str, commit: str) -> list[tuple[str, int]]:
    """Paths inside the repository and sizes in bytes of the files that are here whole."""
    root = snapshot(repo, commit)
    return sorted(
        (path.relative_to(root).as_posix(), path.stat().st_size)
        for path in root.rglob("*")
        if path.is_file()
    )


def remember(repo: str, revision: str, commit: str) -> None:
    """Note which commit a branch or tag is, so that it is found again without the network."""
    reference = repo_folder(repo) / "refs" / revision
    if COMMIT.fullmatch(revision) or known_commit(repo, revision) == commit:
        return
    reference.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(reference, commit)


def stays_inside(path: str) -> bool:
    """Whether a path inside a repository cannot lead out of the folder it is put in."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not ({"..", "/"} & set(parts)) and "\\" not in path and ":" not in path


def blob_file(repo: str, etag: str) -> Path:
    """Where the contents with this hash are kept; refuses what is no hash."""
    if not _ETAG.fullmatch(etag):
        raise HubAnswerError(
            f"the hub names the contents of a file of {repo} by {etag[:80]!r}: expected a SHA-1 or "
            "SHA-256 in hexadecimal; check what HF_ENDPOINT points to"
        )
    return repo_folder(repo) / "blobs" / etag


def partial_file(blob: Path) -> Path:
    """Where the contents gather until they are whole; kept when a download stops."""
    return blob.with_name(f"{blob.name}.incomplete")


def lock_file(blob: Path) -> Path:
    """The lock that keeps two downloads of the same contents apart."""
    repo = blob.parent.parent
    return repo.parent / ".locks" / repo.name / f"{blob.name}.lock"


def hasher(etag: str, size: int) -> hashlib._Hash:
    """What to feed the contents to for their name: SHA-256 of large files, git's SHA-1 of others.

    Both say whether the contents arrived unharmed; neither is asked to keep an attacker out.
    """
    if len(etag) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def link(blob: Path, repo: str, commit: str, path: str) -> None:
    """Make whole contents appear as ``path`` of the snapshot; a copy where links are refused."""
    pointer = snapshot(repo, commit) / path
    pointer.parent.mkdir(parents=True, exist_ok=True)
    fresh = pointer.with_name(f".{uuid.uuid4().hex[:8]}.link")
    try:
        fresh.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:  # a file system, or a Windows account, without symbolic links
        shutil.copyfile(blob, fresh)
    fresh.replace(pointer)


def need_room(folder: Path, needed: int) -> None:
    """Refuse, with the numbers, a download of ``needed`` bytes that would not fit on the disk."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise disk_full(folder, needed, free)


def disk_full(folder: Path, needed: int, free: int) -> DiskFullError:
    """The error for a disk without room."""
    return DiskFullError(
        f"{format_bytes(needed)} have to be downloaded to {folder}, and {format_bytes(free)} are "
        "free there: make room, or set HF_HUB_CACHE to a folder on a larger disk"
    )


def unwritable(folder: Path, error: OSError) -> CacheFolderError:
    """The error for a cache folder that the system refuses to write to."""
    return CacheFolderError(
        f"downloads cannot be written to {folder} ({error.strerror or error}): make it writable, "
        "or set HF_HUB_CACHE to another folder"
    )
