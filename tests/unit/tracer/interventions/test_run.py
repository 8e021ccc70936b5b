"""An intervention does what it says, checked against decoder vectors added by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tiny
import torch

import tracer
from tracer.errors import InterventionError
from tracer.model.model import Model
from tracer.types import Intervention, NodeId


def strongest_feature(model: Model) -> NodeId:
    pruned = tracer.prune(tracer.trace(model, tiny.PROMPT))
    rows = [row for row in pruned.rows if row < pruned.graph.index.n_features]
    return pruned.graph.index.node(int(max(rows, key=lambda row: pruned.influence[row])))


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
    node = strongest_feature(model)
    result = tracer.intervene(
        model,
        tiny.PROMPT,
        [Intervention(node.layer, node.position, node.index, 3.0)],
        freeze_attention=freeze,
        watch=[node],
    )
    ids = torch.tensor(model.encode(tiny.PROMPT))
    patterns = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.n_layers)]
    _, captured = model.bridge.capture(ids, patterns)
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
        hooks += [(name, lambda value, hook: captured[hook.name][None]) for name in patterns]
    expected = model.bridge.run(ids, hooks)[-1]
    assert torch.tensor(result.edited_logits) == pytest.approx(expected, abs=1e-4)
    assert result.kl > 1e-4


def test_two_edits_of_one_layer_add_up_and_a_negative_position_is_the_last(model: Model) -> None:
    last = len(model.encode(tiny.PROMPT)) - 1
    first, second = Intervention(2, last, 3, 4.0), Intervention(2, -1, 5, -2.0)
    assert tracer.intervene(model, tiny.PROMPT, []).kl == 0.0
    ids = torch.tensor(model.encode(tiny.PROMPT))
    _, captured = model.bridge.capture(ids, [model.read_hook(2)])
    active = model.transcoders[2].activations(captured[model.read_hook(2)])[last]
    added = (4.0 - active[3]) * model.transcoders[2].W_dec[3, 0]
    added = added + (-2.0 - active[5]) * model.transcoders[2].W_dec[5, 0]

    def hook(value: torch.Tensor, hook: object) -> torch.Tensor:
        value = value.clone()
        value[0, -1] += added
        return value

    expected = model.bridge.run(ids, [(model.write_hook(2), hook)])[-1]
    result = tracer.intervene(model, tiny.PROMPT, [first, second])
    assert torch.tensor(result.edited_logits) == pytest.approx(expected, abs=1e-4)
    assert [edit.position for edit in result.interventions] == [last, last]


def test_direct_effects_predict_fully_constrained_edits(open_tiny: Callable[..., Model]) -> None:
    """With every layer frozen, switching a feature off moves a logit by minus its edge."""
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


def test_the_comparison_covers_the_top_tokens_of_both_sides(model: Model) -> None:
    node = strongest_feature(model)
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
    assert result.kl == pytest.approx(divergence, rel=1e-9)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Intervention(9, 1, 0, 0.0), "layer 9 does not exist: .* has layers 0 to 2"),
        (Intervention(-1, 1, 0, 0.0), "layer -1 does not exist"),
        (Intervention(0, 6, 0, 0.0), "position 6 does not exist: the prompt has 6 tokens"),
        (Intervention(0, -7, 0, 0.0), "position -7 does not exist"),
        (Intervention(0, 1, 24, 0.0), "layer 0 has no feature 24: it has features 0 to 23"),
    ],
)
def test_an_edit_of_something_that_does_not_exist_is_refused(
    model: Model, edit: Intervention, message: str
) -> None:
    with pytest.raises(InterventionError, match=message):
        tracer.intervene(model, tiny.PROMPT, [edit])


def test_values_and_options_that_cannot_work_are_refused(model: Model) -> None:
    with pytest.raises(InterventionError, match="finite"):
        Intervention(0, 1, 0, float("nan"))
    with pytest.raises(InterventionError, match="edited: the edited model produces NaN or Inf"):
        tracer.intervene(model, tiny.PROMPT, [Intervention(0, 1, 0, 1e39)])
    with pytest.raises(InterventionError, match=r"constrained_layers contains \[7\]"):
        tracer.intervene(model, tiny.PROMPT, [], constrained_layers=[1, 7])
    with pytest.raises(InterventionError, match="constrained_layers contains no layers"):
        tracer.intervene(model, tiny.PROMPT, [], constrained_layers=[])
    with pytest.raises(InterventionError, match=r"cannot generate 11 tokens .* room for 10"):
        tracer.intervene(model, tiny.PROMPT, [], generate=11)
