"""`explain_attention`: why a head looks from one position at another, and not elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

from tracer.attention.checks import all_sources, check_head, checked_position, prompt_ids
from tracer.attention.results import AttentionExplanation
from tracer.attention.score import HeadScores, Side
from tracer.attribution.cuts import CutModel, Seeds
from tracer.errors import AttentionError
from tracer.graph.graph import AttributionGraph
from tracer.model.failures import as_tracer_errors
from tracer.model.model import Model
from tracer.model.precision import float32_products

_SMALL: Final = 1e-6
_TOLERANCE: Final = 1e-3
"""Largest difference between a score and the sum over its sources, as a share of their size."""


def explain_attention(
    model: Model,
    graph: AttributionGraph | str | Sequence[int],
    layer: int,
    head: int,
    query: int,
    key: int | None = None,
    versus: int | Literal["rest", "sink"] | None = None,
) -> AttentionExplanation:
    """Return why a head looks from position ``query`` at position ``key``, over pairs of sources.

    ``graph`` is a graph of this model, or a prompt. Negative positions count from the end. Without
    ``key``, it is the position that the head looks at most.

    The score is explained as it is, or with ``versus`` as a difference: from the score of another
    position, which is exactly the log ratio of the two attention weights; from the ``"rest"``, the
    mean of all other keys by their attention weights, which is how the log odds of the key change
    to first order; or from the ``"sink"`` of GPT-OSS.

    Under a soft cap (Gemma 2) the terms of a score are scaled by one factor, so that they add up to
    the capped score.

    Raises :class:`AttentionError` for a layer, head or position that does not exist, a key after
    the query or outside the head's window, a ``versus`` that is not another key, an architecture
    whose scores are not products of queries and keys, and a graph of another model; and the errors
    of :meth:`Model.encode`.

    >>> import tracer
    >>> model = tracer.load("atlas", device="cpu")
    >>> prompt = "The capital of the state containing Dallas is"
    >>> why = tracer.explain_attention(model, prompt, layer=2, head=1, query=-1, key=7)
    >>> bool(np.allclose([why.query.sum(), why.key.sum()], why.score))
    True
    >>> len(why.pairs(3))
    3
    >>> other = tracer.explain_attention(model, prompt, 2, 1, query=-1, key=7, versus=6)
    >>> bool(abs(other.score - np.log(other.pattern[7] / other.pattern[6])) < 1e-4)
    True
    """
    ids = prompt_ids(model, graph)
    check_head(model, layer, head)
    query = checked_position(query, len(ids), "query")
    if key is not None:
        key = checked_position(key, len(ids), "key")
    if isinstance(versus, int):
        versus = checked_position(versus, len(ids), "versus")
    elif versus not in (None, "rest", "sink"):
        raise AttentionError(
            f"versus is {versus!r}: give another position, 'rest', 'sink', or None"
        )
    with as_tracer_errors("explaining a head", model.device, "shorten the prompt"):
        cuts = CutModel(model, ids)
        with torch.no_grad(), float32_products():
            scores = HeadScores(cuts, layer, head)
        if key is None:
            key = int(scores.pattern[query].argmax())
        return explain(cuts, scores, query, key, versus)


@dataclass(frozen=True)
class _Keys:
    """The keys of an explanation with their weights, so that terms add up to ``score``."""

    weights: dict[int, float]
    score: float
    constant: float = 0.0


def explain(
    cuts: CutModel, scores: HeadScores, query: int, key: int, versus: int | str | None
) -> AttentionExplanation:
    """Return the explanation of one query and key of a head."""
    visible = scores.visible(query)
    _check_visible(cuts, scores, query, key, "key")
    if isinstance(versus, int):
        _check_visible(cuts, scores, query, versus, "versus")
        if versus == key:
            raise AttentionError(
                f"versus is position {versus}, which is the key itself: give another position"
            )
    with torch.no_grad(), float32_products():
        keys = _keys(cuts, scores, query, key, versus)
        query_vectors, key_vectors = _vectors(cuts, scores, query, keys)
    looked_for, found = query_vectors.sum(axis=0), key_vectors.sum(axis=0)
    by_query, by_key = query_vectors @ found, key_vectors @ looked_for
    by_query[-1] += keys.constant
    by_key[-1] += keys.constant
    size = np.abs(by_query).sum() + abs(keys.score)
    if abs(by_query.sum() - keys.score) > _TOLERANCE * size:
        raise AttentionError(
            f"the sources of {cuts.model.source.name} ({cuts.model.bridge.architecture}) add up to "
            f"{by_query.sum():.4g} where the score is {keys.score:.4g}: its residual stream has "
            "parts that are not known here"
        )
    every = torch.where(visible, scores.capped(scores.raw[query]), torch.nan)
    pattern = torch.where(visible, scores.pattern[query], 0)
    return AttentionExplanation(
        layer=scores.layer,
        head=scores.head,
        position=query,
        key_position=key,
        versus=versus,
        sources=all_sources(cuts.model, cuts),
        score=keys.score,
        scores=every.cpu().numpy(),
        pattern=pattern.cpu().numpy(),
        patterns=scores.pattern.cpu().numpy(),
        slope=float(scores.slope(scores.raw[query, key])),
        query=by_query,
        key=by_key,
        query_vectors=query_vectors,
        key_vectors=key_vectors,
        constant=keys.constant,
        sink=max(0.0, 1 - float(pattern.sum())) if scores.sink is not None else 0.0,
    )


def _check_visible(cuts: CutModel, scores: HeadScores, query: int, key: int, name: str) -> None:
    if key > query:
        raise AttentionError(
            f"{name} position {key} comes after query position {query}: a head looks only at its "
            "own position and back"
        )
    visible = scores.visible(query)
    if not visible[key]:
        first = int(visible.nonzero()[0])
        raise AttentionError(
            f"{name} position {key} is outside the window of layer {scores.layer}: from position "
            f"{query} its heads see positions {first} to {query}"
        )


def _keys(
    cuts: CutModel, scores: HeadScores, query: int, key: int, versus: int | str | None
) -> _Keys:
    """Return the keys that take part. The factors of a soft cap are part of their weights."""
    raw = scores.raw[query]
    capped = scores.capped(raw)
    factor = torch.where(raw.abs() < _SMALL, scores.slope(raw), capped / raw)
    own = float(factor[key])
    if versus is None:
        return _Keys({key: own}, float(capped[key]))
    if isinstance(versus, int):
        apart, between = float(raw[key] - raw[versus]), float(capped[key] - capped[versus])
        secant = float(scores.slope(raw[key])) if abs(apart) < _SMALL else between / apart
        return _Keys({key: secant, versus: -secant}, between)
    sink = scores.sink
    if versus == "sink":
        if sink is None:
            raise AttentionError(
                f"{cuts.model.source.name} has no attention sinks: give another position as "
                "versus, 'rest' or None"
            )
        return _Keys({key: own}, float(capped[key]) - sink, -sink)
    pattern, weights, score = scores.pattern[query], {key: own}, float(capped[key])
    rest = 1 - float(pattern[key])
    others = [one for one in scores.visible(query).nonzero()[:, 0].tolist() if one != key]
    if not others and sink is None:
        raise AttentionError(
            f"position {key} is the only one that position {query} can look at: there is no rest "
            "to compare with"
        )
    rest = max(rest, float(torch.finfo(torch.float32).tiny))
    for other in others:
        share = float(pattern[other]) / rest
        weights[other] = -share * float(factor[other])
        score -= share * float(capped[other])
    constant = 0.0
    if sink is not None:
        constant = -sink * max(0.0, 1 - float(pattern.sum())) / rest
    return _Keys(weights, score + constant, constant)


def _vectors(
    cuts: CutModel, scores: HeadScores, query: int, keys: _Keys
) -> tuple[np.ndarray, np.ndarray]:
    """Return the query and key vectors of every source, ``(n_sources, d_head)`` float64.

    One walk carries the coordinates of both. Weights of keys and the scaling of the score are in
    the key vectors.
    """
    asked = scores.query_side(query)
    d_head, d_model = asked.seeds.shape
    seeds = asked.seeds.new_zeros(query + 1, 2 * d_head, d_model)
    seeds[query, :d_head] = asked.seeds
    constant: Tensor = torch.zeros_like(asked.constant)
    for position, weight in keys.weights.items():
        side: Side = scores.key_side(position)
        seeds[position, d_head:] += weight * scores.weights.scaling * side.seeds
        constant = constant + weight * scores.weights.scaling * side.constant
    effects = _effects(cuts, Seeds(2 * scores.layer, seeds))
    effects[:d_head, -1] += asked.constant.cpu().numpy()
    effects[d_head:, -1] += constant.cpu().numpy()
    return effects[:d_head].T.copy(), effects[d_head:].T.copy()


def _effects(cuts: CutModel, seeds: Seeds) -> np.ndarray:
    """Return the effects on seeds, as many at a time as memory is planned for; float64."""
    rows = seeds.gradients.split(cuts.rows_at_once, dim=1)
    parts = [cuts.effects([Seeds(seeds.cut, part)]).cpu().numpy() for part in rows]
    return np.concatenate(parts).astype(np.float64)
