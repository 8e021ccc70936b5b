"""Find features by their weights alone: what they promote, what they read, and their neighbours.

No prompt is involved, so these are possible connections, not measured ones: most are interference
and never matter on any text ("Circuit Tracing", Ameisen et al. 2025, section on global weights). A
``|z|`` above 4 marks the few that are far outside what chance gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from tracer.errors import SearchError
from tracer.model.model import Model
from tracer.search.dictionary import (
    Scan,
    Score,
    check_feature,
    cosines,
    decoder_of,
    encoder_of,
    read_at,
    read_directions,
    strongest,
    write_query,
    written_at,
)
from tracer.search.match import KINDS, FeatureMatch, NeighbourKind, check_limit
from tracer.types import FeatureId, Progress

Side = Literal["decoder", "encoder"]


def features_promoting(
    model: Model,
    token: str | int,
    limit: int = 50,
    suppress: bool = False,
    progress: Progress | None = None,
) -> tuple[FeatureMatch, ...]:
    """Find features that raise the logit of ``token`` when they write straight to the output.

    ``value`` is the logit minus the mean logit, per unit of activation: the feature's decoder
    vectors, summed over its output layers, times the token's unembedding column minus the mean
    column. The gains of the final norm and of a norm after the MLP are folded in; their scales,
    which depend on the prompt, are taken as 1. Results are ordered by ``z``, the value compared
    with all features of the same layer. With ``suppress`` they are the features that lower the
    logit most.

    ``progress`` counts features and may raise to stop the search.

    Raises :class:`tracer.errors.TargetError` when ``token`` is not one token of the model.

    >>> import tracer
    >>> model = tracer.load("atlas", device="cpu")
    >>> best = tracer.features_promoting(model, " Austin", limit=1)[0]
    >>> print(best.feature, round(best.z, 1))
    L0/67 4.8
    """
    check_limit(limit)
    number = model.token_id(token)
    column = model.unembedding[:, number].float() - model.mean_unembedding
    direction = model.final_norm.pull_back(column, column.new_ones(1))
    values = Scan(model, "decoder", range(model.n_layers), progress).values(
        _along(model, direction, model.n_layers)
    )
    return strongest(values, limit, "negative" if suppress else "positive", by="z")


def features_reading(
    model: Model, token: str | int, limit: int = 50, progress: Progress | None = None
) -> tuple[FeatureMatch, ...]:
    """Find features whose encoder reads the embedding of ``token``.

    ``value`` is the encoder vector times the embedding, normalised as the layer's norm would if
    nothing else were in the residual stream; biases are left out. This is exact only for
    layer 0 of a model whose attention and MLP read the same residual stream. Otherwise attention of
    layer 0, and in higher layers everything written below them, comes on top and may outweigh the
    embedding, as it does in atlas: read the results as a hint, and take :func:`search_examples` or
    :func:`features_on_text` for a measurement. Results are ordered by ``z``, the value compared
    with all features of the same layer.

    ``progress`` counts features and may raise to stop the search.

    Raises :class:`tracer.errors.TargetError` when ``token`` is not one token of the model.

    >>> import tracer
    >>> model = tracer.load("atlas", device="cpu")
    >>> best = tracer.features_reading(model, " Dallas", limit=1)[0]
    >>> print(best.feature, round(best.z, 1))
    L1/90 4.0
    """
    check_limit(limit)
    embedding = _embedding(model, model.token_id(token))

    def score(layer: int, encoders: Tensor) -> Tensor:
        return encoders @ read_at(model, layer, embedding, normalise=True)[0]

    values = Scan(model, "encoder", range(model.n_layers), progress).values(score)
    return strongest(values, limit, "positive", by="z")


def _embedding(model: Model, token: int) -> Float[Tensor, "1 d_model"]:
    """Return what a token adds to the residual stream, with the scaling of its model family."""
    ids = torch.tensor([token], device=model.device)
    _, seen = model.bridge.capture(ids, ["embed.hook_out"])
    return seen["embed.hook_out"].float()


def neighbours(
    model: Model,
    feature: FeatureId,
    kind: NeighbourKind,
    limit: int = 50,
    progress: Progress | None = None,
) -> tuple[FeatureMatch, ...]:
    """Find the features that are connected to ``feature``, or similar to it, by their weights.

    ``kind`` is one of

    - ``"upstream"``: features of lower layers that write what ``feature`` reads;
    - ``"downstream"``: features of higher layers that read what ``feature`` writes;
    - ``"same-decoder"``, ``"same-encoder"``: features of any layer that write, or read, in nearly
      the same direction of the residual stream;
    - ``"opposite"``: features that write in the opposite direction.

    For the first two, ``value`` is the virtual weight: the decoder vectors of the lower feature,
    summed over its output layers below the layer of the higher one, times the encoder vector of the
    higher one. This is the direct path through the residual stream, without attention and skip
    connections; gains of norms are folded in, scales taken as 1. Up to ``limit`` features of each
    sign are returned, ordered by ``|z|``: negative ones may inhibit. For the others ``value`` is a
    cosine, of decoders summed over output layers and after the norm that follows the MLP, or of
    encoders before the norm that precedes it; results are ordered by it. ``z`` compares the value
    with all other features of the same layer.

    ``progress`` counts features and may raise to stop the search.

    Raises :class:`SearchError` when the feature does not exist or ``kind`` is not one of these.

    >>> import tracer
    >>> model = tracer.load("atlas", device="cpu")
    >>> texas = tracer.FeatureId(1, 887)
    >>> best = tracer.neighbours(model, texas, "downstream", limit=1)[0]
    >>> print(best.feature, round(best.value, 1), round(best.z, 1))
    L2/529 5.2 7.1
    """
    check_limit(limit)
    feature = check_feature(model, feature)
    if kind == "upstream":
        direction = encoder_of(model, feature)
        values = Scan(model, "decoder", range(feature.layer), progress).values(
            _along(model, direction, feature.layer)
        )
        return strongest(values, limit, "both", by="z")
    if kind == "downstream":
        layers = range(feature.layer + 1, model.n_layers)
        values = Scan(model, "encoder", layers, progress).values(_reading(model, feature))
        return strongest(values, limit, "both", by="z")
    if kind == "same-encoder":
        direction = encoder_of(model, feature)
        return _similar(model, direction, "encoder", limit, progress, without=feature)
    if kind in ("same-decoder", "opposite"):
        direction = decoder_of(model, feature).sum(0)
        return _similar(
            model,
            direction,
            "decoder",
            limit,
            progress,
            without=feature,
            opposite=kind == "opposite",
        )
    raise SearchError(f"kind is {kind!r}: expected one of {', '.join(KINDS)}")


def _along(model: Model, direction: Float[Tensor, " d_model"], stop: int) -> Score:
    """Score decoders by what they add along ``direction`` at output layers below ``stop``."""
    query = write_query(model, direction)
    query[stop:] = 0

    def score(layer: int, decoders: Tensor) -> Tensor:
        outputs = model.transcoders[layer].output_layers
        return decoders.flatten(1) @ query[outputs.start : outputs.stop].flatten()

    return score


def _reading(model: Model, feature: FeatureId) -> Score:
    """Score encoders by how they read what ``feature`` has written below their layer."""
    outputs = model.transcoders[feature.layer].output_layers
    written = decoder_of(model, feature)

    def score(layer: int, encoders: Tensor) -> Tensor:
        below = written[: min(outputs.stop, layer) - outputs.start].sum(0, keepdim=True)
        return encoders @ read_at(model, layer, below)[0]

    return score


def similar_to_vector(
    model: Model,
    vector: Sequence[float],
    side: Side = "decoder",
    limit: int = 50,
    progress: Progress | None = None,
) -> tuple[FeatureMatch, ...]:
    """Find features that write (``side="decoder"``) or read (``"encoder"``) along ``vector``.

    ``vector`` is a direction of the residual stream, ``d_model`` numbers. ``value`` is the cosine,
    as for the kinds ``"same-decoder"`` and ``"same-encoder"`` of :func:`neighbours`.

    Raises :class:`SearchError` for a vector of another width, one of zeros or with numbers that are
    not finite, and for an unknown side.

    >>> import tracer
    >>> model = tracer.load("atlas", device="cpu")
    >>> column = model.unembedding[:, model.token_id(" Austin")].tolist()
    >>> best = similar_to_vector(model, column, limit=1)[0]
    >>> print(best.feature, round(best.value, 2))
    L0/67 0.41
    """
    check_limit(limit)
    direction = torch.tensor(vector, dtype=torch.float32, device=model.device)
    width = model.transcoders.d_model
    if direction.shape != (width,):
        raise SearchError(
            f"the vector has shape {tuple(direction.shape)}: expected {width} numbers, the width "
            f"of {model.source.name}"
        )
    if not torch.isfinite(direction).all() or not direction.any():
        raise SearchError("the vector has no direction: expected finite numbers, not all of them 0")
    if side not in get_args(Side):
        raise SearchError(f"side is {side!r}: expected one of {', '.join(get_args(Side))}")
    return _similar(model, direction, side, limit, progress)


def _similar(
    model: Model,
    direction: Float[Tensor, " d_model"],
    side: Side,
    limit: int,
    progress: Progress | None,
    *,
    without: FeatureId | None = None,
    opposite: bool = False,
) -> tuple[FeatureMatch, ...]:
    def of_encoders(layer: int, encoders: Tensor) -> Tensor:
        return cosines(read_directions(model, layer, encoders), direction)

    def of_decoders(layer: int, decoders: Tensor) -> Tensor:
        outputs = model.transcoders[layer].output_layers
        written = written_at(model, outputs.start, decoders[:, 0])
        for step in range(1, len(outputs)):
            written = written + written_at(model, outputs.start + step, decoders[:, step])
        return cosines(written, direction)

    score = of_encoders if side == "encoder" else of_decoders
    values = Scan(model, side, range(model.n_layers), progress).values(score)
    sign: Literal["positive", "negative"] = "negative" if opposite else "positive"
    return strongest(values, limit, sign, by="value", without=without)
