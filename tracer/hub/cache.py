"""The cache folder that all Hugging Face tools share: look up files in it and add files to it.

    models--org--name/refs/main                  the last known commit of ``main``
    models--org--name/blobs/<etag>               contents, named by their hash
    models--org--name/snapshots/<commit>/<path>  links into ``blobs``

Nothing here uses the network or ``huggingface_hub``; docs/decisions/downloads.md says why.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path, PurePosixPath

from tracer import paths
from tracer.errors import CacheFolderError, DiskFullError, HubAnswerError
from tracer.files import atomic_write, format_bytes, replacing

COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def cache_folder() -> Path:
    """Return the folder of downloads, from the variables that every Hugging Face tool reads.

    They are read at each call; ``huggingface_hub`` reads them once, when it is imported.
    """
    for variable, below in (
        ("HF_HUB_CACHE", ""),
        ("HUGGINGFACE_HUB_CACHE", ""),
        ("HF_HOME", "hub"),
        ("XDG_CACHE_HOME", _HUB),
    ):
        if os.environ.get(variable):
            return paths.expand_user(os.path.expandvars(os.environ[variable])) / below
    return paths.expand_user("~/.cache") / _HUB


_HUB = "huggingface/hub"


def repo_folder(repo: str) -> Path:
    """Return the folder of a model repository, whether it exists or not."""
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def snapshot(repo: str, commit: str) -> Path:
    """Return the folder of the repository's files at ``commit``, whether it exists or not."""
    return repo_folder(repo) / "snapshots" / commit


def known_commit(repo: str, revision: str) -> str | None:
    """Return the commit of a branch, tag or commit if any file of it is cached, else None."""
    commit = revision
    if not COMMIT.fullmatch(revision):
        try:
            note = (repo_folder(repo) / "refs" / revision).read_bytes()
        except OSError:  # absent or unreadable: either way the hub has to be asked
            return None
        commit = note.decode("ascii", "replace").strip()
    if not COMMIT.fullmatch(commit) or not snapshot(repo, commit).is_dir():
        return None
    return commit


def cached_files(repo: str, commit: str) -> list[tuple[str, int]]:
    """Return the path in the repository and the size in bytes of every cached file."""
    root = snapshot(repo, commit)
    return sorted(
        (path.relative_to(root).as_posix(), path.stat().st_size)
        for path in root.rglob("*")
        if path.is_file()
    )


def remember(repo: str, revision: str, commit: str) -> None:
    """Note the commit of a branch or tag, so that it can be looked up without the network."""
    reference = repo_folder(repo) / "refs" / revision
    if COMMIT.fullmatch(revision) or known_commit(repo, revision) == commit:
        return
    reference.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(reference, commit)


def stays_inside(path: str) -> bool:
    """Return whether a path in a repository stays inside the folder it is joined to."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not ({"..", "/"} & set(parts)) and "\\" not in path and ":" not in path


def blob_file(repo: str, etag: str) -> Path:
    """Return the file for contents with this hash; raises :class:`HubAnswerError` for no hash."""
    if not _ETAG.fullmatch(etag):
        raise HubAnswerError(
            f"the hub gives {etag[:80]!r} as the hash of a file of {repo}: expected a SHA-1 or "
            "SHA-256 in hexadecimal; check HF_ENDPOINT"
        )
    return repo_folder(repo) / "blobs" / etag


def partial_file(blob: Path) -> Path:
    """Return the file that a download is written to; it is kept when the download stops."""
    return blob.with_name(f"{blob.name}.incomplete")


def lock_file(blob: Path) -> Path:
    """Return the lock that prevents two downloads of the same contents."""
    repo = blob.parent.parent
    return repo.parent / ".locks" / repo.name / f"{blob.name}.lock"


def hasher(etag: str, size: int) -> hashlib._Hash:
    """Return the hash that ``etag`` is made with: SHA-256 for large files, else git's SHA-1.

    It detects damage in transfer; it is not a defence against an attacker.
    """
    if len(etag) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def link(blob: Path, repo: str, commit: str, path: str) -> None:
    """Link ``path`` of the snapshot to its contents; copy them where links are not supported."""
    pointer = snapshot(repo, commit) / path
    pointer.parent.mkdir(parents=True, exist_ok=True)
    with replacing(pointer) as fresh:
        try:
            fresh.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:  # a file system, or a Windows account, without symbolic links
            shutil.copyfile(blob, fresh)


def need_room(folder: Path, needed: int) -> None:
    """Raise :class:`DiskFullError` if ``needed`` more bytes do not fit on the disk."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise disk_full(folder, needed, free)


def disk_full(folder: Path, needed: int, free: int) -> DiskFullError:
    """Return the error for a disk without enough space."""
    return DiskFullError(
        f"the download needs {format_bytes(needed)} in {folder}, where {format_bytes(free)} are "
        "free: make room, or set HF_HUB_CACHE to a folder on a larger disk"
    )


def unwritable(folder: Path, error: OSError) -> CacheFolderError:
    """Return the error for a cache folder that cannot be written."""
    return CacheFolderError(
        f"the download folder {folder} cannot be written ({error.strerror or error}): make it "
        "writable, or set HF_HUB_CACHE to another folder"
    )
