"""What an unfinished build keeps on disk: the tokens it has read, and where it stands.

The folder holds ``tokens.bin`` (int32, every token of every window that was run), ``windows.bin``
(int64, the place of each window's first token), and, from time to time, a checkpoint: a safetensors
file of all statistics and ``checkpoint.json``, which names it and is replaced in one step. After a
kill the two lists are cut back to what the checkpoint knows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
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

CHECKPOINT: Final = "checkpoint.json"
TOKENS: Final = "tokens.bin"
CHECKPOINT_VERSION: Final = 2
"""Version of the statistics file: a checkpoint of another version cannot be resumed."""


class Spill:
    """The tokens that were run, appended to a file and read back from it."""

    def __init__(self, folder: Path, n_tokens: int = 0, n_windows: int = 0) -> None:
        """Go on after ``n_tokens`` and ``n_windows``; what lies beyond them is forgotten.

        Raises :class:`FeatureIndexError` when less is there.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = folder / TOKENS, folder / "windows.bin"
        self._files = [path.open("ab") for path in self._paths]
        for file, size in zip(self._files, (4 * n_tokens, 8 * n_windows), strict=True):
            if os.fstat(file.fileno()).st_size < size:
                self.close()
                raise FeatureIndexError(
                    f"{file.name} is shorter than the checkpoint beside it knows: delete "
                    f"{folder} and build the index from the start"
                )
            file.truncate(size)
        self.n_tokens, self.n_windows = n_tokens, n_windows

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
            with suppress(OSError):  # a full disk: what a checkpoint knows of was flushed before
                file.close()

    def append(self, tokens: NDArray[np.int32], lengths: Iterable[int]) -> None:
        """Add windows of ``lengths``, their tokens one after the other."""
        lengths = np.fromiter(lengths, np.int64)
        starts = self.n_tokens + np.concatenate([[0], lengths.cumsum()[:-1]])
        self._files[0].write(tokens.astype("<i4").tobytes())
        self._files[1].write(starts.astype("<i8").tobytes())
        self.n_tokens += len(tokens)
        self.n_windows += len(lengths)

    def flush(self) -> None:
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """All tokens, left on disk until they are looked at, and the windows' first places."""
        self.flush()
        tokens, windows = self._paths
        return np.memmap(tokens, "<i4", "r"), np.fromfile(windows, "<i8")


def save_checkpoint(folder: Path, known: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Replace the folder's checkpoint; a kill at any moment leaves the old one or the new one."""
    state = folder / f"state-{known['n_tokens']}.safetensors"
    partial = folder / "state.part"
    save_file({name: value.contiguous() for name, value in tensors.items()}, partial)
    _to_disk(partial)
    partial.replace(state)
    note = folder / f"{CHECKPOINT}.part"
    note.write_text(json.dumps({**known, "state": state.name}), encoding="utf-8")
    _to_disk(note)
    note.replace(folder / CHECKPOINT)
    for old in folder.glob("state-*.safetensors"):
        if old != state:
            old.unlink()


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def load_checkpoint(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """What ``save_checkpoint`` was told; None without a checkpoint.

    Raises :class:`FeatureIndexError` when it is damaged, or of a build that differs in
    ``identity``.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        found = known["identity"]
        differ = [key for key in identity if found.get(key) != identity[key]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, folder, error) from error
    if differ:
        raise FeatureIndexError(
            f"{folder} holds an unfinished index with another {' and '.join(differ)}: build with "
            "what it was begun with to go on, or delete that folder to begin again"
        )
    return dict(known)


def load_tensors(folder: Path, state: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """Fill ``tensors`` with what a checkpoint holds; its ``prefixes`` are returned.

    Raises :class:`FeatureIndexError` when the file is damaged.
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
