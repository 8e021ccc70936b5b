"""What a feature fires on, read from a transcoder set's ``features/`` folder. No torch here.

The layout is the one published beside transcoder sets: ``index.json.gz`` lists per layer a file
and byte offsets; a feature is a little-endian uint32 length and that many bytes of zlib JSON.
``labels.json.gz`` is this project's addition: only features whose label was earned have one.
Records may come from anywhere: their sizes and shapes are checked, and their text is only text.
"""

from __future__ import annotations

import gzip
import json
import math
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from tracer.errors import FeatureIndexError
from tracer.types import FeatureId

MAX_RECORD_BYTES: Final = 2**24
"""What one feature's examples may take, packed or not. Published ones take some ten kilobytes."""


@dataclass(frozen=True)
class Label:
    """A short name for a feature, and the share of its activation that the name describes."""

    text: str
    precision: float | None


@dataclass(frozen=True)
class Example:
    """A text the feature fires on: tokens and its activation on each."""

    tokens: tuple[str, ...]
    activations: tuple[float, ...]


@dataclass(frozen=True)
class ExampleGroup:
    """Examples of similar strength, e.g. ``Top activations``."""

    name: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class FeatureCard:
    """Everything the index knows of one feature."""

    feature: FeatureId
    label: Label | None
    groups: tuple[ExampleGroup, ...]
    promoted: tuple[str, ...]
    """Tokens whose logits the feature raises most when it writes straight to the output."""
    suppressed: tuple[str, ...]
    act_max: float
    frequency: float | None
    """Share of tokens on which the feature fires, 0..1."""
    histogram: tuple[int, ...]
    """Tokens by activation, in equal bins from 0 to ``histogram_top``."""
    histogram_top: float
    quantile_values: tuple[float, ...]

    def top_tokens(self, limit: int = 3) -> tuple[str, ...]:
        """The tokens at which the strongest examples peak, most frequent first.

        Examples are varied on purpose; those not half as strong as the strongest do not count.
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
    """Anything that knows what features fire on: an index on this disk, or places further away."""

    @property
    @abstractmethod
    def labels(self) -> Mapping[FeatureId, Label]:
        """The labels that are at hand."""

    @property
    @abstractmethod
    def n_layers(self) -> int:
        """How many layers the set has; 0 when that is not known."""

    @abstractmethod
    def card(self, feature: FeatureId) -> FeatureCard | None:
        """What is known of ``feature``, or None; raises :class:`FeatureIndexError`."""

    def search(self, words: str, limit: int = 30) -> tuple[FeatureId, ...]:
        """Features whose label holds every one of ``words``, the best labels first.

        ``L1/887`` or ``1/887`` is the feature of that number, labelled or not.
        """
        labels, asked = self.labels, words.casefold().split()
        layer, slash, index = words.strip().casefold().removeprefix("l").partition("/")
        if slash and layer.isdecimal() and index.isdecimal():
            feature = FeatureId(int(layer), int(index))
            return (feature,) if self.card(feature) is not None else ()
        found = [
            feature
            for feature, label in labels.items()
            if asked and all(word in label.text.casefold() for word in asked)
        ]
        found.sort(key=lambda f: (len(labels[f].text), -(labels[f].precision or 0), f))
        return tuple(found[:limit])

    def name(self, feature: FeatureId) -> str:
        """What to call a feature: its label, else the tokens it fires on most; empty if unknown.

        Late features often fire on the same few words whatever they are about, so the unlabelled
        ones of the last two fifths of the layers also name what they promote: ``is → Austin, TX``.
        Raises :class:`FeatureIndexError` when the index is damaged.
        """
        label = self.labels.get(feature)
        return label.text if label is not None else self._name_by_card(self.card(feature))

    def cached_card(self, feature: FeatureId) -> FeatureCard | None:
        """What this disk knows of ``feature``; the network is never touched."""
        return self.card(feature)

    def cached_name(self, feature: FeatureId) -> str:
        """As :meth:`name`, from what is on this disk."""
        return self.name(feature)

    def _name_by_card(self, card: FeatureCard | None) -> str:
        if card is None:
            return ""
        if card.label is not None:
            return card.label.text
        late = 0 < 3 * self.n_layers <= 5 * card.feature.layer
        if late and card.promoted and card.groups:
            promoted = (token.strip() or token for token in card.promoted[:2])
            return " · ".join(card.top_tokens(1)) + " → " + ", ".join(promoted)
        return " · ".join(card.top_tokens())


class FeatureIndex(FeatureReader):
    """Feature cards of one transcoder set, read from disk one feature at a time."""

    def __init__(
        self, folder: Path, layers: Sequence[Mapping[str, Any]], labels: Mapping[FeatureId, Label]
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
        """Open ``<transcoder_folder>/features``; an index without features if there is none.

        The ``features`` folder itself will do too, wherever it stands and whatever its name.
        Raises :class:`FeatureIndexError` when the folder is there but cannot be read.
        """
        folder = Path(transcoder_folder)
        if (folder / "features").is_dir() or not (folder / "index.json.gz").is_file():
            folder = folder / "features"
        layers = _read_json_gz(folder / "index.json.gz", [])
        raw_labels = _read_json_gz(folder / "labels.json.gz", {})
        try:
            labels = {
                FeatureId(int(layer), int(index)): _label(entry)
                for layer, entries in raw_labels.items()
                for index, entry in entries.items()
            }
            files = [(entry["filename"], entry["offsets"]) for entry in layers]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FeatureIndexError(
                f"the feature index in {folder} is not in the published layout ({error!r}): "
                "build it again, or delete the folder to go on without examples"
            ) from error
        if any(Path(name).name != name for name, _ in files):
            raise FeatureIndexError(
                f"the feature index in {folder} names a file outside its folder: rebuild it"
            )
        return cls(folder, layers, labels)

    def __len__(self) -> int:
        return sum(len(layer["offsets"]) - 1 for layer in self._layers)

    def features(self) -> Iterator[FeatureId]:
        """Yield every feature that the index has a place for, layer by layer.

        :meth:`card` returns None for those whose place is empty.
        """
        for layer, entry in enumerate(self._layers):
            for index in range(len(entry["offsets"]) - 1):
                yield FeatureId(layer, index)

    def card(self, feature: FeatureId) -> FeatureCard | None:
        """The card of ``feature``, or None when the index does not hold it.

        Raises :class:`FeatureIndexError` when its bytes are damaged.
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
        """The file of the feature's record, and the bytes it takes there; None if there is none.

        Raises :class:`FeatureIndexError` for bytes that no record takes.
        """
        if not 0 <= feature.layer < len(self._layers) or feature.index < 0:
            return None
        layer = self._layers[feature.layer]
        offsets = layer["offsets"]
        if feature.index + 1 >= len(offsets):
            return None
        start, stop = offsets[feature.index], offsets[feature.index + 1]
        whole = isinstance(start, int) and isinstance(stop, int)
        if not whole or not 0 <= start <= stop <= start + MAX_RECORD_BYTES:
            raise self._damaged(feature, f"bytes {start} to {stop} are no record")
        return None if start == stop else (layer["filename"], start, stop)

    def card_of_record(self, feature: FeatureId, record: bytes) -> FeatureCard:
        """The card in a feature's record; raises :class:`FeatureIndexError` if it is damaged."""
        try:
            (length,) = struct.unpack_from("<I", record)
            raw = json.loads(unpacked(record[4 : 4 + length]))
            return card_of(feature, raw, self._labels.get(feature))
        except UNREADABLE as error:
            raise self._damaged(feature, error) from error

    def _damaged(self, feature: FeatureId, error: object) -> FeatureIndexError:
        return FeatureIndexError(
            f"the examples of feature {feature} in {self._folder} cannot be read ({error}): "
            "build the index again"
        )


