"""Score every feature of a dictionary against a direction, in blocks of bounded memory.

What a feature writes and reads is seen from the residual stream: decoder vectors after the norm
that follows the MLP, encoder vectors before the norm that precedes it. Both norms are taken at
scale 1, since their scales depend on the prompt; gains and centring are folded in. Matrices that
are left in their files are read block by block. All of it is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from tracer.errors import SearchError
from tracer.model.block import Norm
from tracer.model.model import Model
from tracer.search.match import FeatureMatch
from tracer.transcoders.config import ReadPoint, WritePoint
from tracer.transcoders.lazy_rows import StoredRows
from tracer.types import FeatureId, Progress

BLOCK_BYTES: Final = 2**26
"""Memory of the encoder or decoder vectors that are scored at a time."""

Values = NDArray[np.float64]
Score = Callable[[int, Tensor], Tensor]
"""``score(layer, vectors)`` returns one number per row of ``vectors (rows, …)``."""
Sign = Literal["positive", "negative", "both"]


def written_at(
    model: Model, layer: int, vectors: Float[Tensor, "rows d_model"]
) -> Float[Tensor, "rows d_model"]:
    """Return what decoder vectors towards ``layer`` add to the residual stream, at scale 1."""
    norm = _post_norm(model, layer)
    return vectors if norm is None else norm.push_forward(vectors, _unit(vectors))


def write_query(
    model: Model, direction: Float[Tensor, " d_model"]
) -> Float[Tensor, "layers d_model"]:
    """Return, per output layer, what a decoder vector is multiplied with to give the component
    along ``direction`` of what it adds to the residual stream there."""
    rows = []
    for layer in range(model.n_layers):
        norm = _post_norm(model, layer)
        rows.append(direction if norm is None else norm.pull_back(direction, _unit(direction)))
    return torch.stack(rows)


def _post_norm(model: Model, layer: int) -> Norm | None:
    """Return the norm between what a transcoder writes at ``layer`` and the residual stream."""
    after_norm = model.transcoders.write_point is WritePoint.RESIDUAL_UPDATE
    return None if after_norm else model.blocks[layer].mlp_post_norm


def read_at(
    model: Model, layer: int, vectors: Float[Tensor, "rows d_model"], *, normalise: bool = False
) -> Float[Tensor, "rows d_model"]:
    """Return what the encoder of ``layer`` sees of vectors in the residual stream.

    The norm's scale is 1, or with ``normalise`` that of the vector itself.
    """
    norm = _read_norm(model, layer)
    if norm is None:
        return vectors
    centred = vectors - vectors.mean(-1, keepdim=True) if norm.centred else vectors
    if normalise:
        scale = centred.square().mean(-1, keepdim=True).sqrt()
        centred = centred / torch.where(scale > 0, scale, torch.ones_like(scale))
    before_gain = model.transcoders.read_point is ReadPoint.NORMALIZED
    return centred if before_gain else centred * norm.gain


def read_directions(
    model: Model, layer: int, encoders: Float[Tensor, "rows d_model"]
) -> Float[Tensor, "rows d_model"]:
    """Return the directions of the residual stream that encoder vectors of ``layer`` read."""
    norm = _read_norm(model, layer)
    if norm is None:
        return encoders
    if model.transcoders.read_point is ReadPoint.NORMALIZED:
        return norm.pull_back_normalized(encoders, _unit(encoders))
    return norm.pull_back(encoders, _unit(encoders))


def _read_norm(model: Model, layer: int) -> Norm | None:
    """Return the norm between the residual stream and what the transcoder of ``layer`` reads."""
    before_norm = model.transcoders.read_point is ReadPoint.RESIDUAL
    return None if before_norm else model.blocks[layer].mlp_norm


def _unit(vectors: Tensor) -> Tensor:
    return vectors.new_ones(1)


def decoder_of(model: Model, feature: FeatureId) -> Float[Tensor, "outputs d_model"]:
    """Return what a feature adds to the residual stream at each of its output layers."""
    transcoder = model.transcoders[feature.layer]
    index = torch.tensor([feature.index], device=model.device)
    vectors = transcoder.decoder_vectors(index)[0].float()
    rows = zip(transcoder.output_layers, vectors, strict=True)
    return torch.stack([written_at(model, layer, row[None])[0] for layer, row in rows])


def encoder_of(model: Model, feature: FeatureId) -> Float[Tensor, " d_model"]:
    """Return the direction of the residual stream that a feature reads."""
    index = torch.tensor([feature.index], device=model.device)
    encoder = model.transcoders[feature.layer].encoder_vectors(index).float()
    return read_directions(model, feature.layer, encoder)[0]


@dataclass
class Scan:
    """A pass over the encoders or decoders of some layers."""

    model: Model
    side: Literal["encoder", "decoder"]
    layers: range
    progress: Progress | None = None

    def values(self, score: Score) -> Iterator[tuple[int, Values]]:
        """Yield every layer with the scores of its features.

        ``score`` sees encoder blocks ``(rows, d_model)`` or decoder blocks ``(rows, outputs,
        d_model)``, in float32. ``progress`` counts features.
        """
        counts = [self.model.transcoders[layer].n_features for layer in self.layers]
        done = 0
        for layer, count in zip(self.layers, counts, strict=True):
            parts = []
            for block in self._blocks(layer, done, sum(counts)):
                parts.append(score(layer, block).cpu().double().numpy())
            done += count
            yield layer, np.concatenate(parts)
        if self.progress is not None:
            self.progress(done, done, f"{self.side}s")

    def _blocks(self, layer: int, done: int, total: int) -> Iterator[Tensor]:
        transcoder = self.model.transcoders[layer]
        matrix = transcoder.W_enc if self.side == "encoder" else transcoder.W_dec
        outputs = 1 if self.side == "encoder" else len(transcoder.output_layers)
        d_model, count = matrix.shape[-1], transcoder.n_features
        step = max(1, BLOCK_BYTES // (4 * outputs * d_model))
        for start in range(0, count, step):
            if self.progress is not None:
                self.progress(done + start, total, f"{self.side}s of layer {layer}")
            rows = _rows(matrix, start, min(start + step, count)).float()
            yield rows if self.side == "encoder" else rows.reshape(len(rows), outputs, d_model)


def _rows(matrix: Tensor | StoredRows, start: int, stop: int) -> Tensor:
    if isinstance(matrix, StoredRows):
        return matrix[torch.arange(start, stop)]
    return matrix[start:stop]


def strongest(
    layers: Iterable[tuple[int, Values]],
    limit: int,
    sign: Sign,
    *,
    by: Literal["z", "value"],
    without: FeatureId | None = None,
) -> tuple[FeatureMatch, ...]:
    """Return the features with the strongest values, the strongest first.

    ``by`` says what is compared across layers. ``sign`` keeps those above zero, those below zero,
    or the ``limit`` strongest of each. ``without`` is a feature that is not a partner: it is left
    out of the results and of the mean and standard deviation of its layer.
    """
    signs = {"positive": (1,), "negative": (-1,), "both": (1, -1)}[sign]
    best: dict[int, list[tuple[float, FeatureId, float, float | None]]] = {s: [] for s in signs}
    for layer, values in layers:
        partners = np.ones(len(values), dtype=bool)
        if without is not None and without.layer == layer:
            partners[without.index] = False
        z = z_scores(values, partners)
        keys = values if by == "value" else np.zeros_like(values) if z is None else z
        for s in signs:
            eligible = partners & (s * (values if by == "value" or z is None else z) > 0)
            chosen = np.flatnonzero(eligible)
            order = (-s * keys[chosen]).argsort(kind="stable")[:limit]
            best[s] += [
                (
                    -abs(float(keys[i])),
                    FeatureId(layer, i),
                    float(values[i]),
                    None if z is None else float(z[i]),
                )
                for i in chosen[order].tolist()
            ]
            best[s] = sorted(best[s], key=lambda row: row[:2])[:limit]
    rows = sorted((row for kept in best.values() for row in kept), key=lambda row: row[:2])
    return tuple(FeatureMatch(feature, value, z) for _, feature, value, z in rows)


def z_scores(values: Values, partners: NDArray[np.bool_]) -> Values | None:
    """Return ``(values - mean) / sd`` over the partners; None when their values do not differ."""
    among = values[partners]
    spread = float(among.std()) if len(among) else 0.0
    if not spread > 1e-6 * float(np.abs(among).max(initial=0.0)):
        return None
    mean = float(among.mean())
    return (values - mean) / spread


def cosines(
    vectors: Float[Tensor, "rows d_model"], direction: Float[Tensor, " d_model"]
) -> Float[Tensor, " rows"]:
    """Return the cosine of every row with ``direction``; 0 for a row of zeros."""
    lengths = vectors.norm(dim=-1) * direction.norm()
    return vectors @ direction / torch.where(lengths > 0, lengths, torch.ones_like(lengths))


def check_feature(model: Model, feature: FeatureId) -> FeatureId:
    """Return ``feature``; raises :class:`SearchError` when the dictionary does not have it."""
    layer, index = feature
    if not 0 <= layer < model.n_layers:
        raise SearchError(
            f"feature L{layer}/{index} does not exist: {model.source.name} has layers 0 to "
            f"{model.n_layers - 1}"
        )
    count = model.transcoders[layer].n_features
    if not 0 <= index < count:
        raise SearchError(
            f"feature L{layer}/{index} does not exist: layer {layer} has features 0 to {count - 1}"
        )
    return FeatureId(layer, index)
