"""What a trace explains and how much of it is expanded, as a value and as query parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from cache import ModelChoice, TraceRequest
from tracer.types import Contrast, FeatureTarget, TargetChoice

Kind = Literal["likeliest", "token", "contrast", "feature"]
LOGIT_MASS: Final = 0.95
MOST_FEATURES: Final = 100_000
_LONGEST: Final = 200
_FEATURE: Final = re.compile(
    r"\s*L?([0-9]{1,4})\s*/\s*([0-9]{1,9})\s*(?:@\s*(-?[0-9]{1,6}))?\s*", re.IGNORECASE
)


@dataclass(frozen=True)
class Explain:
    """What a trace explains; a field that its kind does not use is ignored."""

    kind: Kind = "likeliest"
    first: str = ""
    """The token, the better token of a contrast, or a feature such as ``L3/417 @ 7``."""
    second: str = ""
    """The worse token of a contrast."""
    max_features: int = 0
    """Features to expand, the most influential first; 0 for all."""
    logit_mass: float = LOGIT_MASS
    """Probability that the likeliest tokens must reach together."""
    forced: str = ""
    """The prompt that is traced although the transcoders need a chat, and it begins none."""

    @property
    def targets(self) -> tuple[TargetChoice, ...] | None:
        """The targets, or None for the likeliest tokens and where the choice is incomplete.

        >>> Explain("contrast", " Austin", " Dallas").targets
        (Contrast(better=' Austin', worse=' Dallas'),)
        >>> Explain("feature", "L3/417 @ -1").targets
        (FeatureTarget(layer=3, position=-1, feature=417, weight=1.0),)
        """
        if self.kind == "token" and self.first.strip():
            return (self.first,)
        if self.kind == "contrast" and self.first.strip() and self.second.strip():
            return (Contrast(self.first, self.second),)
        match = _FEATURE.fullmatch(self.first) if self.kind == "feature" else None
        if match is not None:
            return (FeatureTarget(int(match[1]), int(match[3] or -1), int(match[2])),)
        return None

    @property
    def is_incomplete(self) -> bool:
        """Whether something other than the likeliest tokens was chosen and not written down."""
        return self.kind != "likeliest" and self.targets is None

    def request(self, prompt: str, choice: ModelChoice) -> TraceRequest:
        """Return the request that traces ``prompt`` so."""
        return TraceRequest(
            prompt,
            choice,
            self.targets,
            self.max_features or None,
            logit_mass=self.logit_mass,
            force=self.forces(prompt),
        )

    def forces(self, prompt: str) -> bool:
        """Return whether ``prompt`` is traced even if the transcoders need a chat.

        >>> Explain(forced="Hello").forces("Hello"), Explain(forced="Hello").forces("Hi")
        (True, False)
        """
        return bool(self.forced) and self.forced == prompt

    def sentence(self) -> str:
        """Say what is explained; empty for the default."""
        targets = self.targets
        parts = []
        if targets and self.kind == "token":
            parts.append(f"explains the token “{self.first.strip()}”")
        elif targets and self.kind == "contrast":
            parts.append(f"explains “{self.first.strip()}” against “{self.second.strip()}”")
        elif targets:
            parts.append(f"explains the feature {self.first.strip()}")
        elif self.logit_mass != LOGIT_MASS:
            parts.append(f"explains tokens with {self.logit_mass:.0%} of the probability")
        if self.max_features:
            parts.append(f"expands at most {self.max_features:,} features")
        return ", ".join(parts)


def explain_to_query(explain: Explain) -> dict[str, str]:
    """Return what differs from the default, as query parameters."""
    query: dict[str, str] = {}
    if explain.kind != "likeliest":
        query["target"] = explain.kind
        query["of"] = explain.first
        if explain.kind == "contrast":
            query["against"] = explain.second
    if explain.max_features:
        query["features"] = str(explain.max_features)
    if explain.logit_mass != LOGIT_MASS:
        query["mass"] = f"{explain.logit_mass:g}"
    return query


def explain_from_query(query: Mapping[str, str]) -> Explain:
    """Invert :func:`explain_to_query`; invalid parameters keep their defaults.

    >>> explain_from_query({"target": "token", "of": " Austin", "features": "many"})
    Explain(kind='token', first=' Austin', second='', max_features=0, logit_mass=0.95, \
forced='')
    """
    kind, features = query.get("target", ""), query.get("features", "")
    try:
        mass = float(query.get("mass", LOGIT_MASS))
    except ValueError:
        mass = LOGIT_MASS
    return Explain(
        kind if kind in get_args(Kind) else "likeliest",  # type: ignore[arg-type]
        query.get("of", "")[:_LONGEST],
        query.get("against", "")[:_LONGEST],
        min(int(features), MOST_FEATURES) if re.fullmatch(r"[0-9]{1,6}", features) else 0,
        mass if math.isfinite(mass) and 0.1 <= mass <= 0.999 else LOGIT_MASS,
        query.get("prompt", "") if query.get("force") == "1" else "",
    )
