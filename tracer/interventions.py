"""Set features to other values and see what the model says.

The semantics are circuit-tracer 0.5's `feature_intervention`: the model runs as it is, errors
included, and the decoder vector of each edited feature is added to the MLP outputs, scaled by the
difference between the wanted and the present activation. Attention patterns may be held at the
unedited prompt's; inside ``constrained_layers`` MLP outputs are held too, so that edits have only
their direct effects there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tracer.bridge import Hook
from tracer.errors import InterventionError, ModelError
from tracer.frozen import FIRST_POSITION
from tracer.graph import FloatArray
from tracer.models import Model
from tracer.targets import next_tokens
from tracer.types import Intervention, NodeId, TokenProbability


class TokenChange(NamedTuple):
    """Probability of one next token without and with the edits."""

    token: str
    token_id: int
    before: float
    after: float


@dataclass(frozen=True)
class InterventionResult:
    """What the model says without (``baseline``) and with (``edited``) the interventions."""

    prompt: str
    token_ids: tuple[int, ...]
    interventions: tuple[Intervention, ...]
    baseline: tuple[TokenProbability, ...]
    edited: tuple[TokenProbability, ...]
    baseline_logits: FloatArray
    """``(vocab,)`` float32, at the last position."""
    edited_logits: FloatArray
    kl: float
    """Kullback-Leibler divergence from baseline to edited next-token distribution, in nats."""
    activations: Mapping[NodeId, tuple[float, float]] = field(default_factory=dict)
    """Activation of every watched feature before and after."""
    baseline_continuation: str = ""
    edited_continuation: str = ""

    def compare(self, limit: int = 10) -> tuple[TokenChange, ...]:
        """The likeliest tokens of either side, the largest of both probabilities first."""
        before, after = _softmax(self.baseline_logits), _softmax(self.edited_logits)
        names = {entry.token_id: entry.token for entry in (*self.baseline, *self.edited)}
        changes = [
            TokenChange(token, token_id, float(before[token_id]), float(after[token_id]))
            for token_id, token in names.items()
        ]
        changes.sort(key=lambda change: -max(change.before, change.after))
        return tuple(changes[:limit])


def _softmax(logits: FloatArray) -> FloatArray:
    powers: FloatArray = np.exp(logits.astype(np.float64) - logits.max())
    shares: FloatArray = powers / powers.sum()
    return shares


def intervene(
    model: Model,
    prompt: str | Sequence[int],
    interventions: Sequence[Intervention],
    freeze_attention: bool = True,
    constrained_layers: Collection[int] | None = None,
    generate: int = 0,
    watch: Sequence[NodeId] | Literal["all"] = (),
) -> InterventionResult:
    """Run the prompt with features set to given values.

    ``freeze_attention`` holds attention patterns at those of the unedited prompt.
    ``constrained_layers`` also holds MLP outputs there (and all norm scales, when it names every
    layer); edits then count against the unedited activations and write only to those layers.
    ``generate`` adds that many greedily chosen tokens, the edits kept at their positions.
    ``watch`` names features whose activations are to be returned; ``"all"`` returns those of every
    feature that is active before or after.

    Raises :class:`InterventionError` for an edit on something that is not there, or when the edits
    drive the model to numbers that are not finite; and the errors of :meth:`Model.encode`.
    """
    token_ids = model.encode(prompt)
    n_pos = len(token_ids)
    edits = tuple(_checked(model, edit, n_pos) for edit in interventions)
    constrained = _checked_layers(model, constrained_layers)
    room = model.bridge.n_context - n_pos
    if not 0 <= generate <= room:
        raise InterventionError(
            f"{generate} tokens cannot be generated after {n_pos}: {model.source.name} has room "
            f"for {room}"
        )
    ids = torch.tensor(token_ids, device=model.device)
    logits, seen = model.bridge.capture(ids, _names_needed(model, freeze_attention, constrained))
    if not torch.isfinite(logits).all():
        raise ModelError(
            f"{model.source.name} answers with numbers that are not finite before anything is "
            "edited: its weights are damaged"
        )
    run = _EditedRun(model, edits, seen, freeze_attention, constrained)
    edited_logits = run(ids)
    if not torch.isfinite(edited_logits).all():
        raise InterventionError(
            "the edited model answers with numbers that are not finite: use smaller values"
        )
    baseline, edited = logits[-1].float(), edited_logits[-1].float()
    log_before, log_after = baseline.log_softmax(-1), edited.log_softmax(-1)
    if watch == "all":
        watched = _all_activations(model, seen, run.inputs)
    else:
        watched = {
            node: (_activation(model, seen, node), _activation(model, run.inputs, node))
            for node in (_checked_watch(model, node, n_pos) for node in watch)
        }
    return InterventionResult(
        prompt=prompt if isinstance(prompt, str) else "".join(model.token_strings(token_ids)),
        token_ids=token_ids,
        interventions=edits,
        baseline=next_tokens(model, baseline),
        edited=next_tokens(model, edited),
        baseline_logits=baseline.cpu().numpy(),
        edited_logits=edited.cpu().numpy(),
        kl=max(0.0, float((log_before.exp() * (log_before - log_after)).sum())),
        activations=watched,
        baseline_continuation=_continue(model, ids, model.bridge.run, generate),
        edited_continuation=_continue(model, ids, run, generate),
    )


def _checked(model: Model, edit: Intervention, n_pos: int) -> Intervention:
    """The edit with its position counted from the start; raises if it names nothing."""
    if not 0 <= edit.layer < model.n_layers:
        raise InterventionError(
            f"there is no layer {edit.layer}: {model.source.name} has layers 0 to "
            f"{model.n_layers - 1}"
        )
    n_features = model.transcoders[edit.layer].n_features
    if not 0 <= edit.feature < n_features:
        raise InterventionError(
            f"layer {edit.layer} has no feature {edit.feature}: it has features 0 to "
            f"{n_features - 1}"
        )
    if not -n_pos <= edit.position < n_pos:
        raise InterventionError(
            f"there is no position {edit.position}: the prompt has {n_pos} tokens, positions 0 to "
            f"{n_pos - 1}"
        )
    return Intervention(edit.layer, edit.position % n_pos, edit.feature, edit.value)


def _checked_layers(model: Model, layers: Collection[int] | None) -> frozenset[int] | None:
    if layers is None:
        return None
    strangers = sorted(set(layers) - set(range(model.n_layers)))
    if strangers or not layers:
        raise InterventionError(
            f"constrained_layers names {strangers or 'no layer'}: {model.source.name} has layers 0 "
            f"to {model.n_layers - 1}; give None for no constraint"
        )
    return frozenset(layers)


def _checked_watch(model: Model, node: NodeId, n_pos: int) -> NodeId:
    if node.kind != "feature":
        raise InterventionError(f"{node} cannot be watched: only features have activations")
    _checked(model, Intervention(node.layer, node.position, node.index, 0.0), n_pos)
    return node


def _names_needed(
    model: Model, freeze_attention: bool, constrained: frozenset[int] | None
) -> list[str]:
    layers = range(model.n_layers)
    names = [model.read_hook(layer) for layer in layers]
    if freeze_attention or constrained:
        names += [f"blocks.{layer}.attn.hook_pattern" for layer in layers]
    if constrained:
        names += [model.write_hook(layer) for layer in constrained]
        if constrained.issuperset(layers):
            names += _scale_names(model)
    return list(dict.fromkeys(names))


def _scale_names(model: Model) -> list[str]:
    norms = [model.final_norm]
    for block in model.blocks:
        for norm in (block.attn_norm, block.attn_post_norm, block.mlp_norm, block.mlp_post_norm):
            if norm is not None:
                norms.append(norm)
    return [f"{norm.name}.hook_scale" for norm in norms]


def _activation(model: Model, inputs: Mapping[str, Tensor], node: NodeId) -> float:
    if node.position < FIRST_POSITION:
        return 0.0
    x = inputs[model.read_hook(node.layer)][node.position][None]
    return float(model.transcoders[node.layer].activations(x)[0, node.index])


def _all_activations(
    model: Model, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> dict[NodeId, tuple[float, float]]:
    found = {}
    for layer, transcoder in enumerate(model.transcoders.layers):
        name = model.read_hook(layer)
        values = torch.stack([transcoder.activations(run[name]) for run in (before, after)])
        values[:, :FIRST_POSITION] = 0
        position, feature = (values != 0).any(dim=0).nonzero(as_tuple=True)
        pairs = values[:, position, feature].T.tolist()
        for place, pair in zip(
            zip(position.tolist(), feature.tolist(), strict=True), pairs, strict=True
        ):
            found[NodeId("feature", layer, *place)] = (pair[0], pair[1])
    return found


class _EditedRun:
    """A forward pass of the prompt, or of a continuation of it, under the edits."""

    def __init__(
        self,
        model: Model,
        edits: tuple[Intervention, ...],
        unedited: Mapping[str, Tensor],
        freeze_attention: bool,
        constrained: frozenset[int] | None,
    ) -> None:
        self._model = model
        self._unedited = unedited
        self._constrained = constrained
        self._by_layer: dict[int, dict[tuple[int, int], float]] = defaultdict(dict)
        for edit in edits:
            self._by_layer[edit.layer][edit.position, edit.feature] = edit.value
        self._deltas: dict[int, Tensor] = {}
        self.inputs: dict[str, Tensor] = {}
        """What every transcoder read in the latest run."""
        self._hooks: list[tuple[str, Hook]] = []
        layers = range(model.n_layers)
        if freeze_attention or constrained:
            self._hooks += [
                (f"blocks.{layer}.attn.hook_pattern", _hold_pattern(unedited)) for layer in layers
            ]
        if constrained and constrained.issuperset(layers):
            self._hooks += [(name, _hold_rows(unedited)) for name in _scale_names(model)]
        self._hooks += [(model.read_hook(layer), self._read(layer)) for layer in layers]
        self._hooks += [(model.write_hook(layer), self._write(layer)) for layer in layers]

    def __call__(self, token_ids: Tensor) -> Float[Tensor, "pos vocab"]:
        """Final logits at every position."""
        self._deltas.clear()
        return self._model.bridge.run(token_ids, self._hooks)

    def _read(self, layer: int) -> Hook:
        """Note what the transcoder of ``layer`` reads, and work out what its edits add."""
        name = self._model.read_hook(layer)
        transcoder = self._model.transcoders[layer]
        wanted = self._by_layer.get(layer, {})

        def hook(value: Tensor, hook: Any) -> None:
            self.inputs[name] = value[0]
            if not wanted:
                return
            positions = torch.tensor([position for position, _ in wanted], device=value.device)
            features = torch.tensor([feature for _, feature in wanted], device=value.device)
            source = self._unedited[name] if self._constrained else value[0]
            present = transcoder.activations(source[positions])
            present = present[torch.arange(len(features)), features]
            present = torch.where(positions < FIRST_POSITION, 0, present)
            change = torch.tensor(list(wanted.values()), device=value.device).to(present) - present
            written = transcoder.decoder_vectors(features) * change[:, None, None]
            for step, output in enumerate(transcoder.output_layers):
                if output not in self._deltas:
                    self._deltas[output] = torch.zeros_like(value[0], dtype=written.dtype)
                self._deltas[output].index_add_(0, positions, written[:, step])

        return hook

    def _write(self, layer: int) -> Hook:
        """Add the edits' decoder vectors to the MLP output, held first where it is constrained."""
        name, held = self._model.write_hook(layer), layer in (self._constrained or ())
        transcoder = self._model.transcoders[layer]
        read_name = self._model.read_hook(layer)

        def hook(value: Tensor, hook: Any) -> Tensor:
            if held:
                frozen = self._unedited[name]
                value = value.clone()
                value[0, : len(frozen)] = frozen
                if transcoder.W_skip is not None:
                    # A skip is linear, hence part of the direct effects: only features are held.
                    moved = self.inputs[read_name][: len(frozen)] - self._unedited[read_name]
                    value[0, : len(frozen)] += transcoder.skipped(moved)
            if layer in self._deltas and (held or not self._constrained):
                value = value + self._deltas[layer].to(value.dtype)
            return value

        return hook


def _hold_pattern(unedited: Mapping[str, Tensor]) -> Hook:
    """Keep the prompt's own attention pattern; rows of generated tokens are left alone."""

    def hook(value: Tensor, hook: Any) -> Tensor:
        pattern = unedited[hook.name]
        n_pos = pattern.shape[-1]
        value = value.clone()
        value[0, :, :n_pos, :n_pos] = pattern
        value[0, :, :n_pos, n_pos:] = 0
        return value

    return hook


def _hold_rows(unedited: Mapping[str, Tensor]) -> Hook:
    def hook(value: Tensor, hook: Any) -> Tensor:
        rows = unedited[hook.name]
        value = value.clone()
        value[0, : len(rows)] = rows
        return value

    return hook


def _continue(model: Model, token_ids: Tensor, run: Any, count: int) -> str:
    """The next ``count`` tokens, each time the likeliest, as text."""
    ids, chosen = token_ids, []
    for _ in range(count):
        token = run(ids)[-1].argmax()
        chosen.append(int(token))
        if chosen[-1] == model.bridge.tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, token[None].to(ids)])
    return "".join(model.token_strings(chosen))
