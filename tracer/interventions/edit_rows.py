"""Scenarios checked against a model and a prompt, and their edits as tensors on its device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tracer.errors import InterventionError
from tracer.interventions.feature_rows import FeatureRows, on_device
from tracer.interventions.scenario import Edit, Scenario
from tracer.model.model import Model


@dataclass(frozen=True)
class EditedRow:
    """One scenario, checked against the model and the prompt."""

    scenario: Scenario
    n_prompt: int
    """Tokens of the prompt."""
    at_prompt: Mapping[tuple[int, int, int], Edit]
    """By layer, position, feature; of two edits of the same, the later."""
    persistent_edits: Mapping[tuple[int, int], Edit]
    """By layer, feature: edits that apply to generated tokens too."""
    constrained: frozenset[int]
    """Layers whose MLP outputs are frozen."""

    @property
    def layers(self) -> frozenset[int]:
        """Layers with edited features."""
        keys: Iterable[tuple[int, ...]] = (*self.at_prompt, *self.persistent_edits)
        return frozenset(key[0] for key in keys)

    @property
    def freezes_patterns(self) -> bool:
        return self.scenario.freeze_attention or bool(self.constrained)

    def freezes_norms(self, layers: range) -> bool:
        """Return whether norm scales are frozen in a model with ``layers``."""
        return self.scenario.freeze_norms or self.constrained.issuperset(layers)


def check_row(model: Model, scenario: Scenario, n_pos: int) -> EditedRow:
    """Check a scenario against a prompt of ``n_pos`` tokens.

    Raises :class:`InterventionError` when an edit or a constrained layer does not exist.
    """
    at_prompt: dict[tuple[int, int, int], Edit] = {}
    persistent_edits: dict[tuple[int, int], Edit] = {}
    for edit in scenario.edits:
        layer, feature = edit.feature
        check_feature(model, layer, feature)
        for position in edit.positions(n_pos):
            at_prompt[layer, position, feature] = edit
        if edit.stop is None:
            persistent_edits[layer, feature] = edit
    layers = scenario.constrained_layers
    unknown_layers = sorted(set(layers or ()) - set(range(model.n_layers)))
    if unknown_layers or (layers is not None and not layers):
        raise InterventionError(
            f"constrained_layers contains {unknown_layers or 'no layers'}: {model.source.name} has "
            f"layers 0 to {model.n_layers - 1}; pass None for no constraint"
        )
    return EditedRow(scenario, n_pos, at_prompt, persistent_edits, frozenset(layers or ()))


def check_feature(model: Model, layer: int, feature: int) -> None:
    """Raise :class:`InterventionError` if the model's transcoders lack this feature."""
    if not 0 <= layer < model.n_layers:
        raise InterventionError(
            f"layer {layer} does not exist: {model.source.name} has layers 0 to "
            f"{model.n_layers - 1}"
        )
    n_features = model.transcoders[layer].n_features
    if not 0 <= feature < n_features:
        raise InterventionError(
            f"layer {layer} has no feature {feature}: it has features 0 to {n_features - 1}"
        )


def edited_features(model: Model, rows: Sequence[EditedRow]) -> dict[int, FeatureRows]:
    """Return, by layer, the features that the scenarios edit."""
    by_layer: dict[int, list[int]] = {}
    for row in rows:
        for layer, _, feature in row.at_prompt:
            by_layer.setdefault(layer, []).append(feature)
        for layer, feature in row.persistent_edits:
            by_layer.setdefault(layer, []).append(feature)
    return {
        layer: FeatureRows(model.transcoders[layer], features, model.device)
        for layer, features in sorted(by_layer.items())
    }


