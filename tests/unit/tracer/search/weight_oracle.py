"""Virtual weights by explicit matrices in float64: the dense computation that searches must equal.

Every norm is written out as a matrix, so that nothing of `tracer.search` is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer.model.bridge import Norm
from tracer.model.model import Model
from tracer.search.match import FeatureMatch
from tracer.transcoders.config import ReadPoint, WritePoint
from tracer.types import FeatureId

Array = NDArray[np.float64]


def array(tensor: Any) -> Array:
    return np.asarray(tensor.float().numpy(), dtype=np.float64)


def centring(norm: Norm, d_model: int) -> Array:
    identity = np.eye(d_model)
    return identity - np.full((d_model, d_model), 1 / d_model) if norm.centred else identity


def reading(model: Model, layer: int) -> Array:
    """The matrix from the residual stream to what the transcoder of a layer reads."""
    d_model, norm = model.transcoders.d_model, model.blocks[layer].mlp_norm
    if norm is None or model.transcoders.read_point is ReadPoint.RESIDUAL:
        return np.eye(d_model)
    if model.transcoders.read_point is ReadPoint.NORMALIZED:
        return centring(norm, d_model)
    return np.diag(array(norm.gain)) @ centring(norm, d_model)


def writing(model: Model, layer: int) -> Array:
    """The matrix from what a transcoder writes at a layer to the residual stream."""
    d_model, norm = model.transcoders.d_model, model.blocks[layer].mlp_post_norm
    if norm is None or model.transcoders.write_point is WritePoint.RESIDUAL_UPDATE:
        return np.eye(d_model)
    return np.diag(array(norm.gain)) @ centring(norm, d_model)


def written(model: Model, layer: int, stop: int) -> Array:
    """Return what all features of a layer add to the residual stream below ``stop``, summed."""
    transcoder = model.transcoders[layer]
    decoders = array(transcoder.decoder())
    total = np.zeros((len(decoders), model.transcoders.d_model))
    for step, output in enumerate(transcoder.output_layers):
        if output < stop:
            total += decoders[:, step] @ writing(model, output).T
    return total


def encoders(model: Model, layer: int) -> Array:
    W_enc = model.transcoders[layer].W_enc
    return array(W_enc if hasattr(W_enc, "float") else W_enc.whole())


def virtual_weights(model: Model, source: int, target: int) -> Array:
    """``(features of source, features of target)``."""
    below = written(model, source, target)
    return below @ reading(model, target).T @ encoders(model, target).T


def unit_rows(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def ranked(
    by_layer: dict[int, Array],
    limit: int,
    *,
    by: str = "z",
    signs: tuple[int, ...] = (1,),
    without: FeatureId | None = None,
) -> list[tuple[FeatureId, float, float]]:
    """The strongest features with value and z, by sorting all of them."""
    rows = []
    for layer, values in by_layer.items():
        kept = [i for i in range(len(values)) if FeatureId(layer, i) != without]
        mean, sd = values[kept].mean(), values[kept].std()
        rows += [(FeatureId(layer, i), values[i], (values[i] - mean) / sd) for i in kept]

    def key(row: tuple[FeatureId, float, float]) -> float:
        return row[2] if by == "z" else row[1]

    best = []
    for sign in signs:
        of_sign = [row for row in rows if sign * key(row) > 0]
        best += sorted(of_sign, key=lambda row: -sign * key(row))[:limit]
    return sorted(best, key=lambda row: -abs(key(row)))


def assert_equal(
    matches: tuple[FeatureMatch, ...], expected: list[tuple[FeatureId, float, float]]
) -> None:
    """The same features in the same order, unless two are equal to what float32 can tell apart."""
    assert len(matches) == len(expected) > 0
    values = {feature: (value, z) for feature, value, z in expected}
    scale = max(abs(value) for _, value, _ in expected)
    for match, (feature, value, z) in zip(matches, expected, strict=True):
        if match.feature != feature:
            assert abs(match.z - z) < 1e-4 or abs(match.value - value) < 1e-5 * scale
        exact = values[match.feature]
        np.testing.assert_allclose(match.value, exact[0], atol=1e-5 * scale)
        np.testing.assert_allclose(match.z, exact[1], atol=1e-4)
