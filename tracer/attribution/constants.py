"""The sources that a graph has no nodes for, so that sources add up to what they explain.

A graph's features, errors and tokens leave out every bias, the learned position embeddings
(GPT-2), and what the MLPs write before :attr:`Model.first_position`, where there are no features.
With these, for every target: the sum over all sources is the target's value.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tracer.attribution.frozen import FrozenPass
from tracer.model.attention import block_constants
from tracer.model.block import Norm
from tracer.model.model import Model
from tracer.transcoders.config import ReadPoint, WritePoint

_POSITIONS = "pos_embed.hook_out"


@dataclass(frozen=True)
class Constants:
    """What is written to the residual stream by nothing that a graph has a node for.

    Columns: position embeddings by position, MLP outputs at the start by layer, and one for all
    biases.
    """

    after_mlp: Float[Tensor, "layers pos d_model"]
    after_attention: Float[Tensor, "layers pos d_model"]
    start: Float[Tensor, "layers pos d_model"]
    """MLP outputs before :attr:`Model.first_position`, skips left out; zero elsewhere."""
    positions: Float[Tensor, "pos d_model"]
    residual: Float[Tensor, "layers pos d_model"]
    """The residual stream that enters every block."""

    @property
    def n_columns(self) -> int:
        return len(self.positions) + len(self.start) + 1

    def score_mlp(
        self, layer: int, gradient: Tensor, scores: Float[Tensor, "columns rows"]
    ) -> None:
        """Add the effects of what is written at ``layer`` after its MLP.

        ``gradient`` is ``(pos, rows, d_model)``.
        """
        stop = len(gradient)
        scores[-1] += _effects(self.after_mlp[layer, :stop], gradient)
        scores[len(self.positions) + layer] += _effects(self.start[layer, :stop], gradient)

    def score_attention(self, layer: int, gradient: Tensor, scores: Tensor) -> None:
        """Add the effects of the biases that are written at ``layer`` with attention's output."""
        scores[-1] += _effects(self.after_attention[layer, : len(gradient)], gradient)

    def score_positions(self, gradient: Tensor, scores: Tensor) -> None:
        """Add the effects of the position embeddings; ``gradient`` is on the embedding."""
        stop = len(gradient)
        scores[:stop] += (self.positions[:stop, None] @ gradient.transpose(1, 2))[:, 0]


def _effects(
    vectors: Float[Tensor, "pos d_model"], gradient: Float[Tensor, "pos rows d_model"]
) -> Float[Tensor, " rows"]:
    return (vectors[:, None] * gradient).sum(dim=(0, 2))


def gather_constants(model: Model, frozen: FrozenPass) -> Constants:
    """Run the prompt once more, and collect what is written without a node."""
    layers = range(model.n_layers)
    names = [f"blocks.{layer}.hook_in" for layer in layers]
    names += [model.write_hook(layer) for layer in layers]
    names += [model.read_hook(layer) for layer in layers]
    learned = [_POSITIONS] if model.bridge.has_hook(_POSITIONS) else []
    ids = torch.tensor(frozen.token_ids, device=model.device)
    _, captured = model.bridge.capture(ids, dict.fromkeys([*names, *learned]), last_only=True)
    embedded = torch.zeros_like(frozen.token_vectors)
    if learned:
        embedded = captured[_POSITIONS].float().view(-1, *embedded.shape)[0]
    after_mlp, after_attention, start = [], [], []
    for layer in layers:
        outputs = captured[model.write_hook(layer)].float()
        inputs = captured[model.read_hook(layer)].float()
        biases, written = _mlp(model, frozen, layer, outputs, inputs)
        after_mlp.append(biases)
        start.append(written)
        after_attention.append(_attention(model, frozen, layer))
    return Constants(
        after_mlp=torch.stack(after_mlp),
        after_attention=torch.stack(after_attention),
        start=torch.stack(start),
        positions=embedded,
        residual=torch.stack([captured[f"blocks.{layer}.hook_in"].float() for layer in layers]),
    )


def _mlp(
    model: Model, frozen: FrozenPass, layer: int, outputs: Tensor, inputs: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the biases at every position, and the MLP outputs before the first position.

    The linear part of a skip connection is part of the stream at all positions.
    """
    block, transcoder = model.blocks[layer], model.transcoders[layer]
    constants, first = block_constants(model.bridge, layer), model.first_position
    biases = transcoder.b_dec.expand_as(outputs).clone()
    biases[:first] = 0
    from_skip = torch.zeros_like(biases)
    reads_norm = model.transcoders.read_point is ReadPoint.MLP_INPUT
    if reads_norm and transcoder.W_skip is not None and constants.mlp_norm is not None:
        from_skip = transcoder.skipped(constants.mlp_norm[None]).expand_as(biases)
        biases = biases + from_skip
    start = torch.zeros_like(outputs)
    linear = transcoder.skipped(inputs[:first]) - from_skip[:first]
    start[:first] = outputs[:first] - linear - biases[:first]
    norm = block.mlp_post_norm
    if norm is None or model.transcoders.write_point is not WritePoint.MLP_OUTPUT:
        return biases, start
    scale = frozen.scales[norm.name]
    biases, start = norm.push_forward(biases, scale), norm.push_forward(start, scale)
    if constants.mlp_post_norm is not None:
        biases = biases + constants.mlp_post_norm
    return biases, start


def _attention(model: Model, frozen: FrozenPass, layer: int) -> Float[Tensor, "pos d_model"]:
    """Return what attention writes if its input is zero: biases of norms, values and output."""
    block, constants = model.blocks[layer], block_constants(model.bridge, layer)
    n_heads, d_head, _ = block.W_O.shape
    ones = torch.ones(frozen.n_positions, 1, device=model.device)
    before = ones if block.attn_norm is None else frozen.scales[block.attn_norm.name]
    norm: Norm | None = block.attn_post_norm
    after = ones if norm is None else frozen.scales[norm.name]
    value = torch.zeros(len(block.W_V), d_head, device=model.device)
    if constants.attn_norm is not None:
        value = value + constants.attn_norm @ block.W_V.float()
    if constants.b_V is not None:
        value = value + constants.b_V
    value = value.repeat_interleave(n_heads // len(block.W_V), dim=0)
    # Frozen patterns are divided by both scales.
    looked = torch.stack([(pattern @ before)[:, 0] for pattern in frozen.scaled_patterns[layer]])
    written = looked.T @ torch.einsum("hd,hdm->hm", value, block.W_O.float())
    if constants.b_O is not None:
        written = written + constants.b_O / after
    if norm is None:
        return written
    written = norm.push_forward(written, ones)
    return written if constants.attn_post_norm is None else written + constants.attn_post_norm
