"""The source of training examples: inputs and outputs of MLPs, in shards of bounded size.

The trainer knows only this interface. A text corpus is one source
(:mod:`tracer.training.corpus_source`), a table of activations another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor


class Batch(NamedTuple):
    """Examples of all layers: column ``i`` of both is the same token."""

    inputs: Float[Tensor, "layers batch d_model"]
    outputs: Float[Tensor, "layers batch d_model"]


@dataclass(frozen=True)
class Moments:
    """Means and spreads of the input and output of each layer's MLP.

    Training runs in units in which an input's coordinates have variance 1 on average and an output
    vector has variance 1 in total, so that one learning rate and one threshold fit all layers.
    """

    input_mean: Float[Tensor, "layers d_model"]
    input_scale: Float[Tensor, " layers"]
    output_mean: Float[Tensor, "layers d_model"]
    output_scale: Float[Tensor, " layers"]

    @classmethod
    def of(cls, batch: Batch) -> Moments:
        """Measure a batch."""
        input_mean, output_mean = batch.inputs.mean(1), batch.outputs.mean(1)
        centred = batch.inputs - input_mean[:, None]
        input_scale = centred.pow(2).mean((1, 2)).sqrt()
        centred = batch.outputs - output_mean[:, None]
        output_scale = centred.pow(2).sum(-1).mean(1).sqrt()
        least = torch.finfo(torch.float32).tiny ** 0.5
        return cls(
            input_mean, input_scale.clamp(min=least), output_mean, output_scale.clamp(min=least)
        )


class ActivationSource(Protocol):
    """A stream of batches that can be replayed from any shard."""

    def moments(self) -> Moments:
        """Return the moments to normalise by; the same on every call."""

    def shard(self, number: int) -> Iterator[Batch]:
        """Yield the batches of shard ``number`` (0, 1, … without end); the same on every call."""
