"""`split_edges`: all edges of a pruned graph by the attention head that carried them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tracer.attention.checks import all_sources, prompt_ids
from tracer.attention.edge_heads import EdgeHeads, Habit, habit_of
from tracer.attention.split import by_last_head, start_of
from tracer.attribution.cuts import CutModel
from tracer.errors import AttentionError
from tracer.graph.nodes import IntArray
from tracer.graph.pruning import PrunedGraph
from tracer.model.failures import as_tracer_errors
from tracer.model.model import Model
from tracer.types import Progress


def split_edges(
    model: Model,
    pruned: PrunedGraph,
    max_targets: int = 64,
    progress: Progress | None = None,
) -> EdgeHeads:
    """Return every kept edge of a graph, split by the head nearest to its target.

    Each target costs about as much as :func:`split_by_head`. Only the ``max_targets`` most
    influential targets are taken; logits come first. ``progress`` is called before each one with
    ``"splitting edges"``, and may raise :class:`tracer.errors.Cancelled`.

    Raises :class:`AttentionError` for a graph of another model, a target that is a direction, and a
    ``max_targets`` below 1; :class:`tracer.errors.MemoryLimitError` when the device runs out of
    memory.

    >>> import tracer
    >>> model = tracer.load("atlas", device="cpu")
    >>> graph = tracer.trace(model, "The capital of the state containing Dallas is", max_features=8)
    >>> split = tracer.split_edges(model, tracer.prune(graph))
    >>> rebuilt = split.direct + split.heads.sum(axis=(1, 2))
    >>> bool(abs(rebuilt - split.weights).max() < 1e-4)
    True
    """
    if max_targets < 1:
        raise AttentionError(f"max_targets is {max_targets}: it must be at least 1")
    graph = pruned.graph
    ids = prompt_ids(model, graph)
    edges = np.flatnonzero(pruned.edge_mask)
    chosen, n_left_out = _chosen(pruned, np.unique(graph.rows[edges]), max_targets)
    edges = edges[np.isin(graph.rows[edges], chosen)]
    with as_tracer_errors("splitting the edges of a graph", model.device, "shorten the prompt"):
        habits = _habits(model, ids)
        n_layers, n_heads = len(habits), len(habits[0])
        direct = np.zeros(len(edges), np.float32)
        heads = np.zeros((len(edges), n_layers, n_heads), np.float32)
        cuts = CutModel(model, ids)
        columns = all_sources(model, cuts).columns(graph)
        for done, row in enumerate(chosen.tolist()):
            if progress is not None:
                progress(done, len(chosen), "splitting edges")
            into = np.flatnonzero(graph.rows[edges] == row)
            start = start_of(cuts, graph, graph.index.node(row))
            wanted = torch.from_numpy(columns[graph.sources[edges[into]]]).to(model.device)
            straight, last_head, _ = by_last_head(cuts, start)
            direct[into] = straight[wanted].cpu().numpy()
            heads[into] = last_head[:, :, wanted].permute(2, 0, 1).cpu().numpy()
    return EdgeHeads(
        index=graph.index,
        sources=graph.sources[edges],
        targets=graph.rows[edges],
        weights=graph.weights[edges],
        direct=direct,
        heads=heads,
        habits=habits,
        n_left_out=n_left_out,
    )


def _chosen(pruned: PrunedGraph, rows: IntArray, limit: int) -> tuple[IntArray, int]:
    """Return the targets to split, logits and then the most influential, and how many are left."""
    logits = pruned.graph.index.logit_rows
    is_logit = (rows >= logits.start) & (rows < logits.stop)
    order = np.lexsort((-pruned.influence[rows], ~is_logit))[:limit]
    return np.asarray(rows[order]), len(rows) - len(order)


def _habits(model: Model, token_ids: tuple[int, ...]) -> tuple[tuple[Habit, ...], ...]:
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.n_layers)]
    ids: Any = torch.tensor(token_ids, device=model.device)
    with model.bridge.exact():
        _, captured = model.bridge.capture(ids, names, last_only=True)
    patterns = (captured.pop(name).float().cpu().numpy() for name in names)
    return tuple(tuple(habit_of(head, token_ids) for head in pattern) for pattern in patterns)