UNREADABLE: Final = (
    struct.error,
    zlib.error,
    AttributeError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What reading a damaged record can raise."""


def unpacked(packed: bytes) -> bytes:
    """zlib or gzip contents, unless they swell beyond all measure (then ``ValueError``)."""
    inflater = zlib.decompressobj(wbits=47)
    contents = inflater.decompress(packed, MAX_RECORD_BYTES)
    if inflater.unconsumed_tail:
        raise ValueError(f"unpacked they take more than {MAX_RECORD_BYTES} bytes")
    if not inflater.eof:
        raise ValueError("they are cut short")
    return contents


def _read_json_gz(path: Path, absent: Any) -> Any:
    if not path.is_file():
        return absent
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return json.load(file)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise FeatureIndexError(
            f"{path} cannot be read ({error}): build the index again, or delete the folder to go "
            "on without examples"
        ) from error


def _label(entry: Mapping[str, Any]) -> Label:
    precision = entry.get("precision")
    return Label(str(entry["label"]), None if precision is None else float(precision))


def card_of(feature: FeatureId, raw: Mapping[str, Any], label: Label | None) -> FeatureCard:
    """The card in a record of the published layout; raises one of ``UNREADABLE`` otherwise."""
    groups = tuple(
        ExampleGroup(
            str(group["quantile_name"]),
            tuple(_example(entry) for entry in group["examples"] if entry["tokens"]),
        )
        for group in raw["examples_quantiles"]
    )
    frequency = raw.get("activation_frequency")
    act_max = _number(raw.get("act_max") or 0.0)
    histogram = tuple(map(_count, raw.get("histogram") or ()))
    step = _number(raw.get("histogram_step") or 0.0)
    return FeatureCard(
        feature=feature,
        label=label,
        groups=groups,
        promoted=tuple(map(str, raw.get("top_logits") or ())),
        suppressed=tuple(map(str, raw.get("bottom_logits") or ())),
        act_max=act_max,
        frequency=None if frequency is None else _number(frequency),
        histogram=histogram,
        histogram_top=len(histogram) * step if step else act_max,
        quantile_values=tuple(_number(value) for value in raw.get("quantile_values") or ()),
    )


def _example(raw: Mapping[str, Any]) -> Example:
    tokens = tuple(map(str, raw["tokens"]))
    activations = tuple(map(_number, raw["tokens_acts_list"]))
    if len(tokens) != len(activations):
        raise ValueError(f"an example has {len(tokens)} tokens and {len(activations)} activations")
    return Example(tokens, activations)


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is no activation")
    return number


def _count(value: Any) -> int:
    number = int(value)
    if not 0 <= number < 2**53:
        raise ValueError(f"{number:.6g} is no count")
    return number
