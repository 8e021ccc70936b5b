"""Estimate the memory and the time of a trace before it runs.

Memory follows from the model and the number of tokens, time from what earlier traces of the same
model took in this process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cache.memory import BoundedCache
from tracer.graph.graph import AttributionGraph

if TYPE_CHECKING:
    from tracer.model.model import Model
    from tracer.types import Progress

LONG_SECONDS: Final = 60.0
LONG_TOKENS: Final = 100
"""Tokens from which a trace counts as long while nothing is known about the model's speed."""
_LARGE_SHARE: Final = 0.5
_MODELS_KEPT: Final = 64


@dataclass(frozen=True)
class Pace:
    """How fast a model was traced, and how many of its features were active."""

    seconds: float
    """Per expanded feature and token: both the number of backward passes and the cost of each grow
    with the prompt."""
    active: float
    """Active features per token."""
    work: int
    """Expanded features times tokens of the trace that this was measured on."""

    def expanded(self, n_tokens: int, max_features: int | None) -> int:
        """Return how many features a trace of so many tokens is expected to expand."""
        active = int(self.active * n_tokens)
        return active if max_features is None else min(max_features, active)

    def expected(self, n_tokens: int, max_features: int | None) -> float:
        """Return how many seconds a trace of so many tokens is expected to take.

        >>> Pace(0.0005, 40.0, 4000).expected(20, None)
        8.0
        """
        return self.seconds * n_tokens * self.expanded(n_tokens, max_features)


@dataclass(frozen=True)
class Forecast:
    """What a trace is expected to take."""

    n_tokens: int
    n_bytes: int
    free_bytes: int
    seconds: float | None
    """None before a trace of this model was timed."""

    @property
    def is_long(self) -> bool:
        """Whether a visitor should agree before it runs."""
        slow = self.n_tokens > LONG_TOKENS if self.seconds is None else self.seconds > LONG_SECONDS
        return slow or self.n_bytes > self.free_bytes * _LARGE_SHARE


class Paces:
    """The pace of every model that was traced in this process. Any thread may call it.

    >>> paces = Paces()
    >>> paces.note("atlas", n_tokens=10, n_expanded=400, n_active=400, seconds=2.0)
    >>> paces.of("atlas")
    Pace(seconds=0.0005, active=40.0, work=4000)
    """

    def __init__(self) -> None:
        self._paces: BoundedCache[str, Pace] = BoundedCache(_MODELS_KEPT)

    def note(
        self, files: str, n_tokens: int, n_expanded: int, n_active: int, seconds: float
    ) -> None:
        """Remember a trace. The largest one counts: in a small one, constant costs dominate."""
        work, known = n_tokens * n_expanded, self._paces.get(files)
        if work and (known is None or work >= known.work):
            self._paces.put(files, Pace(seconds / work, n_active / n_tokens, work))

    def note_graph(self, files: str, graph: AttributionGraph, seconds: float) -> None:
        """Remember how long the trace of ``graph`` took."""
        n_tokens, n_expanded = len(graph.token_ids), graph.index.n_features
        self.note(files, n_tokens, n_expanded, graph.n_active_features, seconds)

    def of(self, files: str) -> Pace | None:
        """Return the pace of the model with these files, or None."""
        return self._paces.get(files)


@dataclass(frozen=True)
class TraceForecast:
    """What a trace of ``prompt`` takes, given the ``pace`` of the model."""

    prompt: str
    max_features: int | None
    pace: Pace | None

    def answer(self, model: Model, progress: Progress) -> Forecast:
        from tracer.attribution.memory import expected_bytes

        n_tokens = len(model.encode(self.prompt))
        active = self.pace.expanded(n_tokens, None) if self.pace else 0
        needed, free = expected_bytes(model, n_tokens, active, self.max_features)
        seconds = self.pace.expected(n_tokens, self.max_features) if self.pace else None
        return Forecast(n_tokens, needed, free, seconds)
