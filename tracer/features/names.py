"""What a feature is called, and who says so. No torch here.

A name is the reader's own label, or the label that came with the graph's file, or that of the
dictionary. Features without a label are named by the tokens they promote or fire on, and if nothing
is known of them by their number.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from tracer.features.cards import FeatureReader
from tracer.types import FeatureId

NameSource = Literal["yours", "file", "label", "tokens", "number"]

SOURCES: Final[Mapping[NameSource, str]] = {
    "yours": "your label",
    "file": "label from the graph's file",
    "label": "label of the dictionary",
    "tokens": "named by its tokens, as it has no label",
    "number": "named by its number, as nothing is known about it",
}
"""What to show for each source of a name."""

LONGEST_LABEL: Final = 200
"""Characters; more would not fit anywhere a name is shown."""


@dataclass(frozen=True)
class FeatureName:
    """The display name of a feature and where it comes from.

    >>> FeatureName("about Texas", "label").source
    'label'
    """

    text: str
    source: NameSource


def feature_name(
    feature: FeatureId,
    reader: FeatureReader | None = None,
    *,
    own: Mapping[FeatureId, str] | None = None,
    file: Mapping[FeatureId, str] | None = None,
) -> FeatureName:
    """Return the name of ``feature``: ``own`` label, label of the graph's ``file``, of the
    dictionary, its tokens, or its number.

    ``reader`` knows the dictionary, which is read from this disk only. Raises
    :class:`tracer.errors.FeatureIndexError` when that is damaged.

    >>> feature_name(FeatureId(12, 84338))
    FeatureName(text='L12/84338', source='number')
    >>> feature_name(FeatureId(12, 84338), own={FeatureId(12, 84338): "cities"})
    FeatureName(text='cities', source='yours')
    """
    for labels, source in ((own, "yours"), (file, "file")):
        if labels and labels.get(feature):
            return FeatureName(labels[feature], source)  # type: ignore[arg-type]
    text = reader.cached_name(feature) if reader is not None else ""
    if reader is None or not text:
        return FeatureName(str(feature), "number")
    label = reader.labels.get(feature)
    if label is None:
        card = reader.cached_card(feature)
        label = card.label if card is not None else None
    return FeatureName(text, "tokens" if label is None else "label")


def clean_label(text: str) -> str:
    """Return ``text`` as a label: on one line, without control characters, not too long.

    >>> clean_label("  about\\nTexas\\x00 ")
    'about Texas'
    """
    line = " ".join(text.split())
    kept = "".join(c for c in line if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn"))
    return kept[:LONGEST_LABEL].strip()
