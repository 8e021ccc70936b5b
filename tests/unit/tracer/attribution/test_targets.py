"""The targets of a graph: tokens, contrasts, directions and features."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

import tracer
from tracer.errors import TargetError
from tracer.model.model import Model
from tracer.types import Contrast, Direction, FeatureTarget, NodeId


def first_row(graph: tracer.AttributionGraph) -> torch.Tensor:
    rows = graph.index.logit_rows
    return graph.to_dense()[rows.start, : rows.start]


def test_a_direction_is_not_centred(model: Model) -> None:
    """The difference of two unembedding columns gives the contrast of their tokens."""
    columns = model.unembedding
    vector = columns[:, model.token_id("w3")] - columns[:, model.token_id("w4")]
    direction = Direction("w3 over w4", tuple(vector.tolist()))
    named = tracer.trace(model, tiny.PROMPT, targets=[direction])
    contrast = tracer.trace(model, tiny.PROMPT, targets=[Contrast("w3", "w4")])
    assert torch.allclose(first_row(named), first_row(contrast), atol=1e-5)
    assert named.targets[0].label == "w3 over w4" and named.targets[0].probability == 1.0


def test_a_target_feature_has_the_same_row_as_in_any_graph(model: Model) -> None:
    complete = tracer.trace(model, tiny.PROMPT)
    row = max(range(complete.index.n_features), key=lambda i: complete.features[i, 0])
    layer, position, feature = (int(x) for x in complete.features[row])
    n_pos = len(complete.tokens)
    target = FeatureTarget(layer, position - n_pos, feature)
    graph = tracer.trace(model, tiny.PROMPT, targets=[target])
    assert torch.allclose(first_row(graph), complete.to_dense()[row, : len(first_row(graph))])
    assert graph.targets[0].feature == NodeId("feature", layer, position, feature)
    pruned = tracer.prune(graph)
    above = graph.index.layers[pruned.rows] >= layer
    shown = graph.index.layers[pruned.rows][above]
    assert (shown == graph.n_layers).all(), "nothing at its layer or above has an effect"


def test_targets_of_several_kinds_keep_their_rows(model: Model) -> None:
    complete = tracer.trace(model, tiny.PROMPT, targets=["w3"])
    layer, position, feature = (int(x) for x in complete.features[-1])
    mixed = tracer.trace(
        model,
        tiny.PROMPT,
        targets=[FeatureTarget(layer, position, feature, weight=0.5), "w3", Contrast("w3", "w4")],
        batch_size=1,
    )
    assert [target.probability for target in mixed.targets][2] == 0.5
    rows = mixed.index.logit_rows
    actual = mixed.to_dense()[rows, : rows.start]
    dense = complete.to_dense()
    assert torch.allclose(actual[0], first_row(complete), atol=1e-6)
    last = complete.index.n_features - 1
    assert torch.allclose(actual[2], dense[last, : rows.start], atol=1e-6)
    assert len({mixed.index.node(row) for row in range(rows.start, rows.stop)}) == 3


def test_targets_survive_saving(model: Model, tmp_path: Path) -> None:
    features = tracer.trace(model, tiny.PROMPT).features[-1]
    target = FeatureTarget(*(int(x) for x in features))
    graph = tracer.trace(model, tiny.PROMPT, targets=[target, Contrast("w3", "w4")])
    graph.save(tmp_path / "graph")
    assert tracer.load_graph(tmp_path / "graph").targets == graph.targets


@pytest.mark.parametrize(
    ("target", "named"),
    [
        (Direction("short", (1.0, 2.0)), "has 2 numbers: expected 32"),
        (Direction("damaged", (float("nan"),) * 32), "finite"),
        (Direction("light", (1.0,) * 32, weight=0.0), "weight 0.0"),
        (FeatureTarget(0, 0, 3), "not active at position 0"),
        (FeatureTarget(9, 1, 3), "layers 0 to 2"),
        (FeatureTarget(0, -9, 3), "position -9"),
    ],
)
def test_an_invalid_target_is_named(
    model: Model, target: Direction | FeatureTarget, named: str
) -> None:
    with pytest.raises(TargetError, match=named):
        tracer.trace(model, tiny.PROMPT, targets=[target])
