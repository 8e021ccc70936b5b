"""One forward pass of a prompt, and everything the local replacement model freezes from it.

All of it is float32, whatever the data type of the weights.

With attention patterns and norm scales held at these values and each MLP replaced by features plus
an error vector, the residual stream is linear: what attribution and its checks rest on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracer.errors import ModelError
from tracer.model.bridge import Norm
from tracer.model.model import Model


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
    """MLP output minus the transcoders' reconstruction, zero before the first position that counts
    (:attr:`Model.first_position`)."""
    token_vectors: Float[Tensor, "pos d_model"]

    @property
    def n_positions(self) -> int:
        return len(self.token_ids)

    def pull_back(self, norm: Norm | None, gradient: Tensor, stop: int) -> Tensor:
        """Through a norm (or none) at the frozen scales of positions ``0..stop-1``."""
        if norm is None:
            return gradient
        return norm.pull_back(gradient, self.scales[norm.name][:stop])


def frozen_pass(
    model: Model, token_ids: tuple[int, ...], checkpoint: Callable[[], None] = lambda: None
) -> FrozenPass:
    """Run the prompt once and keep what the replacement model freezes.

    ``checkpoint`` is called before the features of every layer are computed, and may raise.

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
    features, activations, biases, errors = _decompose(model, seen, checkpoint)
    return FrozenPass(
        token_ids=ids,
        logits=logits[-1].float(),
        patterns=tuple(seen[f"blocks.{layer}.attn.hook_pattern"].float() for layer in layers),
        scales={norm.name: seen[f"{norm.name}.hook_scale"].float() for norm in norms},
        features=features,
        activations=activations,
        preactivation_biases=biases,
        errors=errors,
        token_vectors=seen["embed.hook_out"].float(),
    )


def _decompose(
    model: Model, seen: dict[str, Tensor], checkpoint: Callable[[], None]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Active features ``(active, 3)``, their activations and biases, and the error vectors.

    A layer at a time: the activations of all features of a dictionary are large, the active ones
    few.
    """
    inputs = [seen.pop(model.read_hook(layer)).float() for layer in range(model.n_layers)]
    rebuilt = model.transcoders.written_without_features(inputs)
    ids, values, biases = [], [], []
    for transcoder, x in zip(model.transcoders.layers, inputs, strict=True):
        checkpoint()
        active = transcoder.activations(x)
        active[: model.first_position] = 0
        position, feature = active.nonzero(as_tuple=True)
        value = active[position, feature]
        del active
        chosen, place = feature.unique(return_inverse=True)
        transcoder.write(rebuilt, position, transcoder.decoder_vectors(chosen), place, value)
        layer = torch.full_like(position, transcoder.layer)
        ids.append(torch.stack([layer, position, feature], dim=1))
        values.append(value)
        biases.append(transcoder.b_enc[feature])
    for number, errors in enumerate(rebuilt):
        errors.neg_().add_(seen.pop(model.write_hook(number)))
    rebuilt[:, : model.first_position] = 0
    return torch.cat(ids), torch.cat(values), torch.cat(biases), rebuilt
