"""Revive dead features.

A feature that never fires gets no gradient from the reconstruction, so it stays dead. The auxiliary
loss of Gao et al. (2024) lets the strongest dead features of each token reconstruct the error that
the live features leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tracer.training.codes import encode
from tracer.training.dictionary import Dictionary

_WEIGHT: Final = 1 / 32
_AT_MOST: Final = 32
"""Dead features of a layer that reconstruct a token's error."""


class _StrongestPositive:
    """Open for the largest positive activations, each times the length of its decoder."""

    def __init__(self, lengths: Float[Tensor, " features"]) -> None:
        self._lengths = lengths
        self._k = min(_AT_MOST, len(lengths))

    def __call__(self, preactivations: Tensor) -> Tensor:
        largest = (preactivations * self._lengths).topk(self._k, dim=-1, sorted=False).indices
        chosen = torch.zeros_like(preactivations, dtype=torch.bool).scatter_(-1, largest, True)
        return chosen & (preactivations > 0)


def auxiliary_loss(
    dictionary: Dictionary,
    inputs: Float[Tensor, "layers batch d_model"],
    errors: Sequence[Float[Tensor, "batch d_model"]],
    dead: Bool[Tensor, "layers features"],
) -> Tensor | float:
    """Return 1/32 of the share of the errors that dead features fail to reconstruct, summed over
    the layers they write to. It is 0 if no feature is dead."""
    if not dead.any():
        return 0.0
    lengths = dictionary.decoder_lengths()
    written: list[Tensor | None] = [None] * dictionary.n_layers
    for layer in range(dictionary.n_layers):
        rows = dead[layer].nonzero()[:, 0]
        if not len(rows):
            continue
        code = encode(
            inputs[layer],
            dictionary.W_enc[layer][rows],
            dictionary.b_enc[layer][rows],
            _StrongestPositive(lengths[layer, rows]),
            dictionary.dtype,
        )
        decoded = code.decode(dictionary.W_dec[layer][rows])
        parts = decoded.view(len(decoded), dictionary.n_outputs(layer), -1).unbind(1)
        for place, part in enumerate(parts, layer):
            before = written[place]
            written[place] = part if before is None else before + part
    missed = [
        (part - error.detach()).pow(2).sum() / error.detach().pow(2).sum().clamp(min=1e-12)
        for part, error in zip(written, errors, strict=True)
        if part is not None
    ]
    return _WEIGHT * torch.stack(missed).sum()
