"""A forward pass of a batch of rows, each under its own edits.

The semantics are those of circuit-tracer 0.5's `feature_intervention`: the model itself runs, error
nodes included, and the decoder vector of each edited feature is added to the MLP outputs, scaled by
the difference between the wanted and the present activation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tracer.errors import ModelError
from tracer.interventions.edit_rows import (
    EditedRow,
    EditGroup,
    edited_features,
    persistent_groups,
    prompt_groups,
)
from tracer.interventions.feature_rows import FeatureRows, on_device
from tracer.interventions.head_hooks import HeadHooks, layers_to_capture, pattern_hook
from tracer.interventions.watching import Watch
from tracer.model.bridge import Hook
from tracer.model.model import Model


def names_to_capture(model: Model, rows: Sequence[EditedRow]) -> list[str]:
    """Return the hook points whose unedited values the rows need."""
    layers = range(model.n_layers)
    constrained = frozenset[int]().union(*(row.constrained for row in rows))
    with_skip = {layer for layer in constrained if model.transcoders[layer].W_skip is not None}
    edited = frozenset[int]().union(*(row.layers for row in rows))
    names = [model.read_hook(layer) for layer in sorted(edited | with_skip)]
    frozen = set(layers) if any(row.freezes_patterns for row in rows) else layers_to_capture(rows)
    names += [pattern_hook(layer) for layer in sorted(frozen)]
    names += [model.write_hook(layer) for layer in sorted(constrained)]
    if any(row.freezes_norms(layers) for row in rows):
        names += scale_names(model)
    return list(dict.fromkeys(names))


def scale_names(model: Model) -> list[str]:
    """Return the hook points of all norm scales.

    Those of the query and key norms are included: with frozen patterns they change nothing within
    the prompt, but generated tokens attend to the keys.
    """
    names = [model.final_norm.name]
    for block in model.blocks:
        for norm in (block.attn_norm, block.attn_post_norm, block.mlp_norm, block.mlp_post_norm):
            if norm is not None:
                names.append(norm.name)
        names += block.query_key_norms
    return [f"{name}.hook_scale" for name in names]


def keep_last_position(value: Float[Tensor, "rows pos d_model"], hook: Any) -> Tensor:
    """Drop all positions but the last before the unembedding: their logits are never read."""
    return value[:, -1:]


LAST_LOGITS = ("unembed.hook_in", keep_last_position)
"""A hook under which a pass returns logits of shape ``(rows, 1, vocab)``."""


def capture_unedited(
    model: Model, token_ids: Int[Tensor, " pos"], names: Iterable[str], watch: Watch | None = None
) -> tuple[Float[Tensor, " vocab"], dict[str, Tensor]]:
    """Run the prompt without edits: logits at the last position, and the values at ``names``.

    The values have no batch axis. Raises :class:`ModelError` when the architecture lacks one of the
    hook points.
    """
    captured: dict[str, Tensor] = {}

    def keep(name: str) -> Hook:
        def hook(value: Tensor, hook: Any) -> None:
            captured[name] = value[0]

        return hook

    names = list(names)
    hooks: list[tuple[str, Hook]] = [(name, keep(name)) for name in names]
    if watch is not None:
        hooks += [(model.read_hook(layer), _watching(watch, layer)) for layer in watch.layers]
    logits = model.bridge.run_batch(token_ids[None], [*hooks, LAST_LOGITS])
    missing = [name for name in names if name not in captured]
    if missing:
        raise ModelError(
            f"the model has no hook point {missing[0]}: its architecture is not supported"
        )
    return logits[0, -1], captured


def _watching(watch: Watch, layer: int) -> Hook:
    def hook(value: Tensor, hook: Any) -> None:
        watch.read(layer, value)

    return hook


class EditedRun:
    """Runs the prompt, and the tokens generated after it, one row per scenario.

    ``unedited`` are the captured values of :func:`names_to_capture`, without a batch axis;
    ``features`` those of :func:`edited_features`, for these rows or for more. ``watch`` reads each
    pass over the prompt.
    """

    def __init__(
        self,
        model: Model,
        rows: Sequence[EditedRow],
        unedited: Mapping[str, Tensor],
        features: Mapping[int, FeatureRows] | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._model, self._unedited, self._watch = model, unedited, watch
        self._n_rows, self.n_prompt = len(rows), rows[0].n_prompt
        self._features = edited_features(model, rows) if features is None else features
        self._at_prompt = prompt_groups(rows, self._features, model.device)
        self._persistent = persistent_groups(rows, self._features, model.device)
        self._offset = 0
        self._inputs: dict[int, Tensor] = {}
        """Transcoder inputs of the pass under way, where a skip connection needs them."""
        self._changes: dict[int, list[tuple[EditGroup, Tensor]]] = {}
        """Edits of the pass under way, by layer, with how much each changes its activation."""

        layers = range(model.n_layers)
        self._index = on_device(
            {
                "patterns": [i for i, row in enumerate(rows) if row.freezes_patterns],
                "norms": [i for i, row in enumerate(rows) if row.freezes_norms(layers)],
                **{
                    ("constrained", layer): [
                        i for i, row in enumerate(rows) if layer in row.constrained
                    ]
                    for layer in layers
                },
                **{
                    ("writable", layer): [
                        not row.constrained or layer in row.constrained for row in rows
                    ]
                    for layer in layers
                },
            },
            model.device,
        )
        self._heads = HeadHooks(model, rows, unedited)
        self.hooks = self._all_hooks()

    def _all_hooks(self) -> list[tuple[str, Hook]]:
        model, layers = self._model, range(self._model.n_layers)
        hooks: list[tuple[str, Hook]] = [LAST_LOGITS]
        if len(self._index["patterns"]):
            hooks += [(pattern_hook(layer), self._freeze_pattern) for layer in layers]
        hooks += self._heads.hooks
        if len(self._index["norms"]):
            hooks += [(name, self._freeze_scale) for name in scale_names(model)]
        edited = {*self._at_prompt, *self._persistent}
        frozen = {layer for layer in layers if len(self._index["constrained", layer])}
        with_skip = {layer for layer in frozen if model.transcoders[layer].W_skip is not None}
        watched = set(self._watch.layers) if self._watch is not None else set()
        written = {output for layer in edited for output in model.transcoders[layer].output_layers}
        for layer in sorted(edited | with_skip | watched):
            hooks.append((model.read_hook(layer), self._read(layer, layer in with_skip)))
        for layer in sorted(written | frozen):
            hooks.append((model.write_hook(layer), self._write(layer)))
        return hooks

    def __len__(self) -> int:
        return self._n_rows

    def __call__(self, token_ids: Int[Tensor, " pos"]) -> Float[Tensor, "rows 1 vocab"]:
        """Run the prompt, or a text that begins with it, in every row: the last logits."""
        self._start(0)
        return self._model.bridge.run_batch(token_ids.expand(self._n_rows, -1), self.hooks)

    def step(
        self, token_ids: Int[Tensor, "rows pos"], offset: int, cache: Any
    ) -> tuple[Float[Tensor, "rows 1 vocab"], Any]:
        """Run tokens from position ``offset`` on: the last logits, and the extended cache.

        The first pass has offset 0 and covers at least the prompt.
        """
        self._start(offset)
        return self._model.bridge.step(token_ids, self.hooks, cache)

    def _start(self, offset: int) -> None:
        self._offset = self._heads.offset = offset
        self._inputs.clear()
        self._changes.clear()

    def _n_inside(self, n_pos: int) -> int:
        """Return how many of the pass's ``n_pos`` positions are part of the prompt."""
        return max(0, min(self.n_prompt - self._offset, n_pos))

    def _read(self, layer: int, with_skip: bool) -> Hook:
        """Read what the transcoder of ``layer`` reads, and compute what its edits change."""
        watch = self._watch if self._watch is not None and layer in self._watch.layers else None

        def hook(value: Tensor, hook: Any) -> None:
            n_pos = value.shape[1]
            n_inside = self._n_inside(n_pos)
            if with_skip:
                self._inputs[layer] = value
            if watch is not None and n_inside:
                watch.read(layer, value[:, :n_inside])
            if n_inside:
                for group in self._at_prompt.get(layer, ()):
                    if group.unedited is None:
                        group.unedited = self._unedited_activations(layer, group)
                    self._add_change(layer, group, value, 0)
            if n_inside < n_pos:
                for group in self._persistent.get(layer, ()):
                    later = _repeated(group, n_inside, n_pos)
                    self._add_change(layer, later, value, self._offset)

        return hook

    def _unedited_activations(self, layer: int, group: EditGroup) -> Float[Tensor, " edits"]:
        x = self._unedited[self._model.read_hook(layer)][group.columns]
        return self._zero_at_start(self._features[layer].activations(x, group.numbers), group, 0)

    def _add_change(self, layer: int, group: EditGroup, value: Tensor, offset: int) -> None:
        x = value[group.rows, group.columns]
        present = self._features[layer].activations(x, group.numbers)
        change = group.change(self._zero_at_start(present, group, offset))
        self._changes.setdefault(layer, []).append((group, change))

    def _zero_at_start(
        self, active: Tensor, group: EditGroup, offset: int
    ) -> Float[Tensor, " edits"]:
        """Set activations to zero at the first positions, which have no features."""
        first = self._model.first_position - offset
        return active if first <= 0 else torch.where(group.columns < first, 0, active)

    def _write(self, layer: int) -> Hook:
        """Freeze the MLP output where it is constrained, and add the edits' decoder vectors.

        Constraints cover the prompt alone: generated tokens run freely, and edits of them write to
        all layers.
        """
        constrained = self._index["constrained", layer]
        writable = self._index["writable", layer].bool()
        sources = [
            (source, layer - source)
            for source in self._features
            if layer in self._model.transcoders[source].output_layers
        ]

        def hook(value: Tensor, hook: Any) -> Tensor | None:
            n_inside = self._n_inside(value.shape[1])
            frozen = bool(len(constrained) and n_inside)
            edited = any(source in self._changes for source, _ in sources)
            if not frozen and not edited:
                return None
            value = value.clone()
            if frozen:
                self._freeze_output(value[:, :n_inside], layer, constrained)
            if not edited:
                return value
            delta = torch.zeros_like(value, dtype=torch.float32)
            for source, output in sources:
                for group, change in self._changes.get(source, ()):
                    amount = change
                    if group.constrained is not None:
                        amount = torch.where(writable[group.rows], change, 0)
                    added = self._features[source].written(output, group.numbers, amount)
                    delta.index_put_((group.rows, group.columns), added, accumulate=True)
            return value.add_(delta.to(value.dtype))

        return hook

    def _freeze_output(self, value: Tensor, layer: int, rows: Tensor) -> None:
        """Set rows of the prompt's MLP output to the unedited one, in place."""
        part = slice(self._offset, self._offset + value.shape[1])
        frozen = self._unedited[self._model.write_hook(layer)][part]
        if (inputs := self._inputs.get(layer)) is not None:
            # A skip connection is linear and part of the direct effects: only features are frozen.
            before = self._unedited[self._model.read_hook(layer)][part]
            moved = inputs[rows, : value.shape[1]] - before
            frozen = frozen + self._model.transcoders[layer].skipped(moved)
        value[rows] = frozen.to(value.dtype)

    def _freeze_pattern(self, value: Tensor, hook: Any) -> Tensor:
        """Keep the prompt's own attention pattern; generated tokens attend freely."""
        if self._offset >= self.n_prompt:
            return value
        rows, pattern, n_pos = self._index["patterns"], self._unedited[hook.name], self.n_prompt
        if len(rows) == len(value) and value.shape[-1] == n_pos:
            return pattern.expand_as(value)
        value = value.clone()
        value[rows, :, :n_pos, :n_pos] = pattern
        value[rows, :, :n_pos, n_pos:] = 0
        return value

    def _freeze_scale(self, value: Tensor, hook: Any) -> Tensor:
        """Keep the norm scales of the prompt."""
        if self._offset >= self.n_prompt:
            return value
        value = value.clone()
        value[self._index["norms"], ..., : self.n_prompt, :] = self._unedited[hook.name]
        return value


def _repeated(group: EditGroup, start: int, stop: int) -> EditGroup:
    """Return the edits of one generated token repeated at columns ``start`` to ``stop - 1``."""
    if (start, stop) == (0, 1):
        return group
    count, n_edits = stop - start, len(group.rows)
    columns = torch.arange(start, stop, device=group.rows.device).repeat_interleave(n_edits)
    rows, numbers, factor, constant = (
        part.repeat(count) for part in (group.rows, group.numbers, group.factor, group.constant)
    )
    return EditGroup(rows, columns, numbers, factor, constant, None)
