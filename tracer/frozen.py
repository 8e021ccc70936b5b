"""One forward pass of a prompt, and everything the local replacement model freezes from it.

With attention patterns and norm scales held at these values and each MLP replaced by features plus
an error vector, the residual stream is linear: what attribution and its checks rest on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracer.bridge import Norm
from tracer.errors import ModelError
from tracer.models import Model

FIRST_POSITION = 1
"""Position 0 (beginning of text) carries no features and no errors, as in circuit-tracer."""


@dataclass(frozen=True)
class FrozenPass:
    """What one forward pass leaves behind."""

    token_ids: Int[Tensor, " pos"]
    logits: Float[Tensor, " vocab"]
    """Final logits at the last position, soft cap included."""
    patterns: tuple[Float[Tensor, "heads query key"], ...]
    scales: dict[str, Float[Tensor, "pos 1"]]
    """Norm scales by the norm's hook prefix."""
    features: Int[Tensor, "active 3"]
    """Layer, position, feature of every active feature, ascending."""
    activations: Float[Tensor, " active"]
    preactivation_biases: Float[Tensor, " active"]
    """The encoder bias of every active feature."""
    errors: Float[Tensor, "layers pos d_model"]
    """MLP output minus the transcoders' reconstruction, zero at position 0."""
    token_vectors: Float[Tensor, "pos d_model"]

    @property
    def n_positions(self) -> int:
        return len(self.token_ids)

    def pull_back(self, norm: Norm | None, gradient: Tensor, stop: int) -> Tensor:
        """Through a norm (or none) at the frozen scales of positions ``0..stop-1``."""
        if norm is None:
            return gradient
        return norm.pull_back(gradient, self.scales[norm.name][:stop])


def frozen_pass(model: Model, token_ids: tuple[int, ...]) -> FrozenPass:
    """Run the prompt once and keep what the replacement model freezes.

    Raises :class:`ModelError` when the model's output is not finite.
    """
    ids = torch.tensor(token_ids, device=model.device)
    layers = range(model.n_layers)
    norms = [
        norm
        for block in model.blocks
        for norm in (block.attn_norm, block.attn_post_norm, block.mlp_norm, block.mlp_post_norm)
        if norm is not None
    ]
    norms.append(model.final_norm)
    names = [f"{norm.name}.hook_scale" for norm in norms]
    names += [f"blocks.{layer}.attn.hook_pattern" for layer in layers]
    names += [model.read_hook(layer) for layer in layers]
    names += [model.write_hook(layer) for layer in layers]
    names.append("embed.hook_out")
    logits, seen = model.bridge.capture(ids, dict.fromkeys(names))
    if not torch.isfinite(logits).all():
        raise ModelError(
            f"{model.source.name} answers with numbers that are not finite: its weights are "
            "damaged or the data type is too narrow; try dtype float32"
        )
    features, activations, biases, errors = _decompose(model, seen)
    dtype = model.bridge.dtype
    return FrozenPass(
        token_ids=ids,
        logits=logits[-1].float(),
        patterns=tuple(seen[f"blocks.{layer}.attn.hook_pattern"].to(dtype) for layer in layers),
        scales={norm.name: seen[f"{norm.name}.hook_scale"].to(dtype) for norm in norms},
        features=features,
        activations=activations,
        preactivation_biases=biases,
        errors=errors,
        token_vectors=seen["embed.hook_out"],
    )


def feature_activations(
    model: Model, inputs: list[Float[Tensor, "pos d_model"]]
) -> list[Float[Tensor, "pos features"]]:
    """Activations of every layer from what its transcoder read; none at position 0."""
    activations = []
    for transcoder, x in zip(model.transcoders.layers, inputs, strict=True):
        active = transcoder.activations(x)
        active[:FIRST_POSITION] = 0
        activations.append(active)
    return activations


def _decompose(model: Model, seen: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Active features ``(active, 3)``, their activations and biases, and the error vectors."""
    layers = range(model.n_layers)
    inputs = [seen[model.read_hook(layer)].to(model.bridge.dtype) for layer in layers]
    outputs = torch.stack([seen[model.write_hook(layer)] for layer in layers])
    active = feature_activations(model, inputs)
    errors = outputs - model.transcoders.reconstructions(active, inputs)
    errors[:, :FIRST_POSITION] = 0
    ids, values, biases = [], [], []
    for layer, transcoder in enumerate(model.transcoders.layers):
        position, feature = active[layer].nonzero(as_tuple=True)
        ids.append(torch.stack([torch.full_like(position, layer), position, feature], dim=1))
        values.append(active[layer][position, feature])
        biases.append(transcoder.b_enc[feature])
    return torch.cat(ids), torch.cat(values), torch.cat(biases), errors
