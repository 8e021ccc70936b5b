"""Bytes from the hub to this disk: listed, continued where they were stopped, counted, compared.

Plain HTTP over ``huggingface_hub``'s session. Its own ``hf_hub_download`` throws away what it has
when it is stopped, and reports every ten megabytes; files of several gigabytes deserve better.
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
"""Progress is told this often on a slow line, too: it is also where a download can be stopped."""
_LARGEST: Final = 50 * 10**9  # the hub serves no larger file by plain HTTP
_NO_FOLDER: Final = (NotADirectoryError, IsADirectoryError, PermissionError)
_PATIENCE: Final = 10.0  # seconds without a byte


@dataclass(frozen=True)
class Content:
    """What the hub says of a file before it is fetched."""

    path: str
    size: int
    etag: str
    """SHA-256 of a large file, git's SHA-1 of another."""


class _Meter:
    """Tells the progress of one file as a share of all; never goes back."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._told = 0
        self.before = 0
        self.path = ""

    def __call__(self, done: int, doing: str = "downloading") -> None:
        if self._progress is not None:
            self._told = max(self._told, self.before + done)
            self._progress(self._told, self._total, f"{doing} {self.path}")


def contents_at(place: Reference, waits: Sequence[float]) -> tuple[str, list[Content]]:
    """The commit that ``place`` stands for, and what the repository holds there, by path."""
    from huggingface_hub import HfApi

    def ask() -> tuple[str, list[Content]]:
        try:
            found = HfApi(endpoint=answers.endpoint()).model_info(
                place.repo,
                revision=place.revision or "main",
                files_metadata=True,
                timeout=_PATIENCE,
            )
            contents = [
                Content(
                    str(entry.rfilename),
                    int(entry.size),
                    str(entry.lfs.sha256 if entry.lfs else entry.blob_id),
                )
                for entry in found.siblings
            ]
            if not cache.COMMIT.fullmatch(found.sha):
                raise ValueError(f"the commit is {found.sha!r}")
        except (
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
        ) as error:  # no JSON, or not a hub's
            raise answers.odd_answer(place, error) from error
        except _NO_FOLDER as error:  # the library looks for an access token there
            raise CacheFolderError(
                f"the settings of the hub cannot be read ({error}): check HF_HOME, which names a "
                "folder"
            ) from error
        return found.sha, sorted(contents, key=lambda content: content.path)

    return answers.with_retries(place, ask, waits)


def download(repo: str, commit: str, paths: Sequence[str], progress: Progress | None) -> None:
    """Fetch ``paths`` into the snapshot of ``commit``, one after the other."""
    _, contents = contents_at(Reference(repo, revision=commit), answers.WAITS)
    listed = {content.path: content for content in contents}
    absent = [path for path in paths if path not in listed]
    if absent:
        raise answers.file_is_missing(repo, absent[0], commit)
    wanted = [(listed[path], cache.blob_file(repo, listed[path].etag)) for path in paths]
    total = sum(content.size for content, _ in wanted)
    here = sum(_arrived(blob, content.size) for content, blob in wanted)
    cache.need_room(cache.cache_folder(), total - here)
    meter = _Meter(progress, total)
    for content, blob in wanted:
        meter.path = content.path
        meter(0)
        with _alone(blob, meter):
            if not _is_whole(blob, content.size):
                _gather(Reference(repo, content.path, commit), content, blob, meter)
            cache.link(blob, repo, commit, content.path)
        meter(content.size)
        meter.before += content.size


def part_of(repo: str, path: str, commit: str, start: int, stop: int) -> bytes:
    """Bytes ``start`` to ``stop`` of a file on the hub."""
    place = Reference(repo, path, commit)

    def ask() -> bytes:
        with _stream(place, f"bytes={start}-{stop - 1}") as response:
            if response.status_code != 206:
                raise answers.odd_answer(place, "it sends whole files where a part was asked for")
            part = bytearray()
            for chunk in response.iter_bytes():
                part += chunk
                if len(part) > stop - start:
                    raise answers.odd_answer(place, "it sends more bytes than were asked for")
            return bytes(part)

    return answers.with_retries(place, ask, answers.WAITS[:1])


@contextmanager
def _stream(place: Reference, byte_range: str | None) -> Iterator[Response]:
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    url = f"{answers.endpoint()}/{place.repo}/resolve/{place.revision}/{quote(place.folder)}"
    # Compressed, a file could neither be continued nor measured.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if byte_range is not None:
        headers["Range"] = byte_range
    with get_session().stream("GET", url, headers=headers, timeout=_PATIENCE) as response:
        hf_raise_for_status(response)
        yield response


@contextmanager
def _alone(blob: Path, meter: _Meter) -> Iterator[None]:
    """Hold the lock of these contents; can be cancelled while another download has it."""
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


def _gather(place: Reference, content: Content, blob: Path, meter: _Meter) -> None:
    """Append to the partial file until it is whole and right; then it takes the blob's name."""
    if content.size > _LARGEST:
        raise BrokenTransferError(
            f"{place.folder} of {place.repo} has {format_bytes(content.size)}, more than the hub "
            f"sends at once: fetch it with `hf download {place.repo} {place.folder}`"
        )
    partial = cache.partial_file(blob)
    partial.parent.mkdir(parents=True, exist_ok=True)
    waits = list(answers.WAITS)
    while True:
        before = _size(partial)
        try:
            digest = answers.as_hub_errors(place, lambda: _append(place, content, partial, meter))
            break
        except (BrokenTransferError, HubUnreachableError):
            if _size(partial) > before:
                waits = list(answers.WAITS)
            if not waits:
                raise
            _pause(waits.pop(0), _arrived(blob, content.size), meter)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            needed = content.size - _arrived(blob, content.size)
            raise cache.disk_full(cache.cache_folder(), needed, 0) from error
    if digest != content.etag:
        partial.unlink()
        raise BrokenTransferError(
            f"{place.folder} of {place.repo} arrived damaged (its hash is {digest[:12]}…, not "
            f"{content.etag[:12]}…) and was thrown away: try again"
        )
    partial.replace(blob)


