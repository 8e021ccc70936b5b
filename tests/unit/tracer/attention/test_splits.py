"""Every split of a node's input adds up, on all families, to what the model itself computes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tiny
import torch
from attention_sets import SETS, relative

import tracer
from tracer import NodeId
from tracer.attention.results import HeadSplit
from tracer.attention.split import feature_start, split_node, start_of
from tracer.attribution.cuts import CutModel
from tracer.errors import AttentionError
from tracer.graph.graph import AttributionGraph
from tracer.model.model import Model


def row_of(graph: AttributionGraph, node: NodeId) -> np.ndarray:
    """Return a node's edges, one for each node that can be a source."""
    row = graph.index.row(node)
    edges = slice(graph.indptr[row], graph.indptr[row + 1])
    dense = np.zeros(graph.index.logit_rows.start)
    dense[graph.sources[edges]] = graph.weights[edges]
    return dense


def model_value(model: Model, graph: AttributionGraph, node: NodeId) -> float:
    """Return what the model computes where a node reads: a pre-activation, or a centred logit."""
    ids = torch.tensor(graph.token_ids)
    if node.kind == "feature":
        hook = model.read_hook(node.layer)
        _, captured = model.bridge.capture(ids, [hook])
        x = captured[hook][node.position : node.position + 1]
        return float(model.transcoders[node.layer].preactivations(x)[0, node.index])
    _, captured = model.bridge.capture(ids, ["ln_final.hook_out"])
    direction = model.unembedding[:, node.index] - model.mean_unembedding
    return float(captured["ln_final.hook_out"][-1] @ direction)


def assert_splits_add_up(split: HeadSplit) -> None:
    heads = split.direct + split.last_head.sum(axis=(0, 1))
    assert relative(heads, split.weights) < 1e-5
    assert relative(split.direct + split.first_head.sum(axis=(0, 1)), split.weights) < 1e-5
    assert relative(split.hops.sum(axis=0), split.weights) < 1e-5
    assert relative(split.hops[0], split.direct) < 1e-5
    assert relative(split.moved.sum(axis=2), split.last_head.sum(axis=2)) < 1e-5


@pytest.mark.parametrize("transcoders", SETS)
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_splits_add_up_to_the_row_and_the_row_to_the_value(
    open_tiny: Callable[..., Model], architecture: str, transcoders: str
) -> None:
    model = open_tiny(architecture, **SETS[transcoders])
    graph = tracer.trace(model, tiny.IDS, max_logits=2)
    cuts = CutModel(model, graph.token_ids)
    last_feature = graph.index.node(graph.index.n_features - 1)
    middle = next(
        graph.index.node(row)
        for row in reversed(range(graph.index.n_features))
        if graph.features[row][0] == 1
    )
    for node in (last_feature, middle, graph.index.node(graph.index.logit_rows.start)):
        split = split_node(cuts, start_of(cuts, graph, node), node)
        assert relative(split.weights[split.sources.columns(graph)], row_of(graph, node)) < 1e-5
        assert_splits_add_up(split)
        value = model_value(model, graph, node)
        assert abs(split.value - value) < 1e-5 * np.abs(split.weights).sum()


@pytest.mark.parametrize("architecture", ["llama", "neox", "gemma2"])
@pytest.mark.parametrize("read", ["ln2.hook_normalized", "hook_resid_mid"])
def test_splits_add_up_at_every_read_point(
    open_tiny: Callable[..., Model], architecture: str, read: str
) -> None:
    model = open_tiny(architecture, read=read, **SETS["per-layer"])
    graph = tracer.trace(model, tiny.IDS, max_logits=1)
    node = graph.index.node(graph.index.n_features - 1)
    split = tracer.split_by_head(model, graph, node)
    assert_splits_add_up(split)
    value = model_value(model, graph, node)
    assert abs(split.value - value) < 1e-5 * np.abs(split.weights).sum()


