"""Transcoders in memory: what each layer reads, how it activates, and where it writes.

A per-layer transcoder is a cross-layer one that writes to a single layer, so one class serves both.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Float, Int
from torch import Tensor


class ReadPoint(Enum):
    """Which vector of a block a transcoder reads."""

    RESIDUAL = "hook_resid_mid"
    """The residual stream before the MLP's norm."""
    NORMALIZED = "ln2.hook_normalized"
    """After the MLP's norm, before its gain."""
    MLP_INPUT = "mlp.hook_in"
    """What the MLP itself reads."""


class WritePoint(Enum):
    """Which vector of a block a transcoder stands in for."""

    MLP_OUTPUT = "mlp.hook_out"
    """The MLP's own output, before any norm that follows it."""
    RESIDUAL_UPDATE = "hook_mlp_out"
    """What is added to the residual stream, after such a norm."""


@dataclass(frozen=True)
class Transcoder:
    """One layer's features.

    The activation is TopK when ``k`` is given, else JumpReLU when ``threshold`` is, else ReLU.
    """

    layer: int
    W_enc: Float[Tensor, "features d_model"]
    b_enc: Float[Tensor, " features"]
    W_dec: Float[Tensor, "features outputs d_model"]
    """Decoder vectors towards layers ``layer``, ``layer + 1``, … (``outputs`` of them)."""
    b_dec: Float[Tensor, " d_model"]
    threshold: Float[Tensor, " features"] | None = None
    k: int | None = None
    W_skip: Float[Tensor, "d_model d_model"] | None = None
    """Added as ``x @ W_skip.T`` to the reconstruction of this layer."""

    @property
    def n_features(self) -> int:
        return self.W_enc.shape[0]

    @property
    def output_layers(self) -> range:
        return range(self.layer, self.layer + self.W_dec.shape[1])

    def preactivations(self, x: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos features"]:
        """Encoder directions times what was read, plus bias."""
        return x @ self.W_enc.T + self.b_enc

    def activations(self, x: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos features"]:
        """Feature activations; mostly zeros."""
        pre = self.preactivations(x)
        if self.k is not None:
            kept = pre.topk(self.k, dim=-1)
            return torch.zeros_like(pre).scatter_(-1, kept.indices, kept.values)
        if self.threshold is not None:
            return torch.where(pre > self.threshold, pre, 0)
        return pre.relu()

    def decoder_vectors(
        self, indices: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "chosen outputs d_model"]:
        """What the chosen features write, per unit of activation, to each output layer."""
        return self.W_dec[indices]


@dataclass(frozen=True)
class TranscoderSet:
    """One transcoder per layer, all reading and writing at the same kind of place."""

    layers: tuple[Transcoder, ...]
    read_point: ReadPoint
    write_point: WritePoint
    scan: str
    """The publisher's name for the set."""

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def d_model(self) -> int:
        return self.layers[0].W_enc.shape[1]

    @property
    def is_cross_layer(self) -> bool:
        return any(len(layer.output_layers) > 1 for layer in self.layers)

    def __getitem__(self, layer: int) -> Transcoder:
        return self.layers[layer]

    def reconstructions(
        self,
        activations: list[Float[Tensor, "pos features"]],
        inputs: list[Float[Tensor, "pos d_model"]],
    ) -> Float[Tensor, "layers pos d_model"]:
        """What the features of all layers write to each layer, biases and skips included."""
        outputs = torch.stack(
            [
                x @ layer.W_skip.T if layer.W_skip is not None else torch.zeros_like(x)
                for layer, x in zip(self.layers, inputs, strict=True)
            ]
        )
        outputs += torch.stack([layer.b_dec for layer in self.layers])[:, None]
        for layer, active in zip(self.layers, activations, strict=True):
            position, feature = active.nonzero(as_tuple=True)
            written = layer.decoder_vectors(feature) * active[position, feature][:, None, None]
            for step, target in enumerate(layer.output_layers):
                outputs[target].index_add_(0, position, written[:, step])
        return outputs
