"""Check what a question about attention names, and open the replacement model that answers it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tracer.attention.sources import Sources
from tracer.attribution.cuts import CutModel
from tracer.errors import AttentionError
from tracer.graph.graph import AttributionGraph
from tracer.model.model import Model


def prompt_ids(model: Model, graph: AttributionGraph | str | Sequence[int]) -> tuple[int, ...]:
    """Return the token ids of a graph, which this model must have traced, or of a prompt.

    Raises :class:`AttentionError` for a graph of another model, and the errors of
    :meth:`Model.encode`.
    """
    if not isinstance(graph, AttributionGraph):
        return model.encode(graph)
    traced = graph.provenance.get("fingerprint")
    if traced is None:
        raise AttentionError(
            "this graph does not say which files it was traced with, so its attention cannot be "
            f"explained: trace {graph.prompt!r} again with an open model"
        )
    if traced != model.source.fingerprint:
        raise AttentionError(
            f"this graph was traced with {graph.provenance.get('model')} and "
            f"{graph.provenance.get('transcoders')}, the open model is {model.source.name} with "
            f"{model.source.transcoders}: open the model of the graph"
        )
    return graph.token_ids


def check_head(model: Model, layer: int, head: int) -> None:
    """Raise :class:`AttentionError` if the model has no such head."""
    if not 0 <= layer < model.n_layers:
        raise AttentionError(
            f"layer {layer} does not exist: {model.source.name} has layers 0 to "
            f"{model.n_layers - 1}"
        )
    n_heads = len(model.blocks[layer].W_O)
    if not 0 <= head < n_heads:
        raise AttentionError(
            f"head {head} does not exist: layer {layer} of {model.source.name} has heads 0 to "
            f"{n_heads - 1}"
        )


def checked_position(position: int, n_pos: int, name: str) -> int:
    """Return a position counted from the start; raise :class:`AttentionError` outside the prompt.

    >>> checked_position(-1, 8, "query")
    7
    """
    if not -n_pos <= position < n_pos:
        raise AttentionError(
            f"{name} position {position} does not exist: the prompt has {n_pos} tokens, positions "
            f"0 to {n_pos - 1}"
        )
    return position % n_pos


def all_sources(model: Model, cuts: CutModel) -> Sources:
    """Return the sources of a prompt in the order of the columns of ``cuts``."""
    ids = cuts.frozen.token_ids
    features = cuts.frozen.host_features.numpy().astype(np.int32).reshape(-1, 3)
    return Sources(features, model.n_layers, model.token_strings(ids), ids)