def _append(place: Reference, content: Content, partial: Path, meter: _Meter) -> str:
    """Ask for the rest of a file and write it as it comes; returns the hash of the whole."""
    digest, done = cache.hasher(content.etag, content.size), 0
    if _size(partial) <= content.size:
        with partial.open("ab+") as file:
            file.seek(0)
            while chunk := file.read(REPORT_BYTES):
                digest.update(chunk)
                done += len(chunk)
    if done == content.size:
        return digest.hexdigest()
    with _stream(place, f"bytes={done}-" if done else None) as response:
        if done and response.status_code != 206:  # it starts from the beginning
            digest, done = cache.hasher(content.etag, content.size), 0
        reported, told = done, time.monotonic()
        with partial.open("ab" if done else "wb") as file:
            for chunk in response.iter_bytes():
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if done > content.size:
                    break
                now = time.monotonic()
                if done - reported >= REPORT_BYTES or now - told >= REPORT_SECONDS:
                    meter(done)
                    reported, told = done, now
    if done != content.size:
        raise BrokenTransferError(
            f"{place.folder} of {place.repo} did not arrive whole ({done} of {content.size} bytes):"
            " try again, a download goes on where it stopped"
        )
    return digest.hexdigest()


def _pause(seconds: float, done: int, meter: _Meter) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        meter(done, f"no answer from {answers.host()}, about to try again:")
        time.sleep(min(0.25, left))


def _arrived(blob: Path, size: int) -> int:
    """How many of a file's bytes need not be fetched again."""
    return size if _is_whole(blob, size) else min(_size(cache.partial_file(blob)), size)


def _is_whole(blob: Path, size: int) -> bool:
    """Whether it is there, and was not cut short since."""
    return blob.is_file() and _size(blob) == size


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