def test_an_inactive_feature_is_explained_as_well(model: Model) -> None:
    """The sources and the biases add up for every pre-activation, whether it is active or not."""
    ids = model.encode(tiny.PROMPT)
    cuts = CutModel(model, ids)
    active = {tuple(row) for row in cuts.frozen.host_features.tolist()}
    layer, position = 2, 4
    inactive = next(f for f in range(24) if (layer, position, f) not in active)
    graph = tracer.trace(model, tiny.PROMPT, targets=["w3"])
    node = NodeId("feature", layer, position, inactive)
    split = split_node(cuts, feature_start(cuts, node), node)
    value = model_value(model, graph, node)
    assert value < 0.5
    assert abs(split.value - value) < 1e-5 * np.abs(split.weights).sum()


@pytest.mark.parametrize("transcoders", SETS)
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_what_a_source_adds_is_the_same_at_every_cut(
    open_tiny: Callable[..., Model], architecture: str, transcoders: str
) -> None:
    """The forward sweep and the backward walk meet anywhere, above all that the source writes."""
    model = open_tiny(architecture, **SETS[transcoders])
    graph = tracer.trace(model, tiny.IDS, max_logits=1)
    cuts = CutModel(model, graph.token_ids)
    node = graph.index.node(graph.index.logit_rows.start)
    start = start_of(cuts, graph, node)
    gradients: dict[int, torch.Tensor] = {}

    def keep(layer: int, gradient: torch.Tensor) -> torch.Tensor:
        gradients[layer] = gradient.clone()
        return cuts.attention(layer, gradient)

    row = cuts.effects([start.seeds], keep)[0]
    for column in (*range(0, cuts.n_columns - 12, 9), *range(cuts.n_columns - 12, cuts.n_columns)):
        swept = cuts.sweep(cuts.written(column))
        at_output = swept.dot(start.seeds.cut, start.seeds.gradients[:, 0])
        assert torch.isclose(at_output, row[column], atol=1e-5 * float(row.abs().sum()))
    token = graph.index.token_rows.start - graph.index.n_features + len(cuts.frozen.features) + 2
    swept = cuts.sweep(cuts.written(token))
    for layer, gradient in gradients.items():
        if not model.blocks[layer].parallel:
            met = swept.dot(2 * layer + 1, gradient[:, 0])
            assert torch.isclose(met, row[token], atol=1e-5 * float(row.abs().sum()))


def test_shares_of_carriers_and_hops_add_up(model: Model) -> None:
    graph = tracer.trace(model, tiny.PROMPT, max_logits=1)
    split = tracer.split_by_head(model, graph, graph.index.node(graph.index.logit_rows.start))
    carriers = split.carried_by()
    assert sum(carrier.weight for carrier in carriers) == pytest.approx(split.value, rel=1e-4)
    assert sum(abs(carrier.share) for carrier in carriers) == pytest.approx(1)
    weights = [abs(carrier.weight) for carrier in carriers]
    assert weights == sorted(weights, reverse=True) and {c.label for c in carriers} >= {"direct"}
    column = split.sources.columns(graph)[graph.index.token_rows.start + 2]
    of_edge = split.carried_by([column])
    assert sum(carrier.weight for carrier in of_edge) == pytest.approx(
        float(split.weights[column]), abs=1e-5
    )
    assert sum(split.hop_shares()) == pytest.approx(1)
    assert split.from_positions(2, 1) == pytest.approx(split.moved[2, 1])


@pytest.mark.parametrize("transcoders", SETS)
@pytest.mark.parametrize("architecture", ["llama", "neox", "gemma2"])
def test_paths_through_heads_add_up_to_the_edge(
    open_tiny: Callable[..., Model], architecture: str, transcoders: str
) -> None:
    """With three layers of four heads, an edge has at most 125 paths: all can be found."""
    model = open_tiny(architecture, **SETS[transcoders])
    graph = tracer.trace(model, tiny.IDS, max_logits=1)
    target = graph.index.node(graph.index.logit_rows.start)
    split = tracer.split_by_head(model, graph, target)
    for row in (0, graph.index.token_rows.start + 2):
        source = graph.index.node(row)
        edge = tracer.head_paths(model, graph, source, target, k=200, max_steps=200)
        column = split.sources.column(source)
        size = sum(abs(path.weight) for path in edge.paths) + 1e-3
        assert abs(edge.weight - split.weights[column]) < 1e-5 * size
        assert abs(edge.found - edge.weight) < 1e-5 * size
        of_one_step = {path.heads[0]: path.weight for path in edge.paths if len(path.heads) == 1}
        assert sum(of_one_step.values()) == pytest.approx(split.hops[1, column], abs=1e-5 * size)
        last = split.last_head[:, :, column]
        assert edge.positions.sum(axis=2) == pytest.approx(last, abs=1e-5 * size)
        by_last = np.zeros_like(last)
        for path in edge.paths:
            if path.heads:
                by_last[path.heads[-1]] += path.weight
        assert by_last == pytest.approx(last, abs=1e-5 * size)


