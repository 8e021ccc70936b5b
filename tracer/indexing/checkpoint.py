"""The files of an unfinished build: the tokens it has read, and its progress.

The folder has ``tokens.bin`` (int32, every token of every window that was run), ``windows.bin``
(int64, for each window the offset of its first token and of its source), ``sources.txt`` (title and
author, a line wherever they change) and, from time to time, a checkpoint: a safetensors file of all
statistics, and ``checkpoint.json``, which names it and is replaced in one step. After a kill the
three lists are cut back to the length that the checkpoint names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tracer.errors import FeatureIndexError
from tracer.files import atomic_write, replacing
from tracer.indexing.windows import Position

CHECKPOINT: Final = "checkpoint.json"
TOKENS: Final = "tokens.bin"
CHECKPOINT_VERSION: Final = 4
"""Version of the statistics file: a checkpoint of another version cannot be resumed."""
_NO_SOURCE: Final = -1


class TokenLog:
    """The tokens that were run, appended to a file and read back from it."""

    def __init__(
        self, folder: Path, n_tokens: int = 0, n_windows: int = 0, n_source_bytes: int = 0
    ) -> None:
        """Resume after these lengths; anything beyond them is cut off.

        Raises :class:`FeatureIndexError` if the files are shorter.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = folder / TOKENS, folder / "windows.bin", folder / "sources.txt"
        self._files = [path.open("ab") for path in self._paths]
        sizes = 4 * n_tokens, 16 * n_windows, n_source_bytes
        for file, size in zip(self._files, sizes, strict=True):
            if os.fstat(file.fileno()).st_size < size:
                self.close()
                raise FeatureIndexError(
                    f"{file.name} is shorter than its checkpoint says: delete {folder} and build "
                    "the index from the start"
                )
            file.truncate(size)
        self.n_tokens, self.n_windows, self.n_source_bytes = n_tokens, n_windows, n_source_bytes
        self._source, self._source_start = "", _NO_SOURCE

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        for file in self._files:
            with suppress(OSError):  # a full disk; what a checkpoint counts was flushed before
                file.close()

    def append(
        self, tokens: NDArray[np.int32], lengths: Iterable[int], sources: Iterable[str]
    ) -> None:
        """Append windows of the given lengths and sources, whose tokens follow each other."""
        lengths = np.fromiter(lengths, np.int64)
        starts = self.n_tokens + np.concatenate([[0], lengths.cumsum()[:-1]])
        rows = np.stack([starts, [self._append_source(source) for source in sources]], axis=1)
        self._files[0].write(tokens.astype("<i4").tobytes())
        self._files[1].write(rows.astype("<i8").tobytes())
        self.n_tokens += len(tokens)
        self.n_windows += len(lengths)

    def _append_source(self, source: str) -> int:
        """Return the offset of a source in its file; it is written unless it was the last one."""
        if not source:
            return _NO_SOURCE
        if source != self._source:
            line = f"{source}\n".encode()
            self._source, self._source_start = source, self.n_source_bytes
            self._files[2].write(line)
            self.n_source_bytes += len(line)
        return self._source_start

    def flush(self) -> None:
        """Write everything appended so far to the disk."""
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return all tokens, memory-mapped, and the offset of each window's first token."""
        self.flush()
        tokens, windows, _ = self._paths
        return np.memmap(tokens, "<i4", "r"), np.fromfile(windows, "<i8")[::2].copy()

    def read_sources(self) -> Sources:
        """Return the source of every window."""
        self.flush()
        _, windows, sources = self._paths
        return Sources(np.fromfile(windows, "<i8")[1::2].copy(), sources)


@dataclass(frozen=True)
class Sources:
    """Title and author of the text of every window, read from disk when they are asked for."""

    offsets: NDArray[np.int64]
    path: Path

    def __getitem__(self, window: int) -> str:
        """Return the source of a window; empty if its document names none."""
        start = int(self.offsets[window])
        if start == _NO_SOURCE:
            return ""
        with self.path.open("rb") as file:
            file.seek(start)
            return file.readline().decode().rstrip("\n")


@dataclass(frozen=True)
class BuildState:
    """The state of a build, apart from its statistics."""

    position: Position
    n_tokens: int
    """Tokens in the :class:`TokenLog`."""
    n_windows: int
    """Windows in the :class:`TokenLog`."""
    n_source_bytes: int
    """Length of its file of sources."""
    n_counted: int
    """Tokens that were counted: whose prefix was new."""
    tag_totals: tuple[int, ...]
    """Counted tokens with each tag."""
    ends_shard: bool
    """Whether the last batch is the last one of a shard."""

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Read what ``asdict`` gave; raises ``KeyError``, ``TypeError`` or ``ValueError``."""
        position = stored["position"]
        share = float(position["share"])
        counts = {name: int(value) for name, value in position.items() if name != "share"}
        names = ("n_tokens", "n_windows", "n_source_bytes", "n_counted")
        lengths = {name: int(stored[name]) for name in names}
        tag_totals = tuple(int(total) for total in stored["tag_totals"])
        ends_shard = bool(stored["ends_shard"])
        position = Position(**counts, share=share)
        return cls(position, **lengths, tag_totals=tag_totals, ends_shard=ends_shard)


def save_checkpoint(
    folder: Path, identity: Mapping[str, Any], build: BuildState, tensors: Mapping[str, Tensor]
) -> None:
    """Replace the folder's checkpoint; a kill at any moment leaves the old one or the new one."""
    state = folder / f"state-{build.n_tokens}.safetensors"
    with replacing(state) as partial:
        save_file({name: value.contiguous() for name, value in tensors.items()}, partial)
    record = {"identity": identity, "state": state.name, **asdict(build)}
    atomic_write(folder / CHECKPOINT, json.dumps(record))
    for old in folder.glob("*state-*"):  # earlier ones, and what a kill left of them
        if old != state:
            old.unlink()


def load_checkpoint(folder: Path, identity: Mapping[str, Any]) -> tuple[BuildState, str] | None:
    """Return the state of the build and the name of the statistics file; None without a checkpoint.

    Raises :class:`FeatureIndexError` if the checkpoint is damaged, or of a build with another
    ``identity``.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        differ = [key for key in identity if stored["identity"].get(key) != identity[key]]
        if differ:
            raise FeatureIndexError(
                f"{folder} is an unfinished index with another {' and '.join(differ)}: build with "
                "the original settings to resume it, or delete the folder to start over"
            )
        return BuildState.from_json(stored), str(stored["state"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, folder, error) from error


def load_tensors(folder: Path, state: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """Fill ``tensors`` from the statistics file ``state`` and return its ``prefixes``.

    Raises :class:`FeatureIndexError` if the file is damaged.
    """
    path = folder / Path(state).name
    try:
        with safe_open(path, framework="pt") as file:
            for name, tensor in tensors.items():
                tensor.copy_(file.get_tensor(name))
            prefixes: Tensor = file.get_tensor("prefixes")
    except (OSError, SafetensorError, RuntimeError) as error:
        raise _damaged(path, folder, error) from error
    return prefixes.view(torch.int64)


def _damaged(path: Path, folder: Path, error: Exception) -> FeatureIndexError:
    return FeatureIndexError(
        f"the checkpoint {path} is damaged ({error}): delete {folder} and build the index from the "
        "start"
    )
