"""Download files from the hub: list them, resume partial ones, report progress, verify hashes.

Plain HTTP over ``huggingface_hub``'s session. Its own ``hf_hub_download`` discards a partial file
when it is stopped and reports every ten megabytes, which is not good enough for files of several
gigabytes (docs/decisions/downloads.md).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from tracer.errors import BrokenTransferError, CacheFolderError, HubUnreachableError
from tracer.files import format_bytes
from tracer.hub import answers, cache
from tracer.hub.reference import Reference
from tracer.types import Progress

if TYPE_CHECKING:
    from httpx2 import Response

REPORT_BYTES: Final = 2**20
REPORT_SECONDS: Final = 0.5
"""Interval of progress reports on a slow line. Each report is also a chance to cancel."""
_LARGEST: Final = 50 * 10**9  # bytes; the hub does not serve larger files over plain HTTP
_NO_FOLDER: Final = (NotADirectoryError, IsADirectoryError, PermissionError)
_MALFORMED: Final = (
    AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError,
)  # fmt: skip
"""Errors of the hub's library for an answer that is not JSON, or not the JSON of a hub."""
_TIMEOUT: Final = 10.0  # seconds without a byte


@dataclass(frozen=True)
class Content:
    """Path, size and hash of a file, as the hub lists them."""

    path: str
    size: int
    etag: str
    """SHA-256 for large files, git's SHA-1 for others."""


class _Meter:
    """Reports the progress of one file as part of the total; never decreases."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._reported = 0
        self.before = 0
        self.path = ""

    def __call__(self, done: int, doing: str = "downloading") -> None:
        if self._progress is not None:
            self._reported = max(self._reported, self.before + done)
            self._progress(self._reported, self._total, f"{doing} {self.path}")


def contents_at(reference: Reference, waits: Sequence[float]) -> tuple[str, list[Content]]:
    """Return the current commit of ``reference`` and the repository's files, sorted by path."""
    from huggingface_hub import HfApi

    def ask() -> tuple[str, list[Content]]:
        try:
            info = HfApi(endpoint=answers.endpoint()).model_info(
                reference.repo,
                revision=reference.revision or "main",
                files_metadata=True,
                timeout=_TIMEOUT,
            )
            contents = [
                Content(
                    str(entry.rfilename),
                    int(entry.size),
                    str(entry.lfs.sha256 if entry.lfs else entry.blob_id),
                )
                for entry in info.siblings
            ]
            if not cache.COMMIT.fullmatch(info.sha):
                raise ValueError(f"the commit is {info.sha!r}")
            if any(content.size < 0 for content in contents):
                raise ValueError("a file has a negative size")
        except _MALFORMED as error:
            raise answers.odd_answer(reference, error) from error
        except _NO_FOLDER as error:  # the library reads the access token from there
            raise CacheFolderError(
                f"the Hugging Face settings cannot be read ({error}): set HF_HOME to a folder that "
                "can be read"
            ) from error
        return info.sha, sorted(contents, key=lambda content: content.path)

    return answers.with_retries(reference, ask, waits)


def download(repo: str, commit: str, paths: Sequence[str], progress: Progress | None) -> None:
    """Download ``paths`` into the snapshot of ``commit``, one after the other."""
    _, contents = contents_at(Reference(repo, revision=commit), answers.WAITS)
    listed = {content.path: content for content in contents}
    absent = [path for path in paths if path not in listed]
    if absent:
        raise answers.file_is_missing(repo, absent[0], commit)
    files = [(listed[path], cache.blob_file(repo, listed[path].etag)) for path in paths]
    total = sum(content.size for content, _ in files)
    cached = sum(_received(blob, content.size) for content, blob in files)
    cache.need_room(cache.cache_folder(), total - cached)
    meter = _Meter(progress, total)
    for content, blob in files:
        meter.path = content.path
        meter(0)
        with _locked(blob, meter):
            if not _is_complete(blob, content.size):
                _fetch(Reference(repo, content.path, commit), content, blob, meter)
            cache.link(blob, repo, commit, content.path)
        meter(content.size)
        meter.before += content.size


