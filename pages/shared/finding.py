"""What a visitor looks for on the Features page, as a value and as query parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from tracer.search.match import parse_feature
from tracer.types import FeatureId

By = Literal["label", "example", "promoted", "suppressed", "text"]
"""What the dictionary is searched by."""

LONGEST_QUERY: Final = 2000


@dataclass(frozen=True)
class Finding:
    """Which features are shown, and how they were found."""

    feature: FeatureId | None = None
    """The feature whose own page is shown."""
    in_dictionary: bool = False
    """Whether the complete dictionary is searched, rather than the open trace."""
    by: By = "label"
    query: str = ""
    position: int | None = None
    """Only features active at this token of the trace."""
    layers: tuple[int, int] | None = None
    """Only features of these layers, the first and the last."""
    words: str = ""
    """Only features whose name contains these words."""
    least: float = 0.0
    """Only features of at least this share of influence, 0..1."""


def finding_to_query(finding: Finding) -> dict[str, str]:
    """Return what differs from a fresh search, as query parameters.

    >>> finding_to_query(Finding(FeatureId(1, 887), words="texas"))
    {'feature': 'L1/887', 'word': 'texas'}
    """
    query: dict[str, str] = {}
    if finding.feature is not None:
        query["feature"] = str(finding.feature)
    if finding.in_dictionary:
        query["in"] = "dictionary"
    if finding.by != "label":
        query["by"] = finding.by
    if finding.query:
        query["find"] = finding.query
    if finding.position is not None:
        query["at"] = str(finding.position)
    if finding.layers is not None:
        query["from_layers"] = "{}-{}".format(*finding.layers)
    if finding.words:
        query["word"] = finding.words
    if finding.least:
        query["least"] = f"{finding.least:g}"
    return query


def finding_from_query(query: Mapping[str, str]) -> Finding:
    """Invert :func:`finding_to_query`; invalid parameters keep their defaults.

    >>> finding_from_query({"feature": "1/887", "at": "x"}).feature
    FeatureId(layer=1, index=887)
    """
    name = query.get("feature", "")[:40]
    position, layers = query.get("at", ""), query.get("from_layers", "")
    span = re.fullmatch(r"([0-9]{1,4})-([0-9]{1,4})", layers)
    by = query.get("by", "label")
    return Finding(
        feature=parse_feature(name),
        in_dictionary=query.get("in") == "dictionary",
        by=by if by in get_args(By) else "label",  # type: ignore[arg-type]
        query=query.get("find", "")[:LONGEST_QUERY],
        position=int(position) if re.fullmatch(r"[0-9]{1,6}", position) else None,
        layers=(int(span[1]), int(span[2])) if span and int(span[1]) <= int(span[2]) else None,
        words=query.get("word", "")[:LONGEST_QUERY],
        least=_share(query.get("least", "")),
    )


def _share(text: str) -> float:
    try:
        share = float(text or 0)
    except ValueError:
        return 0.0
    return share if math.isfinite(share) and 0 <= share <= 1 else 0.0
