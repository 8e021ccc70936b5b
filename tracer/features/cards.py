"""Feature cards, read from the ``features/`` folder of a transcoder set. No torch here.

A card shows what a feature fires on. :mod:`tracer.features.records` knows the layout of the files.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tracer.errors import FeatureIndexError
from tracer.features import records
from tracer.features.records import UNREADABLE, LayerFile, Record, reason, unpacked
from tracer.types import FeatureId


@dataclass(frozen=True)
class Label:
    """A short description of a feature, and the share of its activation that fits it."""

    text: str
    precision: float | None
    recall: float | None = None
    """Share of the tokens it names on which the feature fires; None if it was not measured."""


@dataclass(frozen=True)
class Example:
    """A text that the feature fires on: tokens, and its activation on each."""

    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    source: str = ""
    """Title and author of the text; empty if the index does not say."""


@dataclass(frozen=True)
class ExampleGroup:
    """Examples of similar strength, e.g. ``Top activations``."""

    name: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class FeatureCard:
    """Everything that is known about one feature."""

    feature: FeatureId
    label: Label | None
    groups: tuple[ExampleGroup, ...]
    promoted: tuple[str, ...]
    """Tokens whose logits the feature's direct effect raises most."""
    suppressed: tuple[str, ...]
    act_max: float
    frequency: float | None
    """Share of tokens on which the feature is active, 0..1."""
    histogram: tuple[int, ...]
    """Number of tokens by activation, in equal bins from 0 to ``histogram_top``."""
    histogram_top: float
    quantile_values: tuple[float, ...]

    def top_tokens(self, limit: int = 3) -> tuple[str, ...]:
        """Return the tokens at which the strongest examples peak, most frequent first.

        An index keeps weaker examples for variety; those below half the maximum are not counted.
        """
        counts: dict[str, int] = {}
        examples = self.groups[0].examples if self.groups else ()
        strongest = max((max(example.activations) for example in examples), default=0.0)
        for example in examples:
            peak = max(range(len(example.tokens)), key=lambda i: example.activations[i])
            if example.activations[peak] >= strongest / 2:
                token = example.tokens[peak].strip() or example.tokens[peak]
                counts[token] = counts.get(token, 0) + 1
        ranked = sorted(counts, key=lambda token: -counts[token])
        return tuple(ranked[:limit])


class FeatureReader(ABC):
    """A source of feature cards: an index on this disk, or sources on the network."""

    @property
    @abstractmethod
    def labels(self) -> Mapping[FeatureId, Label]:
        """The labels that are on this disk."""

    @property
    @abstractmethod
    def n_layers(self) -> int:
        """Number of layers of the set; 0 if unknown."""

    @abstractmethod
    def card(self, feature: FeatureId) -> FeatureCard | None:
        """Return the card of ``feature``, or None; raises :class:`FeatureIndexError`."""

    def search(self, words: str, limit: int = 30) -> tuple[FeatureId, ...]:
        """Return the features whose label contains every one of ``words``, best labels first.

        ``L1/887`` or ``1/887`` is the feature with that number, whether it has a label or not.
        """
        labels, terms = self.labels, words.casefold().split()
        layer, slash, index = words.strip().casefold().removeprefix("l").partition("/")
        if slash and all(part.isdecimal() and len(part) < 19 for part in (layer, index)):
            feature = FeatureId(int(layer), int(index))
            return (feature,) if self.card(feature) is not None else ()
        matches = [
            feature
            for feature, label in labels.items()
            if terms and all(term in label.text.casefold() for term in terms)
        ]
        matches.sort(key=lambda f: (len(labels[f].text), -(labels[f].precision or 0), f))
        return tuple(matches[:limit])

    def name(self, feature: FeatureId) -> str:
        """Return the feature's label, or else the tokens it fires on most; empty if unknown.

        In the last two fifths of the layers many features fire on the same few words, so a name
        without a label includes the tokens they promote: ``is → Austin, TX``. A feature without
        examples is named by the tokens it promotes in every layer: ``→ Austin, TX``.
        Raises :class:`FeatureIndexError` when the index is damaged.
        """
        label = self.labels.get(feature)
        return label.text if label is not None else self._name_by_card(self.card(feature))

    def cached_card(self, feature: FeatureId) -> FeatureCard | None:
        """Return the card of ``feature`` if it is on this disk; never use the network."""
        return self.card(feature)

    def cached_name(self, feature: FeatureId) -> str:
        """Return the feature's name as :meth:`name` does, from this disk only."""
        return self.name(feature)

    def _name_by_card(self, card: FeatureCard | None) -> str:
        if card is None:
            return ""
        if card.label is not None:
            return card.label.text
        top = card.top_tokens()
        late = 0 < 3 * self.n_layers <= 5 * card.feature.layer
        if card.promoted and (late or not top):
            promoted = (token.strip() or token for token in card.promoted[:2])
            return (" · ".join(top[:1]) + " → " + ", ".join(promoted)).strip()
        return " · ".join(top)


