"""Small values that the library, the cache and the pages share. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self
from urllib.parse import quote, unquote

from tracer.errors import InterventionError, ThresholdError

NodeKind = str
"""One of `COMPUTED_KINDS`, or the kind of a node that only other tools compute, as they name it:
``lorsa``, ``lorsa error``, ``bias`` and whatever comes next."""

COMPUTED_KINDS: Final = ("feature", "error", "token", "logit")
"""The kinds of nodes in a graph that this library traces."""

Progress = Callable[[int, int, str], None]
"""``progress(done, total, what)``; it may raise :class:`tracer.errors.Cancelled` to stop the work.
"""

Message = Mapping[str, str]
"""A message of a chat: its ``role`` (``user``, ``assistant``, ``system``) and its ``content``."""

Prompt = str | Sequence[int] | Sequence[Message]
"""A text, token ids, or a chat, which the tokenizer's chat template turns into text."""

_NODE_ID: Final = re.compile(
    r"([A-Za-z0-9_.~ %]{1,1200})-(-?[0-9]{1,18})-(-?[0-9]{1,18})-(-?[0-9]{1,18})"
)


class FeatureId(NamedTuple):
    """A transcoder feature: the layer whose residual stream it reads, and its index there.

    >>> print(FeatureId(3, 417))
    L3/417
    """

    layer: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nothing uses

    def __str__(self) -> str:
        return f"L{self.layer}/{self.index}"


class NodeId(NamedTuple):
    """A node of a graph, identified by what it is rather than by its row.

    ``index`` is the feature's index for a feature, the vocabulary id for a token or logit (negative
    for a logit that is not a single token), and -1 for an error. ``layer`` is -1 for tokens and
    ``n_layers`` for logits. For the kinds of other tools see
    :class:`tracer.graph.generic.GenericNode`.

    >>> print(NodeId("feature", 3, 8, 417), NodeId("error", 2, 8, -1))
    feature-3-8-417 error-2-8--1
    >>> print(NodeId("lorsa error", 2, 8, -1))
    lorsa error-2-8--1
    """

    kind: NodeKind
    layer: int
    position: int
    index: int  # type: ignore[assignment]

    def __str__(self) -> str:
        kind = self.kind if self.kind in COMPUTED_KINDS else _escaped(self.kind)
        return f"{kind}-{self.layer}-{self.position}-{self.index}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the node whose ``str`` is ``text``; raises ``ValueError`` for any other text.

        >>> NodeId.parse("error-2-8--1")
        NodeId(kind='error', layer=2, position=8, index=-1)
        """
        match = _NODE_ID.fullmatch(text)
        kind = unquote(match[1]) if match is not None else ""
        if match is None or _escaped(kind) != match[1]:
            raise ValueError(
                f"{text!r} is not a node id, expected kind-layer-position-index such as "
                "'feature-3-8-417'"
            )
        return cls(kind, int(match[2]), int(match[3]), int(match[4]))

    @property
    def feature(self) -> FeatureId:
        """The feature of a feature node; raises ``ValueError`` for other kinds."""
        if self.kind != "feature":
            raise ValueError(f"{self} is not a feature")
        return FeatureId(self.layer, self.index)


def _escaped(kind: str) -> str:
    """Return a kind without hyphens, commas and the like, so that ids can be listed and parsed."""
    return quote(kind, safe=" ").replace("-", "%2D")


@dataclass(frozen=True)
class Supernode:
    """A named group of nodes with one meaning.

    >>> Supernode("say a capital", (NodeId("feature", 4, 8, 93), NodeId("feature", 4, 8, 207))).name
    'say a capital'
    """

    name: str
    nodes: tuple[NodeId, ...]
    colour: str = ""
    """``#rrggbb``; empty for the next colour in turn."""
    is_expanded: bool = False
    """Whether the flow diagram shows every member in its own box."""


class TokenProbability(NamedTuple):
    """A candidate for the next token.

    >>> TokenProbability(" Austin", 312, probability=0.97, logit=14.2).token
    ' Austin'
    """

    token: str
    token_id: int
    probability: float
    logit: float


@dataclass(frozen=True)
class Contrast:
    """A target: the logit of one token minus the logit of another.

    >>> Contrast(" Austin", " Sacramento")
    Contrast(better=' Austin', worse=' Sacramento')
    """

    better: str | int
    worse: str | int


@dataclass(frozen=True)
class Direction:
    """A target: any direction of the residual stream at the last position.

    The graph explains its dot product with the output of the final norm, which is not centred.

    >>> Direction("sentiment", vector=(0.0, 1.0), weight=0.5).label
    'sentiment'
    """

    label: str
    vector: tuple[float, ...]
    """``d_model`` numbers."""
    weight: float = 1.0
    """The influence that starts here, relative to other targets; a token has its probability."""


@dataclass(frozen=True)
class FeatureTarget:
    """A target: the pre-activation of a feature, to explain this feature instead of the output.

    A negative position counts from the end. The feature must be active there.

    >>> FeatureTarget(layer=3, position=-1, feature=417)
    FeatureTarget(layer=3, position=-1, feature=417, weight=1.0)
    """

    layer: int
    position: int
    feature: int
    weight: float = 1.0
    """The influence that starts here, relative to other targets."""


TargetChoice = str | int | Contrast | Direction | FeatureTarget
"""What a graph can explain; a token is given as its text or its id."""


@dataclass(frozen=True)
class Target:
    """The meaning of a logit node of a graph.

    ``token_ids`` has one id (the token's logit minus the mean logit), two (a contrast), or none (a
    direction or a feature). ``probability`` is how much influence starts here: for a token the
    model's probability, for a contrast that of its first token, otherwise the given weight.

    >>> import tracer
    >>> graph = tracer.trace(tracer.load("atlas", device="cpu"), "The capital of France is")
    >>> [target.label for target in graph.targets][:1]
    [' Paris']
    """

    label: str
    token_ids: tuple[int, ...]
    probability: float
    feature: NodeId | None = None
    """The explained feature, when the target is one."""


@dataclass(frozen=True)
class Intervention:
    """An edit that sets one feature to a value at one position.

    A negative position counts from the end. ``value`` is in units of the feature's activation; 0
    switches the feature off.

    Raises :class:`InterventionError` when the value is not finite.

    >>> Intervention(layer=3, position=-1, feature=417, value=0.0)
    Intervention(layer=3, position=-1, feature=417, value=0.0)
    >>> Intervention(3, -1, 417, float("nan"))
    Traceback (most recent call last):
    tracer.errors.InterventionError: feature L3/417 cannot be set to nan: give a finite number
    """

    layer: int
    position: int
    feature: int
    value: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise InterventionError(
                f"feature {FeatureId(self.layer, self.feature)} cannot be set to {self.value}: "
                "give a finite number"
            )


@dataclass(frozen=True)
class Thresholds:
    """The share of influence that the kept nodes, and then their edges, must carry, 0 to 1.

    Raises :class:`ThresholdError` for a share outside that range.

    >>> Thresholds(node=0.5)
    Thresholds(node=0.5, edge=0.98)
    >>> Thresholds(node=50)
    Traceback (most recent call last):
    tracer.errors.ThresholdError: the node threshold is 50: it must be between 0 and 1
    """

    node: float = 0.8
    edge: float = 0.98

    def __post_init__(self) -> None:
        for name, value in (("node", self.node), ("edge", self.edge)):
            if not 0.0 <= value <= 1.0:
                raise ThresholdError(f"the {name} threshold is {value}: it must be between 0 and 1")
