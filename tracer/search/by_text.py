"""Find features by a text of one's own: run it once and see which features fire, and where."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tracer.attribution.memory import check_forward
from tracer.errors import ModelError, SearchError
from tracer.features.cards import Example, FeatureReader
from tracer.model.model import Model
from tracer.search.dictionary import check_feature
from tracer.search.match import FeatureMatch, TextDetail, check_limit
from tracer.transcoders.transcoder import Transcoder
from tracer.types import FeatureId, Progress

_VALUES_AT_ONCE: Final = 2**26
"""Activations (positions times features of a layer) that are computed at a time."""


def features_on_text(
    model: Model,
    text: str | Sequence[int],
    limit: int = 50,
    max_density: float | None = None,
    densities: Mapping[FeatureId, float] | None = None,
    *,
    position: int | None = None,
    reader: FeatureReader | None = None,
    by: Literal["activation", "share"] = "activation",
    progress: Progress | None = None,
) -> tuple[FeatureMatch, ...]:
    """Find the features that fire most on ``text``, the strongest first.

    ``value`` is a feature's peak activation over the positions of the text, or its activation at
    ``position`` (negative positions count from the end). With ``by="share"`` it is that divided by
    the feature's largest activation on the corpus of its index, which ``reader`` knows; features
    without a card are then left out. ``detail`` is a :class:`TextDetail` with the activations at
    all positions ``(n_pos,)``. The first positions, which carry no features
    (:attr:`Model.first_position`), count as 0.

    ``max_density`` leaves out features that fire on a larger share of tokens (0..1), according to
    ``densities`` or else to the cards of ``reader``; features of unknown density stay.

    One layer is computed at a time. ``progress`` counts layers and may raise to stop the search.

    Raises :class:`tracer.errors.PromptError` when the text is empty or longer than the model's
    context, :class:`SearchError` for an option that cannot be used,
    :class:`tracer.errors.MemoryLimitError` when the text needs more memory than is free, and
    :class:`tracer.errors.FeatureIndexError` when a card of ``reader`` is damaged.

    >>> import tracer
    >>> model = tracer.load("atlas", device="cpu")
    >>> text = "The capital of the state containing Dallas is"
    >>> best = tracer.features_on_text(model, text, limit=1, position=-2)[0]
    >>> print(best.feature, round(best.value, 2), repr(best.detail.token))
    L2/529 3.59 ' Dallas'
    """
    check_limit(limit)
    filters = _Filters(max_density, densities, reader)
    if by not in ("activation", "share"):
        raise SearchError(f"by is {by!r}: expected 'activation' or 'share'")
    if by == "share" and reader is None:
        raise SearchError("by is 'share', which needs the largest activations: pass a reader")
    ids = model.encode(text)
    place = None if position is None else _checked_position(model, len(ids), position)
    top = _Top(limit)
    for transcoder, x in _inputs(model, ids, range(model.n_layers)):
        if progress is not None:
            progress(transcoder.layer, model.n_layers, "running the features on the text")
        chunks = _Chunks(transcoder, x, model.first_position)
        peaks, places = chunks.peaks() if place is None else chunks.at(place)
        fired = peaks.nonzero()[:, 0]
        fired = fired[peaks[fired] > 0]
        features = [FeatureId(transcoder.layer, index) for index in fired.tolist()]
        values = peaks[fired].tolist()
        positions = dict(zip(features, places[fired].tolist(), strict=True))
        if by == "share":
            values = [
                0.0 if not (largest := filters.largest(feature)) else value / largest
                for value, feature in zip(values, features, strict=True)
            ]
        added = top.add(zip(values, features, strict=True), filters)
        columns = chunks.columns([feature.index for feature in added])
        for feature, column in zip(added, columns, strict=True):
            top.columns[feature] = positions[feature], column
    if progress is not None:
        progress(model.n_layers, model.n_layers, "running the features on the text")
    tokens = model.token_strings(ids)
    return tuple(
        FeatureMatch(feature, value, detail=top.detail(tokens, feature, filters))
        for value, feature in top.ranked()
    )


def feature_activations(model: Model, feature: FeatureId, text: str | Sequence[int]) -> Example:
    """Return the tokens of ``text`` and the activation of ``feature`` on each ``(n_pos,)``.

    The beginning-of-text token comes first. The first positions, which carry no features
    (:attr:`Model.first_position`), count as 0.

    Raises :class:`SearchError` when the feature does not exist, :class:`tracer.errors.PromptError`
    when the text is empty or longer than the model's context.

    >>> import tracer
    >>> model = tracer.load("atlas", device="cpu")
    >>> texas = tracer.FeatureId(1, 887)
    >>> text = "The capital of the state containing Dallas is"
    >>> example = tracer.feature_activations(model, texas, text)
    >>> [token for token, value in zip(example.tokens, example.activations) if value > 1]
    [' Dallas']
    """
    feature = check_feature(model, feature)
    ids = model.encode(text)
    ((transcoder, x),) = _inputs(model, ids, range(feature.layer, feature.layer + 1))
    activations = _Chunks(transcoder, x, model.first_position).one(feature.index)
    return Example(model.token_strings(ids), tuple(activations.tolist()))


def _checked_position(model: Model, n_pos: int, position: int) -> int:
    first = model.first_position
    place = position + n_pos if position < 0 else position
    if not first <= place < n_pos:
        raise SearchError(
            f"position {position} cannot be searched: on this text features fire at positions "
            f"{first} to {n_pos - 1}"
            if n_pos > first
            else f"position {position} cannot be searched: the text has {n_pos} tokens, and the "
            f"first {first} carry no features"
        )
    return place


def _inputs(
    model: Model, ids: Sequence[int], layers: range
) -> Iterator[tuple[Transcoder, Float[Tensor, "pos d_model"]]]:
    """Run the text once; yield the transcoders of ``layers`` with what they read."""
    check_forward(model, len(ids), None)
    hooks = {layer: model.read_hook(layer) for layer in layers}
    logits, seen = model.bridge.capture(torch.tensor(ids, device=model.device), hooks.values())
    if not torch.isfinite(logits).all():
        raise ModelError(
            f"{model.source.name} produces NaN or infinite logits on this text: its weights are "
            "damaged or the data type is too narrow; try dtype float32"
        )
    del logits
    for layer, hook in hooks.items():
        yield model.transcoders[layer], seen.pop(hook).float()


class _Chunks:
    """The activations of one layer, computed for a few positions at a time."""

    def __init__(
        self, transcoder: Transcoder, x: Float[Tensor, "pos d_model"], first_position: int
    ) -> None:
        self._transcoder, self._x, self._first = transcoder, x, first_position
        self._step = max(1, _VALUES_AT_ONCE // transcoder.n_features)
        self._kept: Tensor | None = None

    def _all(self) -> Iterator[tuple[int, Float[Tensor, "chunk features"]]]:
        """Yield every chunk with its first position; a text of one chunk is computed only once."""
        for start in range(0, len(self._x), self._step):
            if self._kept is not None:
                yield start, self._kept
                continue
            active = self._transcoder.activations(self._x[start : start + self._step])
            active[: max(0, self._first - start)] = 0
            if len(self._x) <= self._step:
                self._kept = active
            yield start, active

    def peaks(self) -> tuple[Float[Tensor, " features"], Tensor]:
        """Return the largest activation of every feature, and its position."""
        best = self._x.new_zeros(self._transcoder.n_features)
        places = torch.zeros_like(best, dtype=torch.long)
        for start, active in self._all():
            values, rows = active.max(dim=0)
            better = values > best
            best[better], places[better] = values[better], rows[better] + start
        return best, places

    def at(self, position: int) -> tuple[Float[Tensor, " features"], Tensor]:
        """Return the activation of every feature at one position, and that position."""
        for start, active in self._all():
            if start <= position < start + len(active):
                values = active[position - start]
        return values, torch.full_like(values, position, dtype=torch.long)

    def columns(self, features: Sequence[int]) -> list[tuple[float, ...]]:
        """Return the activations of some features at all positions."""
        if not features:
            return []
        chosen = torch.tensor(features, device=self._x.device)
        columns = torch.cat([active[:, chosen] for _, active in self._all()])
        return [tuple(column) for column in columns.T.tolist()]

    def one(self, feature: int) -> Float[Tensor, " pos"]:
        """Return the activations of one feature, without computing the others where possible."""
        parts = []
        for start in range(0, len(self._x), self._step):
            x = self._x[start : start + self._step]
            index = torch.full((len(x),), feature, device=x.device)
            parts.append(self._transcoder.chosen_activations(x, index))
        values = torch.cat(parts)
        values[: self._first] = 0
        return values


@dataclass(frozen=True)
class _Filters:
    """Density and largest activation of features, as an index or the caller knows them."""

    max_density: float | None
    densities: Mapping[FeatureId, float] | None
    reader: FeatureReader | None

    def __post_init__(self) -> None:
        if self.max_density is None:
            return
        if not 0 <= self.max_density <= 1:
            raise SearchError(
                f"max_density is {self.max_density}: expected a share of the tokens, 0 to 1"
            )
        if self.densities is None and self.reader is None:
            raise SearchError(
                "max_density needs to know how often features fire: pass densities or a reader"
            )

    def too_dense(self, feature: FeatureId) -> bool:
        if self.max_density is None:
            return False
        if self.densities is not None:
            density = self.densities.get(feature)
        else:
            card = None if self.reader is None else self.reader.cached_card(feature)
            density = None if card is None else card.frequency
        return density is not None and density > self.max_density

    def largest(self, feature: FeatureId) -> float | None:
        """Return the feature's largest activation on its index's corpus; None if unknown."""
        card = None if self.reader is None else self.reader.cached_card(feature)
        return card.act_max or None if card is not None else None


class _Top:
    """The best features so far, and their activations on the text."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._heap: list[tuple[float, int, int]] = []
        """Value, -layer, -index; the worst first."""
        self.columns: dict[FeatureId, tuple[int, tuple[float, ...]]] = {}
        """Position and activations of every feature in the heap."""

    def add(self, scored: Iterator[tuple[float, FeatureId]], filters: _Filters) -> list[FeatureId]:
        """Add the features of a layer; return those that are now among the best."""
        for value, feature in sorted(scored, key=lambda row: (-row[0], row[1])):
            row = (value, -feature.layer, -feature.index)
            full = len(self._heap) == self._limit
            if value <= 0 or (full and row <= self._heap[0]):
                break
            if not filters.too_dense(feature):
                (heapq.heapreplace if full else heapq.heappush)(self._heap, row)
        best = {feature for _, feature in self.ranked()}
        self.columns = {f: column for f, column in self.columns.items() if f in best}
        return sorted(best - self.columns.keys())

    def ranked(self) -> list[tuple[float, FeatureId]]:
        """Return the best features, the best first."""
        return [
            (value, FeatureId(-layer, -index))
            for value, layer, index in sorted(self._heap, reverse=True)
        ]

    def detail(self, tokens: tuple[str, ...], feature: FeatureId, filters: _Filters) -> TextDetail:
        """Return the position and activations of one of the best features."""
        position, activations = self.columns[feature]
        largest = filters.largest(feature)
        share = None if largest is None else activations[position] / largest
        return TextDetail(Example(tokens, activations), position, share)
