"""Edits of attention heads in a forward pass of a batch of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tracer.errors import InterventionError
from tracer.interventions.edit_rows import EditedRow
from tracer.model.bridge import Hook
from tracer.model.model import Model


def pattern_hook(layer: int) -> str:
    return f"blocks.{layer}.attn.hook_pattern"


def _score_hook(layer: int) -> str:
    return f"blocks.{layer}.attn.hook_attn_scores"


def check_heads(model: Model, row: EditedRow) -> None:
    """Raise :class:`InterventionError` for an edited head or position that does not exist."""
    for edit in row.scenario.head_edits:
        if not 0 <= edit.layer < model.n_layers:
            raise InterventionError(
                f"layer {edit.layer} does not exist: {model.source.name} has layers 0 to "
                f"{model.n_layers - 1}"
            )
        n_heads = len(model.blocks[edit.layer].W_O)
        if not 0 <= edit.head < n_heads:
            raise InterventionError(
                f"head {edit.head} does not exist: layer {edit.layer} of {model.source.name} has "
                f"heads 0 to {n_heads - 1}"
            )
        if edit.operation == "score":
            edit.positions(row.n_prompt)


def layers_to_capture(rows: Sequence[EditedRow]) -> set[int]:
    """Return the layers whose unedited patterns the edits of heads need."""
    return {
        edit.layer
        for row in rows
        for edit in row.scenario.head_edits
        if edit.operation == "freeze" or (edit.operation == "score" and row.freezes_patterns)
    }


class HeadHooks:
    """The hooks of all edited heads; ``offset`` is the first position of the pass under way."""

    def __init__(
        self, model: Model, rows: Sequence[EditedRow], unedited: Mapping[str, Tensor]
    ) -> None:
        self._unedited, self.offset = unedited, 0
        self._n_prompt = rows[0].n_prompt
        self._off: dict[int, list[tuple[int, int]]] = {}
        self._frozen: dict[int, list[tuple[int, int]]] = {}
        self._scores: dict[int, dict[tuple[int, int, int], dict[int, float]]] = {}
        """By layer: row, head and query, then what is added to the score of each key."""
        self._moved: dict[int, dict[tuple[int, int, int], dict[int, float]]] = {}
        """The same, for rows with frozen attention."""
        for number, row in enumerate(rows):
            for edit in row.scenario.head_edits:
                if edit.operation == "score":
                    query, key = edit.positions(row.n_prompt)
                    kind = self._moved if row.freezes_patterns else self._scores
                    keys = kind.setdefault(edit.layer, {}).setdefault(
                        (number, edit.head, query), {}
                    )
                    keys[key] = keys.get(key, 0.0) + edit.value
                else:
                    places = self._off if edit.operation == "off" else self._frozen
                    places.setdefault(edit.layer, []).append((number, edit.head))
        layers = {*self._off, *self._frozen, *self._moved}
        self.hooks: list[tuple[str, Hook]] = [
            *((_score_hook(layer), self._add_scores(layer)) for layer in sorted(self._scores)),
            *((pattern_hook(layer), self._change_pattern(layer)) for layer in sorted(layers)),
        ]

    def _add_scores(self, layer: int) -> Hook:
        def hook(value: Tensor, hook: Any) -> Tensor:
            if self.offset:
                return value
            value = value.clone()
            for (row, head, query), keys in self._scores[layer].items():
                for key, added in keys.items():
                    value[row, head, query, key] += added
            return value

        return hook

    def _change_pattern(self, layer: int) -> Hook:
        off, frozen = self._off.get(layer, ()), self._frozen.get(layer, ())
        moved = self._moved.get(layer, {})

        def hook(value: Tensor, hook: Any) -> Tensor:
            value = value.clone()
            n = self._n_prompt
            if self.offset < n:
                for row, head in frozen:
                    value[row, head, :n, :n] = self._unedited[hook.name][head]
                    value[row, head, :n, n:] = 0
                for (row, head, query), keys in moved.items():
                    pattern = self._unedited[hook.name][head, query]
                    value[row, head, query, :n] = reweighted(pattern, keys).to(value.dtype)
            for row, head in off:
                value[row, head] = 0
            return value

        return hook


def reweighted(pattern: Tensor, added: Mapping[int, float]) -> Tensor:
    """Return attention weights after numbers were added to the scores of some keys.

    What a sink takes of the sum stays a part of it.

    >>> reweighted(torch.tensor([0.5, 0.5]), {1: 0.0}).tolist()
    [0.5, 0.5]
    """
    weights = pattern.double()
    sink = (1 - weights.sum()).clamp(min=0)
    scores = torch.zeros_like(weights)
    for key, number in added.items():
        scores[key] = number
    top = scores.max().clamp(min=0)
    grown = weights * (scores - top).exp()
    return (grown / (grown.sum() + sink * (-top).exp())).to(pattern.dtype)
