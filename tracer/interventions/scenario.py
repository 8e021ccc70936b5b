"""Scenarios for one prompt as plain values: edits of features and heads, and what is frozen.

No torch is needed.

An edit names a feature and its positions. "scale" and "add" are relative to the feature's
activation at that position in the unedited prompt; for generated tokens, to the present activation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, get_args

from tracer.errors import InterventionError
from tracer.interventions.head_edit import HeadEdit
from tracer.types import FeatureId, NodeId

Operation = Literal["set", "scale", "add"]


@dataclass(frozen=True)
class Edit:
    """Change one feature at positions ``start`` to ``stop - 1``; negative ones count from the end.

    With ``stop=None`` the edit applies to all positions from ``start`` on, generated tokens
    included. ``value`` is the new activation (set), a factor (scale; 0 switches the feature off) or
    a difference (add).

    Raises :class:`InterventionError` for an unknown operation or a value that is not finite.

    >>> from tracer import Edit, FeatureId
    >>> edit = Edit(FeatureId(layer=3, index=417), start=-1, stop=None, operation="set", value=5.0)
    >>> edit.positions(n_pos=8)
    range(7, 8)
    """

    feature: FeatureId
    start: int
    stop: int | None
    operation: Operation
    value: float

    def __post_init__(self) -> None:
        if self.operation not in get_args(Operation):
            raise InterventionError(
                f"unknown operation {self.operation!r}: expected one of "
                f"{', '.join(get_args(Operation))}"
            )
        if not math.isfinite(self.value):
            raise InterventionError(
                f"the value for feature {self.feature.index} of layer {self.feature.layer} is "
                f"{self.value}: give a finite number"
            )

    @classmethod
    def at(cls, node: NodeId, operation: Operation, value: float) -> Self:
        """Return an edit of a graph node's feature at the node's position.

        Raises :class:`InterventionError` if the node is not a feature of a prompt's graph.
        """
        if node.kind != "feature" or node.position < 0:
            raise InterventionError(f"{node} cannot be edited: only features have activations")
        return cls(node.feature, node.position, node.position + 1, operation, value)

    def moved(self, by: int) -> Edit:
        """Return the edit ``by`` positions later (see :meth:`Scenario.moved`)."""
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
        """Return the positions that the edit changes in a prompt of ``n_pos`` tokens.

        Raises :class:`InterventionError` if the prompt has none of them.
        """
        start = self.start + n_pos if self.start < 0 else self.start
        stop = n_pos if self.stop is None else self.stop
        stop = stop + n_pos if stop < 0 else stop
        if not 0 <= start < stop <= n_pos:
            named = self.start if self.stop == self.start + 1 else f"{self.start} to {self.stop}"
            raise InterventionError(
                f"position {named} does not exist: the prompt has {n_pos} tokens, positions 0 to "
                f"{n_pos - 1}"
            )
        return range(start, stop)


@dataclass(frozen=True)
class Scenario:
    """A name, edits, and what is frozen while they act.

    ``freeze_attention`` keeps the attention patterns of the unedited prompt, ``freeze_norms`` its
    norm scales; with both, only the MLPs respond to the edits, in their own nonlinear way.
    ``constrained_layers`` also freezes the MLP outputs of these layers (and all norm scales, if it
    names every layer); edits are then relative to the unedited activations and write only to those
    layers. All of this applies to the prompt alone: generated tokens run freely, and edits of them
    write to all layers.

    ``head_edits`` change attention heads in the same run.

    >>> from tracer import Edit, FeatureId, Scenario
    >>> push = Scenario("push", (Edit(FeatureId(3, 417), -1, None, "set", 5.0),))
    >>> [push.scaled(step).edits[0].value for step in (0.5, 1, 2)]
    [2.5, 5.0, 10.0]
    >>> Scenario.from_dict(push.to_dict()) == push
    True
    """

    name: str
    edits: tuple[Edit, ...]
    freeze_attention: bool = True
    constrained_layers: tuple[int, ...] | None = None
    freeze_norms: bool = False
    head_edits: tuple[HeadEdit, ...] = ()

    def moved(self, by: int) -> Scenario:
        """Return the scenario for a prompt that has ``by`` more tokens before the same ending.

        Positions that count from the end stay the same. Raises :class:`InterventionError` when an
        edit would leave the prompt or reach its beginning-of-text token.
        """
        return replace(
            self,
            edits=tuple(edit.moved(by) for edit in self.edits),
            head_edits=tuple(edit.moved(by) for edit in self.head_edits),
        )

    def scaled(self, factor: float) -> Scenario:
        """Return the scenario with every edit's value multiplied by ``factor``."""
        edits = tuple(replace(edit, value=edit.value * factor) for edit in self.edits)
        head_edits = tuple(edit.scaled(factor) for edit in self.head_edits)
        return replace(self, edits=edits, head_edits=head_edits)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; :meth:`from_dict` is the inverse."""
        stored = asdict(self)
        if not self.head_edits:  # links stay short
            del stored["head_edits"]
        return stored

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Return the scenario that :meth:`to_dict` stored.

        Raises :class:`InterventionError` for anything else.
        """
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
                tuple(HeadEdit.from_dict(edit) for edit in stored.get("head_edits", ())),
            )
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise InterventionError(f"not a stored scenario ({error!r}): {stored!r}") from error


def edit_all(nodes: Iterable[NodeId], operation: Operation, value: float) -> tuple[Edit, ...]:
    """Return the same change for every feature of a group, each at its own position."""
    return tuple(Edit.at(node, operation, value) for node in nodes)
