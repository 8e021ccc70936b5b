"""A graph's numbers, checked against the model itself with everything around features frozen."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import tiny
import torch
from dispatch import Float64Refused

import tracer
from tracer.attribution import memory
from tracer.attribution.backward import FrozenBackward
from tracer.attribution.frozen import frozen_pass
from tracer.errors import Cancelled, TargetError
from tracer.interventions.edit_hooks import EditedRun, names_to_capture
from tracer.interventions.edit_rows import check_row
from tracer.interventions.scenario import Edit, Scenario
from tracer.model.model import Model
from tracer.types import Contrast, FeatureId, FeatureTarget

SETS = {
    "per-layer": {"kind": "transcoder_set", "write": "mlp.hook_out", "activation": "jumprelu"},
    "cross-layer": {
        "kind": "cross_layer_transcoder",
        "write": "hook_mlp_out",
        "activation": "relu",
    },
    "top-k with skip": {
        "kind": "transcoder_set",
        "write": "hook_mlp_out",
        "activation": "topk",
        "skip": True,
    },
}
SKIP_BEFORE_THE_NORM = {
    "kind": "transcoder_set",
    "write": "mlp.hook_out",
    "activation": "relu",
    "skip": True,
}
READ_POINTS = ("mlp.hook_in", "ln2.hook_normalized", "hook_resid_mid")


def effects_of_one_more_unit(
    model: Model, graph: tracer.AttributionGraph, rows: Sequence[int]
) -> torch.Tensor:
    """Double each feature with patterns, norms and MLPs frozen; return how every target moves.

    ``(rows, nodes)``. All rows run as one batch.
    """
    every_layer = tuple(range(model.n_layers))
    scenarios = []
    for layer, position, feature in graph.features[rows].tolist():
        edit = Edit(FeatureId(layer, feature), position, position + 1, "scale", 2.0)
        scenarios.append(Scenario("", (edit,), True, every_layer))
    edited = [check_row(model, scenario, len(graph.tokens)) for scenario in scenarios]
    ids = torch.tensor(graph.token_ids)
    reads = [model.read_hook(layer) for layer in every_layer]
    names = [*names_to_capture(model, edited), *reads, "ln_final.hook_out"]
    _, before = model.bridge.capture(ids, names)
    run, after = EditedRun(model, edited, before), {}
    for name in (*reads, "ln_final.hook_out"):
        run.hooks.append((name, lambda value, hook, name=name: after.update({name: value})))
    run(ids)
    moved = torch.zeros(len(rows), graph.n_nodes)
    for layer in every_layer:
        targets = (graph.features[:, 0] == layer).nonzero()[0]
        _, positions, features = torch.tensor(graph.features[targets]).long().T
        name = model.read_hook(layer)
        change = after[name][:, positions] - before[name][positions]
        moved[:, targets] = (change * model.transcoders[layer].W_enc[features]).sum(-1)
    change = after["ln_final.hook_out"][:, -1] - before["ln_final.hook_out"][-1]
    tokens = [target.token_ids[0] for target in graph.targets]
    moved[:, graph.index.logit_rows] = change @ (
        model.unembedding[:, tokens] - model.mean_unembedding[:, None]
    )
    return moved


def assert_edges_are_measured_effects(model: Model, graph: tracer.AttributionGraph) -> None:
    """For every second feature: what it does to each target is the weight of their edge."""
    rows = range(0, graph.index.n_features, 2)
    measured = effects_of_one_more_unit(model, graph, rows)
    edges = graph.to_dense()[:, rows].T
    assert (measured.abs().amax(dim=1) > 0.01).sum() > len(rows) / 2, "most have an effect"
    assert torch.allclose(edges, measured, atol=5e-6), (edges - measured).abs().max()


@pytest.mark.parametrize("read", READ_POINTS)
@pytest.mark.parametrize("transcoders", SETS)
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_an_edge_is_what_one_more_source_does_to_its_target(
    open_tiny: Callable[..., Model], architecture: str, transcoders: str, read: str
) -> None:
    model = open_tiny(architecture, read=read, **SETS[transcoders])
    graph = tracer.trace(model, tiny.IDS, max_logits=3)
    assert_edges_are_measured_effects(model, graph)


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3", "olmo2"])
def test_a_skip_passes_the_norm_that_follows_the_mlp(
    open_tiny: Callable[..., Model], architecture: str
) -> None:
    model = open_tiny(architecture, read="ln2.hook_normalized", **SKIP_BEFORE_THE_NORM)
    graph = tracer.trace(model, tiny.PROMPT, max_logits=3)
    assert_edges_are_measured_effects(model, graph)


@pytest.mark.parametrize("transcoders", SETS)
def test_a_row_adds_up_to_its_targets_preactivation(
    open_tiny: Callable[..., Model], transcoders: str
) -> None:
    """A feature reads nothing but sources, biases, and the MLP outputs at position 0.

    The last two have no nodes. Added to the error vectors here, they make the sources account for
    the complete pre-activation.
    """
    model = open_tiny("llama", **SETS[transcoders])
    frozen = frozen_pass(model, model.encode(tiny.PROMPT))
    backward = FrozenBackward(model, frozen)
    layers = range(model.n_layers)
    hooks = [point(layer) for layer in layers for point in (model.read_hook, model.write_hook)]
    _, captured = model.bridge.capture(torch.tensor(frozen.token_ids), hooks)
    for layer, sources in enumerate(backward.sources.layers):
        transcoder = model.transcoders[layer]
        missing = transcoder.b_dec.expand_as(sources.errors).clone()
        missing[0] = captured[model.write_hook(layer)][0]
        # The skip of position 0 is already part of the linear stream.
        missing[0] -= transcoder.skipped(captured[model.read_hook(layer)][:1])[0]
        sources.errors.add_(missing)
    totals = backward.on_features(frozen.features).sum(dim=1)
    expected = frozen.activations - frozen.preactivation_biases
    assert torch.allclose(totals, expected, atol=1e-4)


def test_nothing_later_or_higher_affects_a_feature(model: Model) -> None:
    graph = tracer.trace(model, tiny.PROMPT)
    layers, positions = graph.index.layers, graph.index.positions
    assert (positions[graph.sources] <= positions[graph.rows]).all()
    from_features = graph.sources < graph.index.n_features
    sources, targets = graph.sources[from_features], graph.rows[from_features]
    assert (layers[sources] < layers[targets]).all()


def test_the_batch_size_only_changes_the_speed(model: Model) -> None:
    batched = tracer.trace(model, tiny.PROMPT, max_features=20, rank_every=6, batch_size=256)
    single = tracer.trace(model, tiny.PROMPT, max_features=20, rank_every=6, batch_size=1)
    assert (batched.features == single.features).all()
    assert torch.allclose(batched.to_dense(), single.to_dense(), atol=1e-5)


def test_features_are_expanded_in_order_of_influence(model: Model) -> None:
    """Compared with a brute-force run of the same rule on the complete graph."""
    full = tracer.trace(model, tiny.PROMPT)
    some = tracer.trace(model, tiny.PROMPT, max_features=15, rank_every=5)
    dense = full.to_dense().abs().double()
    shares = dense / dense.sum(dim=1, keepdim=True).clamp(min=1e-10)
    n = full.index.n_features
    expanded: list[int] = []
    while len(expanded) < 15:
        known = torch.zeros_like(shares)
        known[expanded] = shares[expanded]
        known[full.index.logit_rows] = shares[full.index.logit_rows]
        start = torch.tensor(full.target_weights)
        influence, current = torch.zeros_like(start), start
        while current.any():
            current = current @ known
            influence += current
        order = influence[:n].argsort(descending=True)
        expanded += [int(row) for row in order if int(row) not in expanded][:5]
    assert some.features.tolist() == full.features[sorted(expanded)].tolist()
    assert some.n_active_features == n


def test_a_smaller_graph_has_the_same_edges(model: Model) -> None:
    full = tracer.trace(model, tiny.PROMPT)
    some = tracer.trace(model, tiny.PROMPT, max_features=12)
    rows = [full.index.row(some.index.node(row)) for row in range(some.n_nodes)]
    assert torch.allclose(some.to_dense(), full.to_dense()[rows][:, rows], atol=1e-6)


def test_position_zero_has_no_features_and_its_errors_no_effect(model: Model) -> None:
    graph = tracer.trace(model, tiny.PROMPT)
    assert (graph.features[:, 1] > 0).all()
    first_errors = [graph.index.error_row(layer, 0) for layer in range(graph.n_layers)]
    assert not np.isin(graph.sources, first_errors).any()


def test_targets_are_the_fewest_likeliest_tokens(model: Model) -> None:
    graph = tracer.trace(model, tiny.PROMPT, max_logits=50, logit_mass=0.5)
    probabilities = [target.probability for target in graph.targets]
    assert sum(probabilities) >= 0.5 > sum(probabilities[:-1])
    assert probabilities == sorted(probabilities, reverse=True)
    assert probabilities == [t.probability for t in graph.next_tokens[: len(probabilities)]]


def test_a_contrast_is_the_difference_of_two_logits(model: Model) -> None:
    apart = tracer.trace(model, tiny.PROMPT, targets=["w3", "w4"])
    between = tracer.trace(model, tiny.PROMPT, targets=[Contrast("w3", "w4")])
    dense = apart.to_dense()
    rows = apart.index.logit_rows
    expected = dense[rows.start] - dense[rows.start + 1]
    contrast = between.to_dense()[between.index.logit_rows.start]
    assert torch.allclose(contrast[: rows.start], expected[: rows.start], atol=1e-5)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("whole_rows", [2**28, 0])
def test_a_trace_makes_no_float64_tensor(
    open_tiny: Callable[..., Model], monkeypatch: pytest.MonkeyPatch, whole_rows: int, skip: bool
) -> None:
    """Shortened rows (``whole_rows`` 0) used to be ranked in float64."""
    model = open_tiny("gemma2", activation="topk", skip=skip)
    monkeypatch.setattr(memory, "WHOLE_ROWS", whole_rows)
    features = tracer.trace(model, tiny.PROMPT).features[-1]
    targets = ["w3", Contrast("w3", "w4"), FeatureTarget(*(int(x) for x in features))]
    with Float64Refused():
        graph = tracer.trace(model, tiny.PROMPT, targets=targets, max_features=20, rank_every=8)
    assert graph.n_edges


def test_an_unknown_target_is_named(model: Model) -> None:
    with pytest.raises(TargetError, match="Atlantis"):
        tracer.trace(model, tiny.PROMPT, targets=["Atlantis"])
    with pytest.raises(TargetError, match="token 60 does not exist"):
        tracer.trace(model, tiny.PROMPT, targets=[60])


def test_progress_counts_every_row_and_can_stop_the_work(model: Model) -> None:
    seen: list[tuple[int, int]] = []
    graph = tracer.trace(
        model,
        tiny.PROMPT,
        batch_size=4,
        progress=lambda done, total, what: seen.append((done, total)) if total else None,
    )
    planned = graph.index.n_features + len(graph.targets)
    assert seen[0] == (0, planned) and seen[-1] == (planned, planned)
    assert all(a[0] <= b[0] for a, b in itertools.pairwise(seen))

    def stop(done: int, total: int, what: str) -> None:
        if done > 4:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        tracer.trace(model, tiny.PROMPT, batch_size=4, progress=stop)
