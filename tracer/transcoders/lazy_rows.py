"""A matrix that stays in its file: rows are read when they are needed.

A prompt activates a few thousand of a dictionary's millions of features. Reading only their rows
makes it possible to open a set that is larger than memory.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracer.errors import TranscoderError
from tracer.transcoders.tensor_files import StoredTensor


class StoredRows:
    """A stored tensor, indexed along its first axis.

    ``stored[indices]`` or ``stored[start:stop]`` reads those rows only, ``stored.whole()`` all.
    Each raises :class:`TranscoderError` if a number it reads is not finite.
    """

    def __init__(
        self, tensor: StoredTensor, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        self.tensor, self.device, self.dtype = tensor, device, dtype
        self.shape = torch.Size(tensor.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: Int[Tensor, " rows"] | slice) -> Float[Tensor, "rows ..."]:
        """Return the chosen rows in the given order; repeated ones are read once."""
        if isinstance(indices, slice):
            start, stop, _ = indices.indices(len(self))
            return self._checked(self.tensor.rows(start, stop)).to(self.device, self.dtype)
        distinct, place = indices.cpu().unique(return_inverse=True)
        parts = [self.tensor.rows(start, stop) for start, stop in _runs(distinct.tolist())]
        rows = torch.cat(parts) if parts else torch.empty(0, *self.shape[1:])
        return self._checked(rows).to(self.dtype)[place].to(self.device)

    def whole(self) -> Float[Tensor, "rows ..."]:
        """Return all rows as a new tensor."""
        return self._checked(self.tensor.whole()).to(self.device, self.dtype)

    def _checked(self, rows: Tensor) -> Tensor:
        if not torch.isfinite(rows).all():
            raise TranscoderError(
                f"{self.tensor.place} has values that are not finite: the file is damaged, fetch "
                "it again"
            )
        return rows


def _runs(indices: list[int]) -> list[tuple[int, int]]:
    """``[3, 4, 5, 9]`` -> ``[(3, 6), (9, 10)]``: ascending indices as half-open ranges."""
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return runs
