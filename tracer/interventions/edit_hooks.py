"""A forward pass of a batch of rows, each under its own edits.

The semantics are circuit-tracer 0.5's `feature_intervention`: the model runs as it is, errors
included, and the decoder vector of each edited feature is added to the MLP outputs, scaled by the
difference between the wanted and the present activation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracer.errors import InterventionError
from tracer.interventions.scenario import Edit, Scenario
from tracer.model.bridge import Hook
from tracer.model.model import Model


@dataclass(frozen=True)
class EditedRow:
    """One scenario, checked against the model and the prompt."""

    scenario: Scenario
    at_prompt: Mapping[tuple[int, int, int], Edit]
    """By layer, position, feature; of two edits of the same, the later."""
    persistent_edits: Mapping[tuple[int, int], Edit]
    """By layer, feature: edits that hold for generated tokens too."""
    constrained: frozenset[int]

    @property
    def holds_patterns(self) -> bool:
        return self.scenario.freeze_attention or bool(self.constrained)

    def holds_norms(self, layers: range) -> bool:
        """Of a model with ``layers``."""
        return self.scenario.freeze_norms or self.constrained.issuperset(layers)


def check_row(model: Model, scenario: Scenario, n_pos: int) -> EditedRow:
    """Raises :class:`InterventionError` for an edit or a layer that names nothing."""
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
    strangers = sorted(set(layers or ()) - set(range(model.n_layers)))
    if strangers or (layers is not None and not layers):
        raise InterventionError(
            f"constrained_layers names {strangers or 'no layer'}: {model.source.name} has layers 0 "
            f"to {model.n_layers - 1}; give None for no constraint"
        )
    return EditedRow(scenario, at_prompt, persistent_edits, frozenset(layers or ()))


def check_feature(model: Model, layer: int, feature: int) -> None:
    """Raises :class:`InterventionError` when the model has no such feature."""
    if not 0 <= layer < model.n_layers:
        raise InterventionError(
            f"there is no layer {layer}: {model.source.name} has layers 0 to {model.n_layers - 1}"
        )
    n_features = model.transcoders[layer].n_features
    if not 0 <= feature < n_features:
        raise InterventionError(
            f"layer {layer} has no feature {feature}: it has features 0 to {n_features - 1}"
        )


def names_to_capture(model: Model, rows: Sequence[EditedRow]) -> list[str]:
    """Hook points whose unedited values the rows need."""
    layers = range(model.n_layers)
    names = [model.read_hook(layer) for layer in layers]
    if any(row.holds_patterns for row in rows):
        names += [f"blocks.{layer}.attn.hook_pattern" for layer in layers]
    constrained = frozenset[int]().union(*(row.constrained for row in rows))
    names += [model.write_hook(layer) for layer in sorted(constrained)]
    if any(row.holds_norms(layers) for row in rows):
        names += scale_names(model)
    return list(dict.fromkeys(names))


def scale_names(model: Model) -> list[str]:
    """Hook points of the scales of all norms.

    Those of queries and keys too: the patterns are held as well, so within the prompt they change
    nothing, but generated tokens attend to the keys.
    """
    names = [model.final_norm.name]
    for block in model.blocks:
        for norm in (block.attn_norm, block.attn_post_norm, block.mlp_norm, block.mlp_post_norm):
            if norm is not None:
                names.append(norm.name)
        names += block.query_key_norms
    return [f"{name}.hook_scale" for name in names]


class EditedRun:
    """Runs the prompt, and what is generated after it, one row per scenario.

    ``unedited`` are the captured values of :func:`names_to_capture`, without a batch axis.
    """

    def __init__(
        self, model: Model, rows: Sequence[EditedRow], unedited: Mapping[str, Tensor]
    ) -> None:
        self._model, self._rows, self._unedited = model, rows, unedited
        self.n_prompt = len(unedited[model.read_hook(0)])
        self._offset = 0
        self._deltas: dict[int, Tensor] = {}
        self.inputs: dict[str, Tensor] = {}
        """What every transcoder read in the latest pass, ``(rows, pos, d_model)``."""
        layers, self.hooks = range(model.n_layers), list[tuple[str, Hook]]()
        holding = self._which(row.holds_patterns for row in rows)
        if len(holding):
            hook = self._hold_pattern(holding)
            self.hooks += [(f"blocks.{layer}.attn.hook_pattern", hook) for layer in layers]
        still = self._which(row.holds_norms(layers) for row in rows)
        if len(still):
            self.hooks += [(name, self._hold(still)) for name in scale_names(model)]
        self.hooks += [(model.read_hook(layer), self._read(layer)) for layer in layers]
        self.hooks += [(model.write_hook(layer), self._write(layer)) for layer in layers]

    def _which(self, flags: Any) -> Int[Tensor, " rows"]:
        return torch.tensor(list(flags), device=self._model.device).nonzero()[:, 0]

    def __len__(self) -> int:
        return len(self._rows)

    def __call__(self, token_ids: Int[Tensor, " pos"]) -> Float[Tensor, "rows pos vocab"]:
        """Final logits of the prompt, or of a text that begins with it, in every row."""
        self._deltas.clear()
        self._offset = 0
        return self._model.bridge.run_batch(token_ids.expand(len(self._rows), -1), self.hooks)

    def step(
        self, token_ids: Int[Tensor, "rows pos"], offset: int, cache: Any
    ) -> tuple[Float[Tensor, "rows pos vocab"], Any]:
        """Final logits of tokens from position ``offset`` on, and the cache with them in."""
        self._deltas.clear()
        self._offset = offset
        return self._model.bridge.step(token_ids, self.hooks, cache)

    def _edits(self, layer: int, n_pos: int) -> list[tuple[int, int, int, Edit]]:
        """Row, position, feature of every edit of ``layer`` in the pass that is under way."""
        start, stop = self._offset, self._offset + n_pos
        found = []
        for number, row in enumerate(self._rows):
            for (at, position, feature), edit in row.at_prompt.items():
                if at == layer and start <= position < stop:
                    found.append((number, position, feature, edit))
            for (at, feature), edit in row.persistent_edits.items():
                later = range(max(start, self.n_prompt), stop)
                found += [(number, p, feature, edit) for p in later if at == layer]
        return found

    def _read(self, layer: int) -> Hook:
        """Note what the transcoder of ``layer`` reads, and work out what its edits add."""
        name, transcoder = self._model.read_hook(layer), self._model.transcoders[layer]

        def hook(value: Tensor, hook: Any) -> None:
            self.inputs[name] = value
            edits = self._edits(layer, value.shape[1])
            if not edits:
                return
            rows, positions, features = (
                torch.tensor(column, device=value.device)
                for column in list(zip(*edits, strict=True))[:3]
            )
            here = positions - self._offset
            present = transcoder.chosen_activations(value[rows, here], features)
            unedited = self._unedited[name][positions.clamp(max=self.n_prompt - 1)]
            before = torch.where(
                positions < self.n_prompt,
                transcoder.chosen_activations(unedited, features),
                present,
            )
            held = torch.tensor([bool(self._rows[edit[0]].constrained) for edit in edits])
            present = torch.where(held.to(value.device), before, present)
            present = torch.where(positions < self._model.first_position, 0, present)
            before = torch.where(positions < self._model.first_position, 0, before)
            wanted = torch.stack([_wanted(edit[3], before[i]) for i, edit in enumerate(edits)])
            change = wanted - present
            written = transcoder.decoder_vectors(features).float() * change[:, None, None]
            for step, output in enumerate(transcoder.output_layers):
                if output not in self._deltas:
                    self._deltas[output] = torch.zeros_like(value, dtype=written.dtype)
                place = (rows, here)
                self._deltas[output].index_put_(place, written[:, step], accumulate=True)

        return hook

    def _write(self, layer: int) -> Hook:
        """Add the edits' decoder vectors to the MLP output, held first where it is constrained.

        Constraints are the prompt's: generated tokens run freely, and are written to everywhere.
        """
        name, read_name = self._model.write_hook(layer), self._model.read_hook(layer)
        transcoder = self._model.transcoders[layer]
        held = self._which(layer in row.constrained for row in self._rows)
        written = self._which(not row.constrained or layer in row.constrained for row in self._rows)

        def hook(value: Tensor, hook: Any) -> Tensor:
            n_held = max(0, min(self.n_prompt - self._offset, value.shape[1]))
            value = value.clone()
            if len(held) and n_held:
                part = slice(self._offset, self._offset + n_held)
                value[held, :n_held] = self._unedited[name][part].to(value.dtype)
                if transcoder.W_skip is not None:
                    # A skip is linear, hence part of the direct effects: only features are held.
                    moved = self.inputs[read_name][held, :n_held] - self._unedited[read_name][part]
                    value[held, :n_held] += transcoder.skipped(moved)
            if layer in self._deltas:
                delta = self._deltas[layer].to(value.dtype)
                value[written, :n_held] += delta[written, :n_held]
                value[:, n_held:] += delta[:, n_held:]
            return value

        return hook

    def _hold_pattern(self, rows: Tensor) -> Hook:
        """Keep the prompt's own attention pattern; rows of generated tokens are left alone."""

        def hook(value: Tensor, hook: Any) -> Tensor:
            if self._offset >= self.n_prompt:
                return value
            pattern, n_pos = self._unedited[hook.name], self.n_prompt
            value = value.clone()
            value[rows, :, :n_pos, :n_pos] = pattern
            value[rows, :, :n_pos, n_pos:] = 0
            return value

        return hook

    def _hold(self, rows: Tensor) -> Hook:
        def hook(value: Tensor, hook: Any) -> Tensor:
            if self._offset >= self.n_prompt:
                return value
            value = value.clone()
            value[rows, ..., : self.n_prompt, :] = self._unedited[hook.name]
            return value

        return hook


def _wanted(edit: Edit, before: Tensor) -> Tensor:
    """The activation that an edit asks for, from the one before it."""
    if edit.operation == "set":
        return torch.tensor(edit.value).to(before)
    return before * edit.value if edit.operation == "scale" else before + edit.value