@dataclass
class EditGroup:
    """Edits of one layer, as many as are computed at a time."""

    rows: Int[Tensor, " edits"]
    """Row of the batch."""
    columns: Int[Tensor, " edits"]
    """Position in the prompt, or 0 in the first token of a pass over generated ones."""
    numbers: Int[Tensor, " edits"]
    """Feature, as :class:`FeatureRows` numbers them."""
    factor: Float[Tensor, " edits"]
    constant: Float[Tensor, " edits"]
    """An edit asks for ``factor`` times the unedited activation plus ``constant``."""
    constrained: Bool[Tensor, " edits"] | None
    """Whether the edit's row has constrained layers. None if no row has any, and for generated
    tokens, which are never constrained."""
    unedited: Float[Tensor, " edits"] | None = None
    """Activation without any edits; filled in by the first pass over the prompt. None for generated
    tokens, whose edits are relative to the present activation."""

    def change(self, present: Float[Tensor, " edits"]) -> Float[Tensor, " edits"]:
        """Return how much to add to each ``present`` activation.

        In a constrained row the present activation counts as the unedited one, as in
        circuit-tracer.
        """
        unedited = present if self.unedited is None else self.unedited
        if self.constrained is not None:
            present = torch.where(self.constrained, unedited, present)
        return unedited * self.factor + self.constant - present


def prompt_groups(
    rows: Sequence[EditedRow], features: Mapping[int, FeatureRows], device: torch.device
) -> dict[int, list[EditGroup]]:
    """Return the edits of prompt tokens by layer."""
    entries: dict[int, list[tuple[int, int, int, Edit]]] = {}
    for number, row in enumerate(rows):
        for (layer, position, feature), edit in row.at_prompt.items():
            entries.setdefault(layer, []).append((number, position, feature, edit))
    constrained = [bool(row.constrained) for row in rows]
    return _groups(entries, constrained if any(constrained) else None, features, device)


def persistent_groups(
    rows: Sequence[EditedRow], features: Mapping[int, FeatureRows], device: torch.device
) -> dict[int, list[EditGroup]]:
    """Return the edits of every generated token by layer."""
    entries: dict[int, list[tuple[int, int, int, Edit]]] = {}
    for number, row in enumerate(rows):
        for (layer, feature), edit in row.persistent_edits.items():
            entries.setdefault(layer, []).append((number, 0, feature, edit))
    return _groups(entries, None, features, device)


def _groups(
    entries: Mapping[int, list[tuple[int, int, int, Edit]]],
    constrained: Sequence[bool] | None,
    features: Mapping[int, FeatureRows],
    device: torch.device,
) -> dict[int, list[EditGroup]]:
    """Move all edits to the device in two transfers, and split them by layer and size."""
    lists: dict[tuple[int, str], list[int]] = {}
    numbers: list[tuple[float, float]] = []
    for layer, edits in entries.items():
        lists[layer, "rows"] = [row for row, *_ in edits]
        lists[layer, "columns"] = [column for _, column, *_ in edits]
        lists[layer, "numbers"] = [features[layer].number[feature] for *_, feature, _ in edits]
        lists[layer, "constrained"] = [bool(constrained and constrained[row]) for row, *_ in edits]
        numbers += [_linear(edit) for *_, edit in edits]
    index = on_device(lists, device)
    table = torch.tensor(numbers, dtype=torch.float32, device="cpu").view(-1, 2).to(device)
    groups: dict[int, list[EditGroup]] = {}
    first = 0
    for layer, edits in entries.items():
        of_layer = table[first : first + len(edits)]
        first += len(edits)
        groups[layer] = [
            EditGroup(
                rows=index[layer, "rows"][part],
                columns=index[layer, "columns"][part],
                numbers=index[layer, "numbers"][part],
                factor=of_layer[part, 0],
                constant=of_layer[part, 1],
                constrained=index[layer, "constrained"][part].bool() if constrained else None,
            )
            for part in _parts(len(edits), features[layer].at_once)
        ]
    return groups


def _parts(count: int, step: int) -> list[slice]:
    return [slice(start, start + step) for start in range(0, count, step)]


def _linear(edit: Edit) -> tuple[float, float]:
    """Return the factor and the constant of :class:`EditGroup`."""
    if edit.operation == "set":
        return 0.0, edit.value
    return (edit.value, 0.0) if edit.operation == "scale" else (1.0, edit.value)
