"""`split_by_head`: which attention heads carried what a node reads.

In the linear replacement model every edge is a sum over paths, each with a number of attention
steps. Grouping the paths by their last head, by their first head, or by the number of steps gives
three exact splits. ("Tracing Attention Computation Through Feature Interactions", Kamath et al.,
2025, checkpoints the stream with dictionaries of features instead, because the number of paths
grows exponentially; partial sums over paths do not.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tracer.attention.checks import all_sources, prompt_ids
from tracer.attention.results import HeadSplit
from tracer.attribution.cuts import CutModel, Seeds
from tracer.attribution.targets import choose_targets
from tracer.errors import AttentionError
from tracer.graph.graph import AttributionGraph
from tracer.model.attention import block_constants, final_norm_bias
from tracer.model.failures import as_tracer_errors
from tracer.model.model import Model
from tracer.transcoders.config import ReadPoint
from tracer.types import Contrast, NodeId

N_HOPS: Final = 4


@dataclass(frozen=True)
class Start:
    """Where a node's gradient starts in the replacement model."""

    seeds: Seeds
    """One row."""
    position: int
    constant: float
    """What the node reads of biases directly."""


def split_by_head(model: Model, graph: AttributionGraph, node: NodeId) -> HeadSplit:
    """Return the complete input of ``node``, split by the attention heads that carried it.

    ``node`` is a feature or a logit of ``graph``; errors and tokens have no inputs.

    Raises :class:`AttentionError` for a node that is not in the graph or has no inputs, and for a
    graph of another model; :class:`tracer.errors.MemoryLimitError` when the device runs out of
    memory.

    >>> import tracer
    >>> model = tracer.load("atlas", device="cpu")
    >>> graph = tracer.trace(model, "The capital of the state containing Dallas is", max_features=8)
    >>> split = tracer.split_by_head(model, graph, graph.index.node(graph.index.logit_rows.start))
    >>> rebuilt = split.direct + split.last_head.sum(axis=(0, 1))
    >>> bool(np.allclose(rebuilt, split.weights, atol=1e-4))
    True
    >>> max(split.carried_by(), key=lambda carrier: carrier.weight).is_direct
    True
    """
    ids = prompt_ids(model, graph)
    with as_tracer_errors("splitting a node's input", model.device, "shorten the prompt"):
        cuts = CutModel(model, ids)
        return split_node(cuts, start_of(cuts, graph, node), node)


def start_of(cuts: CutModel, graph: AttributionGraph, node: NodeId) -> Start:
    """Return where the gradient of a node of ``graph`` starts.

    Raises :class:`AttentionError` if the node is not in the graph or has no inputs.
    """
    if node not in graph.index:
        raise AttentionError(
            f"{node} is not in this graph: it has {graph.index.n_features} features, the errors "
            f"and tokens of {graph.index.n_positions} positions, and {len(graph.targets)} logits"
        )
    if node.kind in ("error", "token"):
        raise AttentionError(f"{node} has no inputs: choose a feature or a logit")
    if node.kind == "feature":
        return feature_start(cuts, node)
    target = graph.targets[graph.index.row(node) - graph.index.logit_rows.start]
    if target.feature is not None:
        return feature_start(cuts, target.feature)
    if not target.token_ids:
        raise AttentionError(
            f"the target {target.label!r} is a direction, and a graph does not store its numbers: "
            "choose a token, a contrast or a feature"
        )
    ids = target.token_ids
    chosen = choose_targets(
        cuts.model, cuts.frozen, [ids[0] if len(ids) == 1 else Contrast(ids[0], ids[1])]
    )
    return _output_start(cuts, chosen.directions[0])


def feature_start(cuts: CutModel, node: NodeId) -> Start:
    """Return where the gradient of a feature's pre-activation starts, active or not."""
    model, backward = cuts.model, cuts.backward
    transcoder = model.transcoders[node.layer]
    index = torch.tensor([node.index], device=model.device)
    position = torch.tensor([node.position], device=model.device)
    encoder = transcoder.encoder_vectors(index).float()
    gradient = backward.pull_back_read(node.layer, encoder, position)
    constant = float(transcoder.b_enc[node.index])
    bias = block_constants(model.bridge, node.layer).mlp_norm
    if bias is not None and model.transcoders.read_point is ReadPoint.MLP_INPUT:
        constant += float(encoder[0] @ bias)
    return _start(gradient, 2 * node.layer + 1, node.position, constant)


def _output_start(cuts: CutModel, direction: Float[Tensor, " d_model"]) -> Start:
    model, last = cuts.model, cuts.n_positions - 1
    scale = cuts.frozen.scales[model.final_norm.name][last]
    gradient = model.final_norm.pull_back(direction[None].float(), scale)
    bias = final_norm_bias(model.bridge)
    constant = 0.0 if bias is None else float(direction.float() @ bias)
    return _start(gradient, 2 * model.n_layers, last, constant)


def _start(gradient: Tensor, cut: int, position: int, constant: float) -> Start:
    seeds = gradient.new_zeros(position + 1, 1, gradient.shape[1])
    seeds[position] = gradient
    return Start(Seeds(cut, seeds), position, constant)


