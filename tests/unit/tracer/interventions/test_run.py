"""Edits do what they say: against the decoder vectors added by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tiny
import torch

import tracer
from tracer.errors import InterventionError
from tracer.model.model import Model
from tracer.types import Intervention, NodeId


def strongest(model: Model, count: int = 3) -> list[NodeId]:
    pruned = tracer.prune(tracer.trace(model, tiny.PROMPT))
    rows = [row for row in pruned.rows if row < pruned.graph.index.n_features]
    rows.sort(key=lambda row: -pruned.influence[row])
    return [pruned.graph.index.node(int(row)) for row in rows[:count]]


def test_setting_a_feature_to_its_own_activation_changes_nothing(model: Model) -> None:
    graph = tracer.trace(model, tiny.PROMPT)
    edits = [
        Intervention(*(int(x) for x in place), float(value))
        for place, value in zip(graph.features[:8], graph.activations[:8], strict=True)
    ]
    result = tracer.intervene(model, tiny.PROMPT, edits)
    assert result.kl == pytest.approx(0, abs=1e-6)
    assert result.edited_logits == pytest.approx(result.baseline_logits, abs=1e-4)


@pytest.mark.parametrize("kind", ["transcoder_set", "cross_layer_transcoder"])
@pytest.mark.parametrize("freeze", [True, False])
def test_an_edit_adds_its_decoder_vectors_to_the_mlp_outputs(
    open_tiny: Callable[..., Model], kind: str, freeze: bool
) -> None:
    model = open_tiny(kind=kind)
    node = strongest(model)[0]
    result = tracer.intervene(
        model,
        tiny.PROMPT,
        [Intervention(node.layer, node.position, node.index, 3.0)],
        freeze_attention=freeze,
        watch=[node],
    )
    ids = torch.tensor(model.encode(tiny.PROMPT))
    patterns = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.n_layers)]
    _, seen = model.bridge.capture(ids, patterns)
    transcoder = model.transcoders[node.layer]
    activation = result.activations[node][0]

    def add(step: int):
        def hook(value: torch.Tensor, hook: object) -> torch.Tensor:
            value = value.clone()
            value[0, node.position] += (3.0 - activation) * transcoder.W_dec[node.index, step]
            return value

        return hook

    hooks = [
        (model.write_hook(layer), add(step)) for step, layer in enumerate(transcoder.output_layers)
    ]
    if freeze:
        hooks += [(name, lambda value, hook: seen[hook.name][None]) for name in patterns]
    expected = model.bridge.run(ids, hooks)[-1]
    assert torch.tensor(result.edited_logits) == pytest.approx(expected, abs=1e-4)
    assert result.kl > 1e-4


def test_several_edits_and_a_negative_position(model: Model) -> None:
    """Two edits of one layer at once are the sum of both; -1 is the last token."""
    last = len(model.encode(tiny.PROMPT)) - 1
    one, two = Intervention(2, last, 3, 4.0), Intervention(2, -1, 5, -2.0)
    base = tracer.intervene(model, tiny.PROMPT, [])
    assert base.kl == 0.0
    ids = torch.tensor(model.encode(tiny.PROMPT))
    name = model.write_hook(2)
    _, seen = model.bridge.capture(ids, [model.read_hook(2)])
    active = model.transcoders[2].activations(seen[model.read_hook(2)])[last]
    added = (4.0 - active[3]) * model.transcoders[2].W_dec[3, 0]
    added = added + (-2.0 - active[5]) * model.transcoders[2].W_dec[5, 0]

    def hook(value: torch.Tensor, hook: object) -> torch.Tensor:
        value = value.clone()
        value[0, -1] += added
        return value

    expected = model.bridge.run(ids, [(name, hook)])[-1]
    both = tracer.intervene(model, tiny.PROMPT, [one, two])
    assert torch.tensor(both.edited_logits) == pytest.approx(expected, abs=1e-4)


def test_direct_effects_predict_fully_constrained_edits(
    open_tiny: Callable[..., Model],
) -> None:
    """With every layer held, switching a feature off moves a logit by exactly minus its edge."""
    model = open_tiny("gpt2")
    graph = tracer.trace(model, tiny.PROMPT, targets=["w3", "w4"])
    dense = graph.to_dense()
    for row in range(0, graph.index.n_features, 9):
        layer, position, feature = (int(x) for x in graph.features[row])
        result = tracer.intervene(
            model,
            tiny.PROMPT,
            [Intervention(layer, position, feature, 0.0)],
            constrained_layers=range(model.n_layers),
        )
        moved = result.edited_logits - result.baseline_logits
        w3, w4 = (target.token_ids[0] for target in graph.targets)
        rows = graph.index.logit_rows
        expected = dense[rows.start, row] - dense[rows.start + 1, row]
        assert moved[w3] - moved[w4] == pytest.approx(-float(expected), abs=1e-4)


def test_probabilities_before_and_after_cover_both_tops(model: Model) -> None:
    node = strongest(model)[0]
    edit = Intervention(node.layer, node.position, node.index, 12.0)
    result = tracer.intervene(model, tiny.PROMPT, [edit])
    changes = {change.token_id: change for change in result.compare(limit=100)}
    for entry in result.baseline:
        assert changes[entry.token_id].before == pytest.approx(entry.probability, abs=1e-5)
    for entry in result.edited:
        assert changes[entry.token_id].after == pytest.approx(entry.probability, abs=1e-5)
    before = torch.tensor(result.baseline_logits).double().softmax(0)
    after = torch.tensor(result.edited_logits).double().softmax(0)
    divergence = float((before * (before.log() - after.log())).sum())
    assert result.kl == pytest.approx(divergence, rel=1e-3)


def test_a_continuation_is_the_greedy_one(model: Model) -> None:
    result = tracer.intervene(model, tiny.PROMPT, [], generate=3)
    ids = list(model.encode(tiny.PROMPT))
    words = []
    for _ in range(3):
        ids.append(int(model.bridge.run(torch.tensor(ids))[-1].argmax()))
        words.append(model.token_string(ids[-1]))
    assert result.baseline_continuation == "".join(words) == result.edited_continuation


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (Intervention(9, 1, 0, 0.0), "layer 9"),
        (Intervention(-1, 1, 0, 0.0), "layer -1"),
        (Intervention(0, 6, 0, 0.0), "position 6"),
        (Intervention(0, -7, 0, 0.0), "position -7"),
        (Intervention(0, 1, 24, 0.0), "feature 24"),
    ],
)
def test_an_edit_on_something_that_is_not_there_is_named(
    model: Model, edit: Intervention, named: str
) -> None:
    with pytest.raises(InterventionError, match=named):
        tracer.intervene(model, tiny.PROMPT, [edit])


def test_values_that_are_no_numbers_or_blow_up_are_refused(model: Model) -> None:
    with pytest.raises(InterventionError, match="finite"):
        Intervention(0, 1, 0, float("nan"))
    with pytest.raises(InterventionError, match="finite"):
        tracer.intervene(model, tiny.PROMPT, [Intervention(0, 1, 0, 1e39)])
    with pytest.raises(InterventionError, match=r"\[7\]"):
        tracer.intervene(model, tiny.PROMPT, [], constrained_layers=[1, 7])
    with pytest.raises(InterventionError, match="room for 10"):
        tracer.intervene(model, tiny.PROMPT, [], generate=11)
