"""One forward pass of a prompt, and everything the local replacement model freezes from it.

With attention patterns and norm scales frozen at these values, and each MLP replaced by features
and an error vector, the residual stream is linear. Attribution and its checks rest on that. All
tensors are float32, whatever the data type of the weights or of the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracer.errors import ModelError
from tracer.model.block import Block
from tracer.model.model import Model
from tracer.model.precision import float32_products


@dataclass(frozen=True)
class FrozenPass:
    """The quantities of one forward pass that attribution freezes."""

    token_ids: tuple[int, ...]
    logits: Float[Tensor, " vocab"]
    """Final logits at the last position, soft cap included."""
    scaled_patterns: tuple[Float[Tensor, "heads query key"], ...]
    """Attention patterns, divided by the scales of the norms before attention (keys) and after it
    (queries)."""
    scales: dict[str, Float[Tensor, "pos 1"]]
    """Norm scales by the norm's hook prefix."""
    features: Int[Tensor, "active 3"]
    """Layer, position, feature of every active feature, ascending."""
    activations: Float[Tensor, " active"]
    preactivation_biases: Float[Tensor, " active"]
    """The encoder bias of every active feature."""
    errors: Float[Tensor, "layers pos d_model"]
    """MLP output minus reconstruction; zero before :attr:`Model.first_position`."""
    token_vectors: Float[Tensor, "pos d_model"]

    @property
    def n_positions(self) -> int:
        return len(self.token_ids)

    @cached_property
    def host_features(self) -> Int[Tensor, "active 3"]:
        """:attr:`features` on the CPU, where batches are planned without waiting for the device."""
        return self.features.cpu()

    @property
    def n_bytes(self) -> int:
        """Memory of the large tensors."""
        large = (*self.scaled_patterns, self.errors, self.features, self.activations)
        return sum(tensor.nbytes for tensor in large)


def frozen_pass(
    model: Model, token_ids: tuple[int, ...], checkpoint: Callable[[], None] = lambda: None
) -> FrozenPass:
    """Run the prompt once and keep what the replacement model freezes.

    ``checkpoint`` is called before the features of every layer are computed, and may raise.

    Raises :class:`ModelError` if the residual stream or the logits are not finite.
    """
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
    ids = torch.tensor(token_ids, device=model.device)
    logits, captured = model.bridge.capture(ids, dict.fromkeys(names), last_only=True)
    scales = {norm.name: captured[f"{norm.name}.hook_scale"].float() for norm in norms}
    # The final norm's scale is finite exactly if the residual stream of its position is.
    finite = torch.isfinite(logits).all() & torch.isfinite(scales[model.final_norm.name]).all()
    if not finite:
        raise ModelError(
            f"{model.source.name} computes numbers that are not finite: its weights are damaged, "
            "or the data type is too narrow; try dtype float32"
        )
    patterns = (captured.pop(f"blocks.{layer}.attn.hook_pattern").float() for layer in layers)
    scaled = tuple(map(_divide_by_scales, patterns, model.blocks, [scales] * model.n_layers))
    with float32_products(model.bridge.tf32):
        features, activations, biases, errors = _decompose(model, captured, checkpoint)
    return FrozenPass(
        token_ids=token_ids,
        logits=logits[-1],
        scaled_patterns=scaled,
        scales=scales,
        features=features,
        activations=activations,
        preactivation_biases=biases,
        errors=errors,
        token_vectors=captured["embed.hook_out"].float(),
    )


def _divide_by_scales(pattern: Tensor, block: Block, scales: dict[str, Tensor]) -> Tensor:
    """Divide in place: patterns are the largest arrays of a long prompt, and used only here."""
    if block.attn_norm is not None:
        pattern /= scales[block.attn_norm.name][:, 0]
    if block.attn_post_norm is not None:
        pattern /= scales[block.attn_post_norm.name]
    return pattern


def _decompose(
    model: Model, captured: dict[str, Tensor], checkpoint: Callable[[], None]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return active features ``(active, 3)``, their activations and biases, and error vectors.

    One layer at a time: the activations of all features of a dictionary are large, and few of them
    are active.
    """
    inputs = [captured.pop(model.read_hook(layer)).float() for layer in range(model.n_layers)]
    rebuilt = model.transcoders.written_without_features(inputs)
    ids, values, biases = [], [], []
    for transcoder, x in zip(model.transcoders.layers, inputs, strict=True):
        checkpoint()
        active = transcoder.activations(x)
        active[: model.first_position] = 0
        position, feature = active.nonzero(as_tuple=True)
        value = active[position, feature]
        del active
        transcoder.write(rebuilt, position, feature, value)
        layer = torch.full_like(position, transcoder.layer)
        ids.append(torch.stack([layer, position, feature], dim=1))
        values.append(value)
        biases.append(transcoder.b_enc[feature])
    for number, errors in enumerate(rebuilt):
        errors.neg_().add_(captured.pop(model.write_hook(number)))
    rebuilt[:, : model.first_position] = 0
    return torch.cat(ids), torch.cat(values), torch.cat(biases), rebuilt
