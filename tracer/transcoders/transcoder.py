"""Transcoders: what each layer reads, how its features activate, and where they write.

A per-layer transcoder is a cross-layer one that writes to a single layer, so one class serves both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracer.transcoders.config import ReadPoint, WritePoint
from tracer.transcoders.lazy_rows import StoredRows

DECODER_VALUES_AT_ONCE: Final = 2**23
"""Bounds the memory of a reconstruction: a long prompt has a million active features."""
_ENCODER_VALUES_AT_ONCE: Final = 2**24
"""Bounds the memory of an encoder that is not in memory in float32."""


@dataclass(frozen=True)
class Transcoder:
    """The features of one layer.

    The activation function is TopK if ``k`` is given, else JumpReLU if ``threshold`` is, else ReLU.
    The two large matrices are in memory or left in their file, in the data type of the model. All
    else is float32.
    """

    layer: int
    W_enc: Float[Tensor, "features d_model"] | StoredRows
    b_enc: Float[Tensor, " features"]
    W_dec: Float[Tensor, "features outputs d_model"] | StoredRows
    """Decoder vectors towards layers ``layer``, ``layer + 1``, and so on. A file of a per-layer set
    has no axis for them."""
    b_dec: Float[Tensor, " d_model"]
    threshold: Float[Tensor, " features"] | None = None
    k: int | None = None
    rectified: bool = False
    """Whether TopK drops negative activations among the k largest, as sparsify does."""
    W_skip: Float[Tensor, "d_model d_model"] | None = None
    """Added as ``x @ W_skip.T`` to the reconstruction of this layer."""

    @property
    def n_features(self) -> int:
        return self.W_enc.shape[0]

    @property
    def output_layers(self) -> range:
        outputs = self.W_dec.shape[1] if len(self.W_dec.shape) == 3 else 1
        return range(self.layer, self.layer + outputs)

    @property
    def encoder_block(self) -> int:
        """Encoder rows that :meth:`preactivations` reads or upcasts at a time; 0 if it need not."""
        if isinstance(self.W_enc, Tensor) and self.W_enc.dtype == torch.float32:
            return 0
        return min(self.n_features, max(1, _ENCODER_VALUES_AT_ONCE // self.W_enc.shape[1]))

    def preactivations(self, x: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos features"]:
        """Return encoder directions times ``x``, plus bias; float32."""
        x, step = x.float(), self.encoder_block
        if isinstance(self.W_enc, Tensor) and not step:
            return x @ self.W_enc.T + self.b_enc
        pre = x.new_empty(len(x), self.n_features)
        for start in range(0, self.n_features, step):
            part = slice(start, start + step)
            pre[:, part] = x @ self.W_enc[part].float().T + self.b_enc[part]
        return pre

    def activations(self, x: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos features"]:
        """Return feature activations, float32; mostly zeros."""
        pre = self.preactivations(x)
        if self.k is not None:
            kept = pre.topk(self.k, dim=-1)
            values = kept.values.relu() if self.rectified else kept.values
            return torch.zeros_like(pre).scatter_(-1, kept.indices, values)
        if self.threshold is not None:
            return torch.where(pre > self.threshold, pre, 0)
        return pre.relu_()

    def chosen_activations(
        self, x: Float[Tensor, "chosen d_model"], features: Int[Tensor, " chosen"]
    ) -> Float[Tensor, " chosen"]:
        """Return the activation of one feature per row of ``x``.

        Only TopK needs the other features.
        """
        if self.k is not None:
            return self.activations(x)[torch.arange(len(features), device=x.device), features]
        pre = (x.float() * self.encoder_vectors(features).float()).sum(-1) + self.b_enc[features]
        if self.threshold is not None:
            return torch.where(pre > self.threshold[features], pre, 0)
        return pre.relu()

    def skipped(self, x: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos d_model"]:
        """Return what the skip connection adds to the reconstruction; zeros without one."""
        if self.W_skip is None:
            return torch.zeros_like(x)
        return x @ self.W_skip.to(x.dtype).T

    def encoder_vectors(self, indices: Int[Tensor, " chosen"]) -> Float[Tensor, "chosen d_model"]:
        """Return the directions that the chosen features read."""
        return self.W_enc[indices]

    def decoder_vectors(
        self, indices: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "chosen outputs d_model"]:
        """Return what the chosen features write to each output layer, per unit of activation."""
        rows = self.W_dec[indices]
        return rows.view(len(rows), len(self.output_layers), self.W_dec.shape[-1])

    def write(
        self,
        outputs: Float[Tensor, "layers pos d_model"],
        positions: Int[Tensor, " active"],
        features: Int[Tensor, " active"],
        activations: Float[Tensor, " active"],
    ) -> None:
        """Add, in place, what active features write at their positions of the output layers."""
        if isinstance(self.W_dec, StoredRows):
            self._write_from_file(outputs, positions, features, activations)
            return
        decoder = self.W_dec.view(self.n_features, len(self.output_layers), -1)
        for step, output in enumerate(self.output_layers):
            for part in _parts(len(features), decoder.shape[-1]):
                written = decoder[features[part], step].to(outputs.dtype)
                written *= activations[part, None]
                outputs[output].index_add_(0, positions[part], written)

    def _write_from_file(
        self, outputs: Tensor, positions: Tensor, features: Tensor, activations: Tensor
    ) -> None:
        """Go by features, so that each row of the file is read once, or nearly so."""
        order = features.argsort(stable=True)
        for part in _parts(len(features), len(self.output_layers) * self.W_dec.shape[-1]):
            chosen = order[part]
            vectors = self.decoder_vectors(features[chosen]).to(outputs.dtype)
            vectors *= activations[chosen, None, None]
            for step, output in enumerate(self.output_layers):
                outputs[output].index_add_(0, positions[chosen], vectors[:, step])

    def decoder(self) -> Float[Tensor, "features outputs d_model"]:
        """Return the decoder vectors of all features, read from the file if they are there."""
        if isinstance(self.W_dec, StoredRows):
            shape = (self.n_features, len(self.output_layers), self.W_dec.shape[-1])
            return self.W_dec.whole().view(shape)
        return self.W_dec


def _parts(n_rows: int, row_values: int) -> Iterator[slice]:
    """Yield slices of rows with at most ``DECODER_VALUES_AT_ONCE`` numbers, or one row."""
    step = max(1, DECODER_VALUES_AT_ONCE // row_values)
    for start in range(0, n_rows, step):
        yield slice(start, start + step)


@dataclass(frozen=True)
class TranscoderSet:
    """One transcoder per layer, all with the same read and write points."""

    layers: tuple[Transcoder, ...]
    read_point: ReadPoint
    write_point: WritePoint
    scan: str
    """The publisher's name for the set."""
    model_name: str = ""
    """The model it was trained on, as the publisher names it."""

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
        """Return what the features of all layers write to each layer, with biases and skips."""
        outputs = self.written_without_features(inputs)
        for layer, active in zip(self.layers, activations, strict=True):
            position, feature = active.nonzero(as_tuple=True)
            layer.write(outputs, position, feature, active[position, feature])
        return outputs

    def written_without_features(
        self, inputs: list[Float[Tensor, "pos d_model"]]
    ) -> Float[Tensor, "layers pos d_model"]:
        """Return decoder biases plus skips: the reconstruction if no feature is active."""
        biased = [
            layer.skipped(x) + layer.b_dec for layer, x in zip(self.layers, inputs, strict=True)
        ]
        return torch.stack(biased)
