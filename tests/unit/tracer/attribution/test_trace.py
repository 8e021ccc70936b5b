"""The numbers are right: checked against the model itself, with everything held still."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import tiny
import torch

import tracer
from tracer.attribution.frozen import frozen_pass
from tracer.errors import Cancelled, TargetError
from tracer.interventions.edit_hooks import EditedRun, names_to_capture
from tracer.interventions.edit_rows import check_row
from tracer.interventions.scenario import Edit, Scenario
from tracer.model.model import Model
from tracer.types import Contrast, FeatureId

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


def effect_of_one_more_unit(model: Model, graph: tracer.AttributionGraph, row: int) -> torch.Tensor:
    """Double one feature with patterns, norms and MLPs held; how every target row moves."""
    layer, position, feature = (int(x) for x in graph.features[row])
    edit = Edit(FeatureId(layer, feature), position, position + 1, "scale", 2.0)
    every_layer = tuple(range(model.n_layers))
    still = check_row(model, Scenario("", (edit,), True, every_layer), len(graph.tokens))
    ids = torch.tensor(graph.token_ids)
    reads = [model.read_hook(layer) for layer in range(model.n_layers)]
    names = [*names_to_capture(model, [still]), *reads, "ln_final.hook_out"]
    _, before = model.bridge.capture(ids, names)
    run = EditedRun(model, [still], before)
    final, inputs = {}, {}
    run.hooks += [
        (name, lambda value, hook, name=name: inputs.update({name: value})) for name in reads
    ]
    run.hooks.append(("ln_final.hook_out", lambda value, hook: final.update(after=value[0])))
    run(ids)
    moved = torch.zeros(graph.n_nodes)
    for target, (layer, position, feature) in enumerate(graph.features.tolist()):
        name = model.read_hook(layer)
        change = inputs[name][0, position] - before[name][position]
        moved[target] = change @ model.transcoders[layer].W_enc[feature]
    change = final["after"][-1] - before["ln_final.hook_out"][-1]
    for target, row in zip(
        graph.targets, range(*graph.index.logit_rows.indices(graph.n_nodes)), strict=True
    ):
        direction = model.unembedding[:, target.token_ids[0]] - model.mean_unembedding
        moved[row] = change @ direction
    return moved


@pytest.mark.parametrize("read", READ_POINTS)
@pytest.mark.parametrize("transcoders", SETS)
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_an_edge_is_what_one_more_source_does_to_its_target(
    open_tiny: Callable[..., Model], architecture: str, transcoders: str, read: str
) -> None:
    model = open_tiny(architecture, read=read, **SETS[transcoders])
    graph = tracer.trace(model, tiny.IDS, max_logits=3)
    dense = graph.to_dense()
    chosen = np.random.default_rng(0).choice(graph.index.n_features, 6, replace=False)
    for row in chosen.tolist():
        measured = effect_of_one_more_unit(model, graph, row)
        assert torch.allclose(dense[:, row], measured, atol=5e-6), graph.index.node(row)


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3", "olmo2"])
def test_a_skip_passes_the_norm_that_follows_the_mlp(
    open_tiny: Callable[..., Model], architecture: str
) -> None:
    model = open_tiny(architecture, read="ln2.hook_normalized", **SKIP_BEFORE_THE_NORM)
    graph = tracer.trace(model, tiny.PROMPT, max_logits=3)
    dense = graph.to_dense()
    for row in range(0, graph.index.n_features, 5):
        measured = effect_of_one_more_unit(model, graph, row)
        assert torch.allclose(dense[:, row], measured, atol=5e-6), graph.index.node(row)


@pytest.mark.parametrize("transcoders", SETS)
def test_a_row_adds_up_to_its_targets_preactivation(
    open_tiny: Callable[..., Model], transcoders: str
) -> None:
    """Everything a feature reads comes from a source, a bias, or position 0's unexplained MLPs.

    The last two are measured by tracing nothing away: with decoder biases set to zero and the
    error at position 0 restored, sources alone must account for the pre-activation.
    """
    model = open_tiny("llama", **SETS[transcoders])
    token_ids = model.encode(tiny.PROMPT)
    frozen = frozen_pass(model, token_ids)
    from tracer.attribution.backward import FrozenBackward

    effects = FrozenBackward(model, frozen)
    # What no node stands for: decoder biases everywhere, and all of position 0's MLP output.
    _, seen = model.bridge.capture(
        frozen.token_ids, [model.write_hook(layer) for layer in range(model.n_layers)]
    )
    layers = list(effects.sources.layers)
    for layer, writes in enumerate(layers):
        rest = model.transcoders[layer].b_dec.expand_as(writes.errors).clone()
        rest[0] = seen[model.write_hook(layer)][0]
        if model.transcoders[layer].W_skip is not None:
            # At position 0 the skip is already part of the linear stream.
            rest[0] -= _skip_at_zero(model, frozen.token_ids, layer)
        writes.errors.add_(rest)
    rows = torch.arange(len(frozen.features))
    totals = effects.on_features(frozen.features[rows]).sum(dim=1)
    expected = frozen.activations - frozen.preactivation_biases
    assert torch.allclose(totals, expected, atol=1e-4)


def _skip_at_zero(model: Model, ids: torch.Tensor, layer: int) -> torch.Tensor:
    _, seen = model.bridge.capture(ids, [model.read_hook(layer)])
    return seen[model.read_hook(layer)][0] @ model.transcoders[layer].W_skip.T


def test_nothing_later_or_higher_affects_a_feature(model: Model) -> None:
    graph = tracer.trace(model, tiny.PROMPT)
    layers, positions = graph.index.layers, graph.index.positions
    assert (positions[graph.sources] <= positions[graph.rows]).all()
    from_features = graph.sources < graph.index.n_features
    sources, targets = graph.sources[from_features], graph.rows[from_features]
    assert (layers[sources] < layers[targets]).all()


def test_the_batch_size_changes_nothing_but_speed(model: Model) -> None:
    whole = tracer.trace(model, tiny.PROMPT, max_features=20, rank_every=6, batch_size=256)
    single = tracer.trace(model, tiny.PROMPT, max_features=20, rank_every=6, batch_size=1)
    assert (whole.features == single.features).all()
    assert torch.allclose(whole.to_dense(), single.to_dense(), atol=1e-5)


def test_features_are_expanded_in_order_of_influence(model: Model) -> None:
    """Against a brute-force run of the same rule on the complete graph."""
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


def test_a_smaller_graph_holds_the_same_edges(model: Model) -> None:
    full = tracer.trace(model, tiny.PROMPT)
    some = tracer.trace(model, tiny.PROMPT, max_features=12)
    rows = [full.index.row(some.index.node(row)) for row in range(some.n_nodes)]
    assert torch.allclose(some.to_dense(), full.to_dense()[rows][:, rows], atol=1e-6)


def test_position_zero_has_no_features_and_its_errors_do_nothing(model: Model) -> None:
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
    found = between.to_dense()[between.index.logit_rows.start]
    assert torch.allclose(found[: rows.start], expected[: rows.start], atol=1e-5)


def test_an_unknown_target_is_named(model: Model) -> None:
    with pytest.raises(TargetError, match="Atlantis"):
        tracer.trace(model, tiny.PROMPT, targets=["Atlantis"])
    with pytest.raises(TargetError, match="60"):
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
    assert all(a[0] < b[0] for a, b in itertools.pairwise(seen))

    def stop(done: int, total: int, what: str) -> None:
        if done > 4:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        tracer.trace(model, tiny.PROMPT, batch_size=4, progress=stop)
