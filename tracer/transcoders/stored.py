"""A matrix that stays in its file: rows are read when they are asked for.

A prompt touches a few thousand of a dictionary's millions of features; reading only their rows is
what lets a set open that is larger than memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tracer.errors import TranscoderError


class StoredRows:
    """Tensor ``name`` of a safetensors file, indexed along its first axis.

    ``stored[indices]`` reads those rows and nothing else; ``stored.whole()`` reads them all.
    """

    def __init__(
        self, path: Path, name: str, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        self.path, self.name, self.device, self.dtype = path, name, device, dtype
        try:
            self._file: Any = safe_open(path, framework="pt")
            self._slice: Any = self._file.get_slice(name)
        except (OSError, SafetensorError) as error:
            raise TranscoderError(f"{path} cannot be read ({error}): fetch it again") from error
        self.shape = torch.Size(self._slice.get_shape())

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: Int[Tensor, " rows"]) -> Float[Tensor, "rows ..."]:
        """The chosen rows, in the order given; repeated ones are read once.

        Raises :class:`TranscoderError` when a row holds values that are not finite.
        """
        wanted, place = indices.cpu().unique(return_inverse=True)
        runs = _runs(wanted.tolist())
        parts = [self._slice[start:stop] for start, stop in runs]
        rows = torch.cat(parts) if parts else torch.empty(0, *self.shape[1:])
        if not torch.isfinite(rows).all():
            raise TranscoderError(
                f"{self.name} in {self.path} holds values that are not finite: the file is "
                "damaged, fetch it again"
            )
        return rows.to(self.dtype)[place].to(self.device)

    def whole(self) -> Float[Tensor, "rows ..."]:
        """All rows, as a new tensor that the caller lets go of."""
        rows: Tensor = self._slice[:]
        return rows.to(self.device, self.dtype)


def _runs(indices: list[int]) -> list[tuple[int, int]]:
    """``[3, 4, 5, 9]`` -> ``[(3, 6), (9, 10)]``: ascending indices as half-open ranges."""
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return runs