def test_a_short_search_says_what_it_found(model: Model) -> None:
    graph = tracer.trace(model, tiny.PROMPT, max_logits=1)
    token = graph.index.node(graph.index.token_rows.start + 2)
    logit = graph.index.node(graph.index.logit_rows.start)
    short = tracer.head_paths(model, graph, token, logit, k=2, max_steps=2)
    complete = tracer.head_paths(model, graph, token, logit, k=200, max_steps=200)
    assert len(short.paths) == 2 and short.weight == pytest.approx(complete.weight)
    assert complete.share_found == pytest.approx(1, abs=1e-4) and short.share_found < 1 - 1e-4
    assert {path.label.count("→") for path in complete.paths} == {0, 1, 2}


def test_a_node_without_inputs_or_of_another_graph_is_refused(model: Model) -> None:
    graph = tracer.trace(model, tiny.PROMPT, max_logits=1)
    token = graph.index.node(graph.index.token_rows.start + 2)
    logit = graph.index.node(graph.index.logit_rows.start)
    with pytest.raises(AttentionError, match=r"token--1-2-\d+ has no inputs: choose a feature"):
        tracer.split_by_head(model, graph, token)
    with pytest.raises(AttentionError, match=r"feature-9-1-3 is not in this graph: it has \d+ f"):
        tracer.split_by_head(model, graph, NodeId("feature", 9, 1, 3))
    with pytest.raises(AttentionError, match="is not a source of this prompt"):
        tracer.head_paths(model, graph, logit, logit)
    with pytest.raises(AttentionError, match="k is 0: it must be at least 1"):
        tracer.head_paths(model, graph, token, logit, k=0)


def test_a_direction_cannot_be_split_and_a_contrast_and_a_feature_target_can(model: Model) -> None:
    first = tracer.trace(model, tiny.PROMPT, max_logits=1)
    place = tuple(int(x) for x in first.features[-1])
    targets = [
        tracer.Contrast("w3", "w4"),
        tracer.Direction("up", (1.0,) * 32),
        tracer.FeatureTarget(*place),
    ]
    graph = tracer.trace(model, tiny.PROMPT, targets=targets)
    contrast, direction, feature = (
        graph.index.node(graph.index.logit_rows.start + place) for place in range(3)
    )
    for node in (contrast, feature):
        split = tracer.split_by_head(model, graph, node)
        assert relative(split.weights[split.sources.columns(graph)], row_of(graph, node)) < 1e-5
    with pytest.raises(AttentionError, match="'up' is a direction, and a graph does not store"):
        tracer.split_by_head(model, graph, direction)


def test_a_graph_of_another_model_is_refused(open_tiny: Callable[..., Model], model: Model) -> None:
    other = tracer.trace(open_tiny("gpt2"), tiny.IDS, max_logits=1)
    node = other.index.node(other.index.logit_rows.start)
    with pytest.raises(AttentionError, match=r"this graph was traced with .*gpt2.*open the model"):
        tracer.split_by_head(model, other, node)
    imported = tracer.graph_from_external(
        tracer.external_from_pruned(tracer.prune(tracer.trace(model, tiny.PROMPT)), "tiny")
    )
    with pytest.raises(AttentionError, match="does not say which files it was traced with"):
        tracer.split_by_head(model, imported, imported.index.node(0))


def test_a_graph_of_some_features_has_the_columns_of_all(model: Model) -> None:
    graph = tracer.trace(model, tiny.PROMPT, max_features=5, max_logits=1)
    node = graph.index.node(graph.index.logit_rows.start)
    split = tracer.split_by_head(model, graph, node)
    assert len(split.sources) > graph.index.logit_rows.start + 10
    assert relative(split.weights[split.sources.columns(graph)], row_of(graph, node)) < 1e-5
