"""What-ifs about one prompt, as plain values: edits of features, scenarios made of them. No torch.

An edit names its feature and its positions; what "scale" and "add" are relative to is the feature's
activation at that position in the unedited prompt (for tokens that are generated later, the present
one).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, get_args

from tracer.errors import InterventionError
from tracer.types import FeatureId, NodeId

Operation = Literal["set", "scale", "add"]


@dataclass(frozen=True)
class Edit:
    """Change one feature at positions ``start`` to ``stop - 1``; negative ones count from the end.

    ``stop`` None means all positions from ``start`` on, generated ones too. ``value`` is the new
    activation (set), a factor (scale; 0 switches off) or a difference (add).
    """

    feature: FeatureId
    start: int
    stop: int | None
    operation: Operation
    value: float

    def __post_init__(self) -> None:
        if self.operation not in get_args(Operation):
            raise InterventionError(
                f"{self.operation!r} is no operation: expected {', '.join(get_args(Operation))}"
            )
        if not math.isfinite(self.value):
            raise InterventionError(
                f"feature {self.feature.index} of layer {self.feature.layer} cannot be "
                f"{self.operation} to {self.value}: give a finite number"
            )

    @classmethod
    def at(cls, node: NodeId, operation: Operation, value: float) -> Self:
        """Change the feature of a graph's node where the node stands.

        Raises :class:`InterventionError` for a node that is no feature of a prompt's graph.
        """
        if node.kind != "feature" or node.position < 0:
            raise InterventionError(f"{node} cannot be edited: only features have activations")
        return cls(node.feature, node.position, node.position + 1, operation, value)

    def moved(self, by: int) -> Edit:
        """See :meth:`Scenario.moved`."""
        if self.start < 0:
            return self
        start = self.start + by
        stop = self.stop if self.stop is None or self.stop < 0 else self.stop + by
        if start < 1:
            raise InterventionError(
                f"feature {self.feature.index} of layer {self.feature.layer} is edited at position "
                f"{self.start}, which is {-by} tokens before the beginning of this prompt"
            )
        return replace(self, start=start, stop=stop)

    def positions(self, n_pos: int) -> range:
        """The positions of a prompt of ``n_pos`` tokens that it changes.

        Raises :class:`InterventionError` when there are none.
        """
        start = self.start + n_pos if self.start < 0 else self.start
        stop = n_pos if self.stop is None else self.stop
        stop = stop + n_pos if stop < 0 else stop
        if not 0 <= start < stop <= n_pos:
            named = self.start if self.stop == self.start + 1 else f"{self.start} to {self.stop}"
            raise InterventionError(
                f"there is no position {named}: the prompt has {n_pos} tokens, positions 0 to "
                f"{n_pos - 1}"
            )
        return range(start, stop)


@dataclass(frozen=True)
class Scenario:
    """Edits, and what is held still while they act.

    ``freeze_attention`` holds attention patterns at those of the unedited prompt, ``freeze_norms``
    the scales of all norms: with both, only the MLPs answer the edits in their own, non-linear way.
    ``constrained_layers`` also holds MLP outputs there (and all norm scales, when it names every
    layer); edits then count against the unedited activations and write only to those layers.
    Both concern the prompt alone: generated tokens run freely, and edits that hold for them write
    to all layers.
    """

    name: str
    edits: tuple[Edit, ...]
    freeze_attention: bool = True
    constrained_layers: tuple[int, ...] | None = None
    freeze_norms: bool = False

    def moved(self, by: int) -> Scenario:
        """The same edits ``by`` positions further on: the recipe for a prompt that is so much
        longer, its end being what both have in common. Positions from the end stay.

        Raises :class:`InterventionError` when an edit would leave the prompt or reach its
        beginning-of-text token.
        """
        return replace(self, edits=tuple(edit.moved(by) for edit in self.edits))

    def scaled(self, factor: float) -> Scenario:
        """The same with every edit's value multiplied by ``factor``: a step of a sweep."""
        edits = tuple(replace(edit, value=edit.value * factor) for edit in self.edits)
        return replace(self, edits=edits)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; :meth:`from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`; raises :class:`InterventionError` on anything else."""
        try:
            edits = tuple(
                Edit(
                    FeatureId(*(int(part) for part in edit["feature"])),
                    int(edit["start"]),
                    None if edit["stop"] is None else int(edit["stop"]),
                    edit["operation"],
                    float(edit["value"]),
                )
                for edit in stored["edits"]
            )
            layers = stored["constrained_layers"]
            return cls(
                str(stored["name"]),
                edits,
                bool(stored["freeze_attention"]),
                None if layers is None else tuple(int(layer) for layer in layers),
                bool(stored.get("freeze_norms", False)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InterventionError(
                f"this is no stored scenario ({error!r}): {stored!r}"
            ) from error


def edit_all(nodes: Iterable[NodeId], operation: Operation, value: float) -> tuple[Edit, ...]:
    """The same change of every feature of a group, each where it stands."""
    return tuple(Edit.at(node, operation, value) for node in nodes)
