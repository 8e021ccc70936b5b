"""`head_paths`: the strongest paths of one edge through attention heads.

One forward sweep carries the source to every cut of the stream. The effect of all paths that end in
the same heads is then one dot product, so a search from the target down is cheap. It expands the
partial path with the largest sum first. Sums are signed, so a small one may hide large paths that
cancel: what was found is reported as a share, never as complete.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count

import numpy as np
import torch
from torch import Tensor

from tracer.attention.checks import all_sources, prompt_ids
from tracer.attention.results import EdgePaths, HeadPath
from tracer.attention.split import Start, split_heads, start_of
from tracer.attribution.cuts import CutModel, Seeds, Swept
from tracer.errors import AttentionError
from tracer.graph.graph import AttributionGraph
from tracer.model.failures import as_tracer_errors
from tracer.model.model import Model
from tracer.types import NodeId


def head_paths(
    model: Model,
    graph: AttributionGraph,
    source: NodeId,
    target: NodeId,
    k: int = 8,
    max_steps: int = 64,
) -> EdgePaths:
    """Return the ``k`` strongest paths of the edge from ``source`` to ``target``.

    At most ``max_steps`` partial paths are followed down. The paths' share of the edge is
    :attr:`EdgePaths.share_found`.

    ``source`` may be any active feature, also one that the graph did not expand.

    Raises :class:`AttentionError` for a source that the prompt does not have, a target that is not
    in the graph or has no inputs, a ``k`` or ``max_steps`` below 1, and a graph of another model.

    >>> import tracer
    >>> model = tracer.load("atlas", device="cpu")
    >>> graph = tracer.trace(model, "The capital of the state containing Dallas is", max_features=8)
    >>> token = graph.index.node(graph.index.token_rows.start + 7)
    >>> logit = graph.index.node(graph.index.logit_rows.start)
    >>> edge = tracer.head_paths(model, graph, token, logit, k=3)
    >>> len(edge.paths), all(path.heads for path in edge.paths)  # Dallas is not the last word
    (3, True)
    """
    for name, value in (("k", k), ("max_steps", max_steps)):
        if value < 1:
            raise AttentionError(f"{name} is {value}: it must be at least 1")
    ids = prompt_ids(model, graph)
    with as_tracer_errors("following an edge through heads", model.device, "shorten the prompt"):
        cuts = CutModel(model, ids)
        start = start_of(cuts, graph, target)
        sources = all_sources(model, cuts)
        if source not in sources:
            raise AttentionError(
                f"{source} is not a source of this prompt: choose an active feature, an error or a "
                "token"
            )
        column = sources.column(source)
        weight, paths, positions = _search(cuts, start, column, k, max_steps)
    return EdgePaths(source, target, weight, paths, positions)


def _search(
    cuts: CutModel, start: Start, column: int, k: int, max_steps: int
) -> tuple[float, tuple[HeadPath, ...], np.ndarray]:
    written = cuts.written(column)
    swept, unmoved = cuts.sweep(written), cuts.sweep(written, attention=False)
    n_heads = len(cuts.model.blocks[0].W_O)
    positions = torch.zeros(cuts.model.n_layers, n_heads, cuts.n_positions)
    order = count()
    waiting: list[tuple[float, int, tuple[tuple[int, int], ...], Seeds]] = []
    complete: list[HeadPath] = []

    def follow(heads: tuple[tuple[int, int], ...], seeds: Seeds) -> None:
        """Finish a partial path without more attention, and extend it by every lower head."""
        rows = seeds.gradients.transpose(0, 1)
        complete.append(HeadPath(heads, float(unmoved.dot(seeds.cut, rows))))
        for group in split_heads(cuts, cuts.descend(seeds)):
            layer = group.cut // 2
            if not heads:
                positions[layer] = _by_position(swept, group).cpu()
            sums = swept.dot(group.cut, group.gradients.transpose(0, 1)).tolist()
            for head, total in enumerate(sums):
                if total:
                    one = Seeds(group.cut, group.gradients[:, head : head + 1].clone())
                    heappush(waiting, (-abs(total), next(order), ((layer, head), *heads), one))

    follow((), start.seeds)
    for _ in range(max_steps):
        if not waiting:
            break
        _, _, heads, seeds = heappop(waiting)
        follow(heads, seeds)
    complete.sort(key=lambda path: -abs(path.weight))
    paths = tuple(path for path in complete[:k] if path.weight)
    weight = float(swept.dot(start.seeds.cut, start.seeds.gradients.transpose(0, 1)))
    return weight, paths, positions.numpy()


def _by_position(swept: Swept, group: Seeds) -> Tensor:
    """Return ``(n_heads, n_positions)`` what each head of a layer moves from each position."""
    stream = swept.cuts[group.cut]
    moved = stream.new_zeros(group.gradients.shape[1], len(stream))
    products = group.gradients * stream[: len(group.gradients), None]
    moved[:, : len(group.gradients)] = products.sum(dim=2).T
    return moved
