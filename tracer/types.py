"""Small values that travel between the modules, the cache and the pages. No torch here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

from tracer.errors import InterventionError, ThresholdError

NodeKind = Literal["feature", "error", "token", "logit"]

Progress = Callable[[int, int, str], None]
"""``progress(done, total, what)``; may raise :class:`tracer.errors.Cancelled` to stop the work."""


class FeatureId(NamedTuple):
    """One transcoder feature: the layer whose residual stream it reads, and its row there."""

    layer: int
    index: int  # type: ignore[assignment]  # hides tuple.index, not needed here

    def __str__(self) -> str:
        return f"L{self.layer}/{self.index}"


class NodeId(NamedTuple):
    """One node of a graph, by what it is rather than by its row.

    ``index`` is the feature's row for a feature, the vocabulary id for a token or logit (negative
    for a logit that is no single token), and -1 for an error. ``layer`` is -1 for tokens and
    ``n_layers`` for logits.
    """

    kind: NodeKind
    layer: int
    position: int
    index: int  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"{self.kind}-{self.layer}-{self.position}-{self.index}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of ``str``; raises ``ValueError`` on anything else."""
        kind, _, rest = text.partition("-")
        if kind not in ("feature", "error", "token", "logit"):
            raise ValueError(f"{text!r} is no node id: it starts with {kind!r}")
        numbers = _dashed_numbers(rest)
        if len(numbers) != 3:
            raise ValueError(f"{text!r} is no node id: expected kind-layer-position-index")
        return cls(kind, *numbers)  # type: ignore[arg-type]

    @property
    def feature(self) -> FeatureId:
        """The feature behind a feature node; raises ``ValueError`` for other kinds."""
        if self.kind != "feature":
            raise ValueError(f"{self} is no feature")
        return FeatureId(self.layer, self.index)


def _dashed_numbers(text: str) -> list[int]:
    """``"3--1-5"`` -> ``[3, -1, 5]``: numbers joined by dashes, each perhaps negative."""
    numbers, sign = [], 1
    for part in text.split("-"):
        if part == "":
            sign = -1
        else:
            numbers.append(sign * int(part))
            sign = 1
    return numbers


@dataclass(frozen=True)
class Supernode:
    """Nodes that a person takes for one thing, and what they call it."""

    name: str
    nodes: tuple[NodeId, ...]
    colour: str = ""
    """``#rrggbb``; empty for the next colour in turn."""
    is_expanded: bool = False
    """Whether the flow diagram shows every member in a box of its own."""


class TokenProbability(NamedTuple):
    """One candidate for the next token."""

    token: str
    token_id: int
    probability: float
    logit: float


@dataclass(frozen=True)
class Contrast:
    """A target that is the logit of one token minus the logit of another."""

    better: str | int
    worse: str | int


@dataclass(frozen=True)
class Direction:
    """A target that is any direction of the residual stream at the last position.

    Its dot product with the output of the final norm is explained, as it is: not centred.
    """

    label: str
    vector: tuple[float, ...]
    """``d_model`` numbers."""
    weight: float = 1.0
    """Its share of the influence beside other targets, in the place of a token's probability."""


@dataclass(frozen=True)
class FeatureTarget:
    """A target that is a feature's pre-activation: explain this feature instead of the output.

    A negative position counts from the end. The feature must be active there.
    """

    layer: int
    position: int
    feature: int
    weight: float = 1.0


TargetChoice = str | int | Contrast | Direction | FeatureTarget
"""What a graph may be asked to explain; a token by its text or id."""


@dataclass(frozen=True)
class Target:
    """What the logit nodes of a graph stand for.

    ``token_ids`` are one id (a token's logit minus the mean logit), two (a contrast), or none (a
    direction or a feature). ``probability`` is the model's own for a token, 0 < p <= 1; for a
    contrast, of its first token; for the others the weight they were given. It says how much of
    the influence starts at this target.
    """

    label: str
    token_ids: tuple[int, ...]
    probability: float
    feature: NodeId | None = None
    """The feature that is explained, when the target is one."""


@dataclass(frozen=True)
class Intervention:
    """Set one feature to a value at one position (negative positions count from the end).

    ``value`` is in units of the feature's own activation; 0 switches it off.
    """

    layer: int
    position: int
    feature: int
    value: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise InterventionError(
                f"feature {self.feature} of layer {self.layer} cannot be set to {self.value}: "
                "give a finite number"
            )


@dataclass(frozen=True)
class Thresholds:
    """Share of influence that the kept nodes, and of those the kept edges, must carry; 0..1."""

    node: float = 0.8
    edge: float = 0.98

    def __post_init__(self) -> None:
        for name, value in (("node", self.node), ("edge", self.edge)):
            if not 0.0 <= value <= 1.0:
                raise ThresholdError(
                    f"the {name} threshold is {value}: it must lie between 0 and 1"
                )