class FeatureIndex(FeatureReader):
    """The feature cards of one transcoder set, read from disk one at a time.

    >>> from tracer.catalog.resolve import resolve
    >>> index = FeatureIndex.open(resolve("atlas").transcoder_folder)
    >>> index.n_layers, len(index.labels) > 1000
    (5, True)
    """

    def __init__(
        self, folder: Path, layers: Sequence[LayerFile], labels: Mapping[FeatureId, Label]
    ) -> None:
        self._folder = folder
        self._layers = layers
        self._labels: Mapping[FeatureId, Label] = MappingProxyType(dict(labels))

    @property
    def labels(self) -> Mapping[FeatureId, Label]:
        return self._labels

    @property
    def n_layers(self) -> int:
        return len(self._layers)

    @property
    def folder(self) -> Path:
        """The folder with the index's files; missing when there is no index."""
        return self._folder

    @classmethod
    def open(cls, transcoder_folder: Path | str) -> FeatureIndex:
        """Open ``<transcoder_folder>/features``; without that folder, return an empty index.

        The index folder itself may be given too, whatever its name. Raises
        :class:`FeatureIndexError` when the index cannot be read.

        >>> from tracer.catalog.resolve import resolve
        >>> index = FeatureIndex.open(resolve("atlas").transcoder_folder)
        >>> card = index.card(FeatureId(1, 887))
        >>> card.label.text, card.top_tokens(2)
        ('about Texas', ('Dallas', 'Fort Worth'))
        """
        folder = Path(transcoder_folder)
        if (folder / "features").is_dir() or not (folder / "index.json.gz").is_file():
            folder = folder / "features"
        layers = records.read_index(folder / "index.json.gz")
        labels = {
            FeatureId(layer, index): Label(entry.label, entry.precision, entry.recall)
            for layer, entries in records.read_labels(folder / "labels.json.gz").items()
            for index, entry in entries.items()
        }
        return cls(folder, layers, labels)

    def __len__(self) -> int:
        return sum(len(layer.offsets) - 1 for layer in self._layers)

    def features(self) -> Iterator[FeatureId]:
        """Yield every feature that the index has a place for, layer by layer.

        :meth:`card` returns None for those whose place is empty.
        """
        for layer, entry in enumerate(self._layers):
            for index in range(len(entry.offsets) - 1):
                yield FeatureId(layer, index)

    def card(self, feature: FeatureId) -> FeatureCard | None:
        """Return the card of ``feature``, or None if the index does not contain it.

        Raises :class:`FeatureIndexError` when its record is damaged.
        """
        span = self.span(feature)
        if span is None:
            return None
        name, start, stop = span
        try:
            with (self._folder / name).open("rb") as file:
                file.seek(start)
                record = file.read(stop - start)
        except OSError as error:
            raise self._damaged(feature, error) from error
        return self.card_of_record(feature, record)

    def span(self, feature: FeatureId) -> tuple[str, int, int] | None:
        """Return the file of the feature's record and its first and last byte, or None.

        Raises :class:`FeatureIndexError` for offsets that no record can have.
        """
        if not 0 <= feature.layer < len(self._layers) or feature.index < 0:
            return None
        layer = self._layers[feature.layer]
        if feature.index + 1 >= len(layer.offsets):
            return None
        start, stop = layer.offsets[feature.index : feature.index + 2]
        if not 0 <= start <= stop <= start + records.MAX_RECORD_BYTES or stop >= 2**63:
            raise self._damaged(feature, f"bytes {start} to {stop} cannot be a record")
        return None if start == stop else (layer.filename, start, stop)

    def card_of_record(self, feature: FeatureId, record: bytes) -> FeatureCard:
        """Return the card in a record; raises :class:`FeatureIndexError` if it is damaged."""
        try:
            (length,) = struct.unpack_from("<I", record)
            contents = Record.model_validate_json(unpacked(record[4 : 4 + length]))
        except UNREADABLE as error:
            raise self._damaged(feature, reason(error)) from error
        return card_of(feature, contents, self._labels.get(feature))

    def _damaged(self, feature: FeatureId, why: object) -> FeatureIndexError:
        return FeatureIndexError(
            f"the examples of feature {feature} in {self._folder} cannot be read ({why}): build "
            "the index again"
        )


def card_of(feature: FeatureId, record: Record, label: Label | None) -> FeatureCard:
    """Return a record as the card of ``feature``."""
    histogram, act_max = tuple(map(int, record.histogram or ())), record.act_max or 0.0
    return FeatureCard(
        feature=feature,
        label=label,
        groups=tuple(
            ExampleGroup(
                group.quantile_name,
                tuple(
                    Example(tuple(example.tokens), tuple(example.tokens_acts_list), example.source)
                    for example in group.examples
                    if example.tokens
                ),
            )
            for group in record.examples_quantiles
        ),
        promoted=tuple(record.top_logits or ()),
        suppressed=tuple(record.bottom_logits or ()),
        act_max=act_max,
        frequency=record.activation_frequency,
        histogram=histogram,
        histogram_top=len(histogram) * record.histogram_step if record.histogram_step else act_max,
        quantile_values=tuple(record.quantile_values or ()),
    )
