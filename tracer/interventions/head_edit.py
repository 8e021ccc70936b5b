"""Edits of attention heads as plain values: off, frozen, or with other scores. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

from tracer.attention.results import AttentionExplanation, Pair
from tracer.errors import InterventionError

HeadOperation = Literal["off", "freeze", "score"]


@dataclass(frozen=True)
class HeadEdit:
    """Change one attention head.

    ``"off"``: the head writes nothing, in the prompt and in generated tokens. ``"freeze"``: its
    pattern on the prompt stays that of the unedited run. ``"score"``: ``value`` is added to its
    score from position ``query`` to ``key`` before the softmax; negative positions count from the
    end. In a scenario that freezes attention, a score edit moves only the query's own attention
    weights, from their unedited values.

    Raises :class:`InterventionError` for an unknown operation, a score edit without positions, and
    a value that is not finite.

    >>> HeadEdit(4, 0, "off").label, HeadEdit(4, 0, "score", -1, 7, -0.41).label
    ('L4 H0 off', 'L4 H0 score -0.41 from -1 to 7')
    """

    layer: int
    head: int
    operation: HeadOperation
    query: int | None = None
    key: int | None = None
    value: float = 0.0

    def __post_init__(self) -> None:
        if self.operation not in get_args(HeadOperation):
            raise InterventionError(
                f"unknown operation {self.operation!r} for a head: expected one of "
                f"{', '.join(get_args(HeadOperation))}"
            )
        if self.operation == "score" and (self.query is None or self.key is None):
            raise InterventionError(
                f"a score of L{self.layer} H{self.head} is between two positions: give query and "
                "key"
            )
        if not math.isfinite(self.value):
            raise InterventionError(
                f"the value for L{self.layer} H{self.head} is {self.value}: give a finite number"
            )

    @property
    def label(self) -> str:
        """The edit in words."""
        name = f"L{self.layer} H{self.head}"
        if self.operation != "score":
            return f"{name} {'off' if self.operation == 'off' else 'frozen'}"
        return f"{name} score {self.value:+.3g} from {self.query} to {self.key}"

    def moved(self, by: int) -> HeadEdit:
        """Return the edit ``by`` positions later; positions that count from the end stay."""

        def later(position: int | None) -> int | None:
            if position is None or position < 0:
                return position
            if position + by < 0:
                raise InterventionError(
                    f"L{self.layer} H{self.head} is edited at position {position}, which is {-by} "
                    "tokens before the beginning of this prompt"
                )
            return position + by

        return replace(self, query=later(self.query), key=later(self.key))

    def scaled(self, factor: float) -> HeadEdit:
        """Return the edit with its score multiplied by ``factor``."""
        return replace(self, value=self.value * factor)

    def positions(self, n_pos: int) -> tuple[int, int]:
        """Return query and key of a score edit, counted from the start.

        Raises :class:`InterventionError` if the prompt does not have them, or the key comes after
        the query.
        """
        places = []
        for name, position in (("query", self.query), ("key", self.key)):
            if position is None or not -n_pos <= position < n_pos:
                raise InterventionError(
                    f"{name} position {position} does not exist: the prompt has {n_pos} tokens, "
                    f"positions 0 to {n_pos - 1}"
                )
            places.append(position % n_pos)
        query, key = places
        if key > query:
            raise InterventionError(
                f"key position {key} comes after query position {query}: a head looks only at its "
                "own position and back"
            )
        return query, key

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Return the edit that ``dataclasses.asdict`` stored."""
        return cls(
            int(stored["layer"]),
            int(stored["head"]),
            stored["operation"],
            None if stored.get("query") is None else int(stored["query"]),
            None if stored.get("key") is None else int(stored["key"]),
            float(stored.get("value", 0.0)),
        )


def without_pairs(why: AttentionExplanation, pairs: Iterable[Pair]) -> HeadEdit:
    """Return the edit that takes pairs of sources out of the score that ``why`` explains.

    Raises :class:`InterventionError` for an explanation of a difference of scores.

    >>> import tracer
    >>> model = tracer.load("atlas", device="cpu")
    >>> prompt = "The capital of the state containing Dallas is"
    >>> why = tracer.explain_attention(model, prompt, layer=4, head=0, query=-1)
    >>> edit = tracer.without_pairs(why, why.pairs(3))
    >>> edit.query, edit.key, edit.value < 0
    (8, 7, True)
    """
    if why.versus is not None:
        raise InterventionError(
            f"this explanation is a difference from {why.versus}: explain the score itself, "
            "without versus"
        )
    removed = sum(pair.weight for pair in pairs)
    return HeadEdit(why.layer, why.head, "score", why.position, why.key_position, -removed)
