"""The trained parameters of a transcoder set, all layers at once, in normalised units.

A per-layer transcoder (Dunefsky et al. 2024) predicts an MLP's output from its input. A cross-layer
one (Ameisen et al. 2025) also predicts the outputs of later MLPs. JumpReLU features (Rajamanoharan
et al. 2024) are active above a threshold. One threshold, on the activation times the length of the
decoder, gates all features, so that the features of all layers compete for one budget, as in
BatchTopK (Bussmann et al. 2024).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from tracer.training.codes import Code, Gate, encode
from tracer.training.recipe import Recipe
from tracer.training.source import Batch, Moments
from tracer.transcoders.config import ReadPoint, WritePoint
from tracer.transcoders.transcoder import Transcoder, TranscoderSet

_DECODER_LENGTH: Final = 0.1
"""Length of a new decoder, in units in which an output has variance 1."""
_SHORTEST: Final = 1e-6
"""Lower bound on decoder lengths, so that every threshold is finite."""
_HALVINGS: Final = 20


class Dictionary(torch.nn.Module):
    """Encoders, decoders and the common threshold.

    Inputs and outputs of its methods are normalised: see :class:`Moments`.
    """

    def __init__(
        self,
        recipe: Recipe,
        moments: Moments,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        n_layers, d_model = moments.input_mean.shape
        self.recipe, self.moments, self.dtype = recipe, moments, dtype
        self.n_layers, self.n_features = n_layers, recipe.features
        generator = torch.Generator().manual_seed(recipe.seed)

        def directions(*shape: int) -> Tensor:
            drawn = torch.randn(shape, generator=generator)
            unit: Tensor = drawn / drawn.norm(dim=-1, keepdim=True)
            return unit.to(device)

        self.W_enc = torch.nn.Parameter(directions(n_layers, recipe.features, d_model))
        self.b_enc = torch.nn.Parameter(torch.zeros(n_layers, recipe.features, device=device))
        self.b_dec = torch.nn.Parameter(torch.zeros(n_layers, d_model, device=device))
        self.W_dec = torch.nn.ParameterList(
            _DECODER_LENGTH * directions(1, recipe.features, self.n_outputs(layer) * d_model)[0]
            for layer in range(n_layers)
        )
        """For each layer ``(features, outputs * d_model)``: what is written to that layer and, in a
        cross-layer set, to later ones."""
        self.W_skip = torch.nn.Parameter(
            torch.zeros(n_layers if recipe.skip else 0, d_model, d_model, device=device)
        )
        self.threshold = 0.0
        self.k = recipe.features

    def n_outputs(self, layer: int) -> int:
        """Return how many layers the features of ``layer`` write to."""
        return self.n_layers - layer if self.recipe.cross_layer else 1

    def decoder_lengths(self) -> Float[Tensor, "layers features"]:
        """Return the length of each feature's decoder over all layers it writes to; no gradient."""
        lengths = torch.stack([decoder.detach().norm(dim=1) for decoder in self.W_dec])
        return lengths.clamp(min=_SHORTEST)

    def normalized(self, batch: Batch) -> Batch:
        """Return the batch in the units of training."""
        moments = self.moments
        inputs = batch.inputs.float() - moments.input_mean[:, None]
        outputs = batch.outputs.float() - moments.output_mean[:, None]
        return Batch(
            inputs / moments.input_scale[:, None, None],
            outputs / moments.output_scale[:, None, None],
        )

    def gates(self) -> list[Gate]:
        """Return the gate of each layer, which decides which pre-activations are active."""
        lengths = self.decoder_lengths()
        if self.recipe.activation == "topk":
            return [_TopK(layer_lengths, self.k) for layer_lengths in lengths]
        return [_Above(self.threshold / layer_lengths) for layer_lengths in lengths]

    def encode(self, layer: int, inputs: Float[Tensor, "batch d_model"], gate: Gate) -> Code:
        """Return the active features of one layer."""
        return encode(inputs, self.W_enc[layer], self.b_enc[layer], gate, self.dtype)

    def encode_all(self, inputs: Float[Tensor, "layers batch d_model"]) -> list[Code]:
        """Return the active features of all layers."""
        return [self.encode(layer, inputs[layer], gate) for layer, gate in enumerate(self.gates())]

    def reconstruct(
        self, codes: Sequence[Code], inputs: Float[Tensor, "layers batch d_model"]
    ) -> list[Float[Tensor, "batch d_model"]]:
        """Return the predicted output of every layer."""
        outputs = [self.constant(layer, inputs[layer]) for layer in range(self.n_layers)]
        for layer, code in enumerate(codes):
            for step, written in enumerate(self.written(layer, code)):
                outputs[layer + step] = outputs[layer + step] + written
        return outputs

    def constant(self, layer: int, inputs: Tensor) -> Float[Tensor, "batch d_model"]:
        """Return the prediction for ``layer`` without features: bias and skip connection."""
        bias = self.b_dec[layer]
        if not len(self.W_skip):
            return bias.expand_as(inputs)
        return inputs @ self.W_skip[layer].T + bias

    def written(self, layer: int, code: Code) -> Iterator[Float[Tensor, "batch d_model"]]:
        """Yield the contributions of a layer's features to that layer and to later ones."""
        decoded = code.decode(self.W_dec[layer])
        yield from decoded.view(len(decoded), self.n_outputs(layer), -1).unbind(1)

    @torch.no_grad()
    def calibrate(self, inputs: Float[Tensor, "layers batch d_model"], l0: float) -> None:
        """Set the threshold so that ``l0`` features per token are active on normalised inputs.

        Steering has already brought it close. TopK has no threshold.
        """
        if self.recipe.activation == "topk":
            return
        lengths, n_active = self.decoder_lengths(), round(l0 * inputs.shape[1])
        for _ in range(_HALVINGS):
            self.threshold /= 2
            codes = self.encode_all(inputs)
            if sum(code.count() for code in codes) > n_active:
                break
        strengths = torch.cat(
            [code.strengths(length) for code, length in zip(codes, lengths, strict=True)]
        )
        if len(strengths) > n_active:
            self.threshold = float(strengths.topk(n_active + 1).values[-1])

    @torch.no_grad()
    def to_transcoders(
        self, read_point: ReadPoint, write_point: WritePoint, scan: str, model_name: str
    ) -> TranscoderSet:
        """Return the set in the model's own units.

        Each decoder is rescaled to length 1, as in Gemma Scope, and the encoder and threshold to
        match, so that an activation is the length of the vector the feature writes. (The length of
        a cross-layer decoder is computed with each output in units of that layer's spread, and then
        multiplied by the spread of the feature's own layer.)
        """
        moments, lengths = self.moments, self.decoder_lengths()
        layers = []
        for layer in range(self.n_layers):
            scale = moments.output_scale[layer]
            length = lengths[layer] * scale
            spreads = moments.output_scale[layer : layer + self.n_outputs(layer)]
            decoder = self.W_dec[layer].view(self.n_features, len(spreads), -1)
            encoder = self.W_enc[layer] / moments.input_scale[layer]
            bias = self.b_enc[layer] - encoder @ moments.input_mean[layer]
            b_dec = moments.output_mean[layer] + self.b_dec[layer] * scale
            skip = None
            if len(self.W_skip):
                skip = self.W_skip[layer] * (scale / moments.input_scale[layer])
                b_dec = b_dec - skip @ moments.input_mean[layer]
            topk = self.recipe.activation == "topk"
            layers.append(
                Transcoder(
                    layer=layer,
                    W_enc=(encoder * length[:, None]).cpu(),
                    b_enc=(bias * length).cpu(),
                    W_dec=(decoder * spreads[:, None] / length[:, None, None]).cpu(),
                    b_dec=b_dec.cpu(),
                    threshold=None if topk else (self.threshold * scale).expand_as(length).cpu(),
                    k=self.k if topk else None,
                    W_skip=None if skip is None else skip.cpu(),
                )
            )
        return TranscoderSet(tuple(layers), read_point, write_point, scan, model_name)


class _Above:
    """JumpReLU: open above a threshold."""

    def __init__(self, thresholds: Float[Tensor, " features"]) -> None:
        self._thresholds = thresholds

    def __call__(self, preactivations: Tensor) -> Tensor:
        return preactivations > self._thresholds


class _TopK:
    """Open for the ``k`` largest activations, each times the length of its decoder."""

    def __init__(self, lengths: Float[Tensor, " features"], k: int) -> None:
        self._lengths, self._k = lengths, k

    def __call__(self, preactivations: Tensor) -> Tensor:
        largest = (preactivations * self._lengths).topk(self._k, dim=-1, sorted=False).indices
        return torch.zeros_like(preactivations, dtype=torch.bool).scatter_(-1, largest, True)