def part_of(repo: str, path: str, commit: str, start: int, stop: int) -> bytes:
    """Return bytes ``start`` to ``stop`` of a file on the hub."""
    reference = Reference(repo, path, commit)

    def ask() -> bytes:
        with _stream(reference, f"bytes={start}-{stop - 1}") as response:
            if response.status_code != 206:
                raise answers.odd_answer(
                    reference, "it does not support requests for a part of a file"
                )
            part = bytearray()
            for chunk in response.iter_bytes():
                part += chunk
                if len(part) > stop - start:
                    raise answers.odd_answer(reference, "it sends more bytes than requested")
            return bytes(part)

    return answers.with_retries(reference, ask, answers.WAITS[:1])


@contextmanager
def _stream(reference: Reference, byte_range: str | None) -> Iterator[Response]:
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    repository = f"{answers.endpoint()}/{reference.repo}"
    url = f"{repository}/resolve/{reference.revision}/{quote(reference.folder)}"
    # A compressed file could not be resumed, and its size would not match.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if byte_range is not None:
        headers["Range"] = byte_range
    with get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT) as response:
        hf_raise_for_status(response)
        yield response


@contextmanager
def _locked(blob: Path, meter: _Meter) -> Iterator[None]:
    """Hold the lock of these contents; waiting for another download can be cancelled."""
    from filelock import Timeout
    from huggingface_hub.utils import WeakFileLock

    lock = cache.lock_file(blob)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(WeakFileLock(lock, timeout=0.5))
                break
            except Timeout:
                meter(0, "waiting for another download of")
        yield


def _fetch(reference: Reference, content: Content, blob: Path, meter: _Meter) -> None:
    """Append to the partial file until it is complete, verify it, and rename it to ``blob``."""
    if content.size > _LARGEST:
        raise BrokenTransferError(
            f"{content.path} of {reference.repo} has {format_bytes(content.size)}, more than the "
            f"{format_bytes(_LARGEST)} that the hub sends over plain HTTP: fetch it with "
            f"`hf download {reference.repo} {content.path}`"
        )
    partial = cache.partial_file(blob)
    partial.parent.mkdir(parents=True, exist_ok=True)
    waits = list(answers.WAITS)
    while True:
        before = _size(partial)
        try:
            digest = answers.as_hub_errors(
                reference, lambda: _append(reference, content, partial, meter)
            )
            break
        except (BrokenTransferError, HubUnreachableError):
            if _size(partial) > before:
                waits = list(answers.WAITS)
            if not waits:
                raise
            _pause(waits.pop(0), _received(blob, content.size), meter)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            needed = content.size - _received(blob, content.size)
            raise cache.disk_full(cache.cache_folder(), needed, 0) from error
    if digest != content.etag:
        partial.unlink()
        raise BrokenTransferError(
            f"{content.path} of {reference.repo} arrived damaged (its hash is {digest[:12]}…, "
            f"expected {content.etag[:12]}…) and was deleted: try again"
        )
    partial.replace(blob)


def _append(reference: Reference, content: Content, partial: Path, meter: _Meter) -> str:
    """Download the rest of a file into ``partial``; return the hash of the complete file."""
    digest, done = cache.hasher(content.etag, content.size), 0
    if _size(partial) <= content.size:
        with partial.open("ab+") as file:
            file.seek(0)
            while chunk := file.read(REPORT_BYTES):
                digest.update(chunk)
                done += len(chunk)
    if done == content.size:
        return digest.hexdigest()
    with _stream(reference, f"bytes={done}-" if done else None) as response:
        if done and response.status_code != 206:  # the server starts from the beginning
            digest, done = cache.hasher(content.etag, content.size), 0
        reported, reported_at = done, time.monotonic()
        with partial.open("ab" if done else "wb") as file:
            for chunk in response.iter_bytes():
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if done > content.size:
                    break
                now = time.monotonic()
                if done - reported >= REPORT_BYTES or now - reported_at >= REPORT_SECONDS:
                    meter(done)
                    reported, reported_at = done, now
    if done != content.size:
        raise BrokenTransferError(
            f"{content.path} of {reference.repo} is incomplete ({done} of {content.size} bytes "
            "arrived): try again, the download continues where it stopped"
        )
    return digest.hexdigest()


def _pause(seconds: float, done: int, meter: _Meter) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        meter(done, f"no answer from {answers.host()}, retrying")
        time.sleep(min(0.25, left))


def _received(blob: Path, size: int) -> int:
    """Return how many bytes of a file are on this disk already."""
    return size if _is_complete(blob, size) else min(_size(cache.partial_file(blob)), size)


def _is_complete(blob: Path, size: int) -> bool:
    """Return whether the contents exist and were not truncated since."""
    return blob.is_file() and _size(blob) == size


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