def split_node(cuts: CutModel, start: Start, node: NodeId) -> HeadSplit:
    """Return the three splits of one node."""
    model = cuts.model
    n_layers, n_heads = model.n_layers, len(model.blocks[0].W_O)
    on_attention: dict[int, Tensor] = {}

    def keep(layer: int, gradient: Tensor) -> Tensor:
        on_attention[layer] = gradient.clone()
        return cuts.attention(layer, gradient)

    weights = cuts.effects([start.seeds], keep)[0]
    first_head = _by_head(cuts, split_heads(cuts, on_attention), attention=False)
    direct, last_head, last_seeds = by_last_head(cuts, start)
    moved = torch.zeros(n_layers, n_heads, cuts.n_positions, device=model.device)
    for group in last_seeds:
        layer, stop = group.cut // 2, len(group.gradients)
        products = group.gradients * cuts.constants.residual[layer, :stop, None]
        moved[layer, :, :stop] = products.sum(dim=2).T
    hops = _hops(cuts, start.seeds)
    for biases in (weights, direct, hops[0]):
        biases[-1] += start.constant
    return HeadSplit(
        node=node,
        sources=all_sources(model, cuts),
        weights=_numpy(weights),
        value=float(weights.sum()),
        direct=_numpy(direct),
        last_head=_numpy(last_head),
        first_head=_numpy(first_head),
        hops=_numpy(hops),
        moved=_numpy(moved),
    )


def by_last_head(cuts: CutModel, start: Start) -> tuple[Tensor, Tensor, list[Seeds]]:
    """Return what reaches a node directly ``(n_columns,)``, and by the head nearest to the node.

    The second is ``(n_layers, n_heads, n_columns)``; the seeds are the heads' gradients on what
    they read. The node's own constant is in neither.
    """
    direct = cuts.effects([start.seeds], _no_attention)[0]
    last_seeds = split_heads(cuts, cuts.descend(start.seeds))
    return direct, _by_head(cuts, last_seeds, attention=True), last_seeds


def moved_from(
    cuts: CutModel, start: Start, layer: int, query: int
) -> Float[np.ndarray, "heads positions"]:
    """Return what each head of a layer moves to ``query`` from each position, as it counts for a
    node: through all that follows, biases left out."""
    gradients: list[Tensor] = []

    def keep(number: int, gradient: Tensor) -> Tensor:
        if number == layer:
            gradients.append(gradient.clone())
        return cuts.attention(number, gradient)

    cuts.effects([start.seeds], keep)
    n_heads = len(cuts.model.blocks[layer].W_O)
    moved = torch.zeros(n_heads, cuts.n_positions, device=cuts.model.device)
    if not gradients or query >= len(gradients[0]):
        return _numpy(moved)
    only = torch.zeros_like(gradients[0])
    only[query] = gradients[0][query]
    by_head = cuts.backward.attention[layer].by_head(only)[:, :, 0]
    stop = by_head.shape[1]
    moved[:, :stop] = (by_head * cuts.constants.residual[layer, :stop]).sum(dim=2)
    return _numpy(moved)


def _no_attention(layer: int, gradient: Tensor) -> None:
    """Carry nothing through attention."""


def split_heads(cuts: CutModel, on_attention: dict[int, Tensor]) -> list[Seeds]:
    """Return, from the highest layer down, what each head adds to the gradient on what it reads."""
    groups = []
    for layer in sorted(on_attention, reverse=True):
        by_head = cuts.backward.attention[layer].by_head(on_attention[layer])
        groups.append(Seeds(2 * layer, by_head[:, :, 0].transpose(0, 1).contiguous()))
    return groups


def _by_head(cuts: CutModel, groups: list[Seeds], attention: bool) -> Tensor:
    """Return ``(n_layers, n_heads, n_columns)`` the effects of every source on the seeds."""
    n_heads = len(cuts.model.blocks[0].W_O)
    result = torch.zeros(cuts.model.n_layers, n_heads, cuts.n_columns, device=cuts.model.device)
    at_once = max(1, cuts.rows_at_once // n_heads)
    for first in range(0, len(groups), at_once):
        part = groups[first : first + at_once]
        effects = cuts.effects(part, None if attention else _no_attention)
        result[[group.cut // 2 for group in part]] = effects.view(len(part), n_heads, -1)
    return result


def _hops(cuts: CutModel, seeds: Seeds) -> Float[Tensor, "hops columns"]:
    """Walk copies of the gradient, one for each number of attention steps; the last absorbs."""
    gradients = seeds.gradients.new_zeros(len(seeds.gradients), N_HOPS, seeds.gradients.shape[2])
    gradients[:, :1] = seeds.gradients

    def step(layer: int, gradient: Tensor) -> Tensor:
        moved = cuts.attention(layer, gradient)
        shifted = torch.zeros_like(moved)
        shifted[:, 1:] = moved[:, :-1]
        shifted[:, -1] += moved[:, -1]
        return shifted

    return cuts.effects([Seeds(seeds.cut, gradients)], step)


def _numpy(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()
