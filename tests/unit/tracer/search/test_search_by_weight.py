"""Searches by weights equal the dense computation, and the direct effects of a traced graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import weight_oracle as oracle
from tiny_models import D_MODEL, N_LAYERS, spread

import tracer
from tracer.errors import Cancelled, SearchError, TargetError
from tracer.model.model import Model
from tracer.search import dictionary
from tracer.search.by_weight import similar_to_vector
from tracer.search.match import KINDS, NeighbourKind
from tracer.transcoders.lazy_rows import StoredRows
from tracer.transcoders.transcoder import Transcoder
from tracer.types import FeatureId

PER_LAYER, CROSS_LAYER = "transcoder_set", "cross_layer_transcoder"
ARCHITECTURES = ("gpt2", "gemma2", "olmo2")
POINTS = (
    ("mlp.hook_in", "mlp.hook_out"),
    ("ln2.hook_normalized", "mlp.hook_out"),
    ("hook_resid_mid", "hook_mlp_out"),
)
TOKEN = "w7"


@pytest.fixture(params=[PER_LAYER, CROSS_LAYER])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=POINTS, ids=[read for read, _ in POINTS])
def tiny_model(
    request: pytest.FixtureRequest,
    open_tiny: Callable[..., Model],
    architecture: str,
    kind: str,
) -> Model:
    read, write = request.param
    return open_tiny(architecture, kind, read, write)


def test_promoted_tokens_equal_the_dense_computation(tiny_model: Model) -> None:
    model, norm = tiny_model, tiny_model.final_norm
    unembedding = oracle.array(model.unembedding)
    column = unembedding[:, model.token_id(TOKEN)] - unembedding.mean(1)
    to_logit = oracle.centring(norm, D_MODEL).T @ (oracle.array(norm.gain) * column)
    values = {layer: oracle.written(model, layer, N_LAYERS) @ to_logit for layer in range(N_LAYERS)}
    oracle.assert_equal(tracer.features_promoting(model, TOKEN, 7), oracle.ranked(values, 7))
    oracle.assert_equal(
        tracer.features_promoting(model, TOKEN, 7, suppress=True),
        oracle.ranked(values, 7, signs=(-1,)),
    )
    by_id = tracer.features_promoting(model, model.token_id(TOKEN), 7)
    assert by_id == tracer.features_promoting(model, TOKEN, 7)


def test_reading_a_token_equals_the_dense_computation(tiny_model: Model) -> None:
    model = tiny_model
    ids = torch.tensor([model.token_id(TOKEN)])
    _, seen = model.bridge.capture(ids, ["embed.hook_out"])
    embedding = oracle.array(seen["embed.hook_out"][0])
    values = {}
    for layer in range(N_LAYERS):
        norm = model.blocks[layer].mlp_norm
        x = oracle.reading(model, layer) @ embedding
        if norm is not None and model.transcoders.read_point.value != "hook_resid_mid":
            centred = oracle.centring(norm, D_MODEL) @ embedding
            x = x / np.sqrt(np.mean(centred**2))
        values[layer] = oracle.encoders(model, layer) @ x
    oracle.assert_equal(tracer.features_reading(model, TOKEN, 7), oracle.ranked(values, 7))


@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_virtual_weights_equal_the_dense_computation(tiny_model: Model, layer: int) -> None:
    model, feature = tiny_model, FeatureId(layer, 5)
    upstream = {
        source: oracle.virtual_weights(model, source, layer)[:, 5] for source in range(layer)
    }
    downstream = {
        target: oracle.virtual_weights(model, layer, target)[5]
        for target in range(layer + 1, N_LAYERS)
    }
    for name, values in (("upstream", upstream), ("downstream", downstream)):
        matches = tracer.neighbours(model, feature, name, 4)
        if not values:
            assert matches == ()
        else:
            oracle.assert_equal(matches, oracle.ranked(values, 4, signs=(1, -1)))
            assert {match.z > 0 for match in matches} == {True, False}


def test_similar_features_equal_the_dense_computation(tiny_model: Model) -> None:
    model, feature = tiny_model, FeatureId(1, 5)
    layers = range(N_LAYERS)
    decoders = {layer: oracle.written(model, layer, N_LAYERS) for layer in layers}
    encoders = {
        layer: oracle.encoders(model, layer) @ oracle.reading(model, layer) for layer in layers
    }
    for name, rows, signs in (
        ("same-decoder", decoders, (1,)),
        ("opposite", decoders, (-1,)),
        ("same-encoder", encoders, (1,)),
    ):
        own = oracle.unit_rows(rows[1])[5]
        values = {layer: oracle.unit_rows(rows[layer]) @ own for layer in layers}
        expected = oracle.ranked(values, 6, by="value", signs=signs, without=feature)
        matches = tracer.neighbours(model, feature, name, 6)
        oracle.assert_equal(matches, expected)
        assert feature not in {match.feature for match in matches}
    for side, rows in (("decoder", decoders), ("encoder", encoders)):
        best = similar_to_vector(model, rows[2][3].tolist(), side, 1)[0]
        assert best.feature == FeatureId(2, 3) and best.value == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("layout", ["gpt2", "gemma2"])
def test_the_value_is_the_traced_edge_into_a_logit_per_activation(
    open_tiny: Callable[..., Model], layout: str
) -> None:
    """In the last layer nothing is left but the norms, whose scales the trace knows."""
    model = open_tiny(layout, PER_LAYER)
    graph = tracer.trace(model, tiny.PROMPT, targets=[TOKEN])
    last = N_LAYERS - 1
    norms = ["ln_final"] + (["blocks.2.ln2_post"] if layout == "gemma2" else [])
    _, seen = model.bridge.capture(
        torch.tensor(graph.token_ids), [f"{name}.hook_scale" for name in norms]
    )
    scale = float(torch.stack([value[-1, 0] for value in seen.values()]).prod())
    matches = tracer.features_promoting(model, TOKEN, 99)
    matches += tracer.features_promoting(model, TOKEN, 99, suppress=True)
    values = {match.feature: match.value for match in matches}
    edges, logit = graph.to_dense(), graph.index.logit_rows.start
    compared = 0
    for row, (layer, position, index) in enumerate(graph.features.tolist()):
        if layer == last and position == len(graph.token_ids) - 1:
            expected = graph.activations[row] * values[FeatureId(layer, index)] / scale
            assert float(edges[logit, row]) == pytest.approx(expected, rel=1e-4)
            compared += 1
    assert compared > 2


def test_a_virtual_weight_is_the_traced_edge_where_no_attention_comes_between(
    open_tiny: Callable[..., Model],
) -> None:
    """Blocks of GPT-NeoX are parallel: an MLP reads what the block before it has written."""
    model = open_tiny("neox", PER_LAYER)
    graph = tracer.trace(model, tiny.IDS)
    ids = torch.tensor(graph.token_ids)
    _, seen = model.bridge.capture(ids, ["blocks.1.ln2.hook_scale"])
    edges, features = graph.to_dense(), graph.features.tolist()
    compared = 0
    for target, (layer, position, index) in enumerate(features):
        if layer != 1:
            continue
        matches = tracer.neighbours(model, FeatureId(1, index), "upstream", 99)
        values = {match.feature: match.value for match in matches}
        for source, (lower, place, other) in enumerate(features):
            if lower == 0 and place == position:
                scale = float(seen["blocks.1.ln2.hook_scale"][position, 0])
                expected = graph.activations[source] * values[FeatureId(0, other)] / scale
                assert float(edges[target, source]) == pytest.approx(expected, rel=1e-3, abs=1e-6)
                compared += 1
    assert compared > 10


def test_reading_differs_between_tokens_as_the_preactivation_does(
    open_tiny: Callable[..., Model],
) -> None:
    """Layer 0 of a model of parallel blocks reads the embedding and nothing else.

    Biases, which the search leaves out, are the same for every token.
    """
    model = open_tiny("neox", PER_LAYER)
    first, second = tiny.IDS[2:4]
    _, seen = model.bridge.capture(torch.tensor([1, first, second]), [model.read_hook(0)])
    preactivations = model.transcoders[0].preactivations(seen[model.read_hook(0)])
    left, right = (values_of(tracer.features_reading(model, t, 99), 0) for t in (first, second))
    for feature in left.keys() & right.keys():
        expected = float(preactivations[1, feature.index] - preactivations[2, feature.index])
        assert left[feature] - right[feature] == pytest.approx(expected, rel=2e-3, abs=2e-3)
    assert len(left.keys() & right.keys()) > 3


def test_the_outputs_at_and_above_the_reader_do_not_count(
    open_tiny: Callable[..., Model],
) -> None:
    """A cross-layer feature writes at the reader's own layer only after the reader has read."""
    model = open_tiny("llama", CROSS_LAYER, "hook_resid_mid")
    source, reader = FeatureId(0, 7), FeatureId(1, 5)
    before = tracer.neighbours(model, reader, "upstream", 99)
    lowest = model.transcoders[0]
    changed = lowest.W_dec.clone()
    changed[7, 1:] += 100.0
    louder = with_layers(model, replace(lowest, W_dec=changed), *model.transcoders.layers[1:])
    assert tracer.neighbours(louder, reader, "upstream", 99) == before
    assert values_of(tracer.neighbours(louder, source, "downstream", 99), 1) == values_of(
        tracer.neighbours(model, source, "downstream", 99), 1
    )
    higher = FeatureId(2, 5)
    assert tracer.neighbours(louder, higher, "upstream", 99) != tracer.neighbours(
        model, higher, "upstream", 99
    )


def values_of(matches: tuple[tracer.FeatureMatch, ...], layer: int) -> dict[FeatureId, float]:
    return {m.feature: m.value for m in matches if m.feature.layer == layer}


def with_layers(model: Model, *layers: Transcoder) -> Model:
    return Model(model.source, model.bridge, replace(model.transcoders, layers=layers))


@pytest.mark.parametrize("outputs", [1, None])
def test_a_planted_pair_comes_first_with_a_large_z(
    open_tiny: Callable[..., Model], outputs: int | None
) -> None:
    """A feature whose encoder is another's decoder, among 400 random ones a layer."""
    generator = torch.Generator().manual_seed(3)
    layers = [
        Transcoder(
            layer=layer,
            W_enc=spread(generator, 400, D_MODEL),
            b_enc=torch.zeros(400),
            W_dec=spread(generator, 400, outputs or N_LAYERS - layer, D_MODEL),
            b_dec=torch.zeros(D_MODEL),
        )
        for layer in range(N_LAYERS)
    ]
    source, reader = FeatureId(0, 123), FeatureId(2, 321)
    below = layers[0].W_dec[123, :2].sum(0)
    layers[2].W_enc[321] = below
    layers[1].W_enc[50] = -layers[0].W_dec[123, 0]
    model = with_layers(open_tiny("llama", PER_LAYER, "hook_resid_mid"), *layers)

    best = tracer.neighbours(model, reader, "upstream", 3)[0]
    assert best.feature == source and best.z > 5
    assert best.value == pytest.approx(float(below @ below), rel=1e-5)
    downstream = tracer.neighbours(model, source, "downstream", 1)
    assert {match.feature for match in downstream} == {reader, FeatureId(1, 50)}
    assert sorted(match.value > 0 for match in downstream) == [False, True]
    assert all(abs(match.z) > 4 for match in downstream)


def test_left_in_their_files_the_matrices_give_the_same_results(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tiny.save_model(tmp_path / "model", "gemma2"))
    transcoders = str(tiny.save_transcoders(tmp_path / "set", kind))
    whole = tracer.load(folder, transcoders, device="cpu")
    lazy = tracer.load(folder, transcoders, "cpu", lazy_decoders=True, lazy_encoders=True)
    assert isinstance(lazy.transcoders[1].W_dec, StoredRows)
    assert isinstance(lazy.transcoders[1].W_enc, StoredRows)
    expected = all_searches(whole)
    assert_same(all_searches(lazy), expected)
    sizes = []
    real = dictionary._rows
    monkeypatch.setattr(dictionary, "BLOCK_BYTES", 5 * 4 * D_MODEL)

    def counted(matrix: torch.Tensor | StoredRows, start: int, stop: int) -> torch.Tensor:
        rows = real(matrix, start, stop)
        sizes.append(rows.nbytes)
        return rows

    monkeypatch.setattr(dictionary, "_rows", counted)
    for model in (lazy, whole):
        assert_same(all_searches(model), expected)
    assert 0 < max(sizes) <= 5 * 4 * D_MODEL, "no block is larger than it may be"


def all_searches(model: Model) -> list[tuple[tracer.FeatureMatch, ...]]:
    feature = FeatureId(1, 5)
    return [
        *(tracer.neighbours(model, feature, kind, 5) for kind in KINDS),
        tracer.features_promoting(model, TOKEN, 5),
        tracer.features_reading(model, TOKEN, 5),
    ]


def assert_same(
    left: list[tuple[tracer.FeatureMatch, ...]], right: list[tuple[tracer.FeatureMatch, ...]]
) -> None:
    """The same features in the same order; values to the last bits of float32."""
    for one, other in zip(left, right, strict=True):
        assert [match.feature for match in one] == [match.feature for match in other]
        for value in ("value", "z"):
            numbers = ([getattr(match, value) for match in matches] for matches in (one, other))
            assert next(numbers) == pytest.approx(next(numbers), rel=1e-4)


def test_bfloat16_weights_are_multiplied_in_float32(tmp_path: Path, kind: str) -> None:
    folder = str(tiny.save_model(tmp_path / "model", "gemma2"))
    transcoders = str(tiny.save_transcoders(tmp_path / "set", kind))
    model = tracer.load(folder, transcoders, "cpu", "bfloat16")
    assert model.transcoders[1].W_enc.dtype == torch.bfloat16
    upstream = {layer: oracle.virtual_weights(model, layer, 2)[:, 5] for layer in range(2)}
    matches = tracer.neighbours(model, FeatureId(2, 5), "upstream", 4)
    oracle.assert_equal(matches, oracle.ranked(upstream, 4, signs=(1, -1)))


@pytest.mark.parametrize("search", range(7))
def test_progress_counts_features_and_can_stop_the_search(
    model: Model, search: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dictionary, "BLOCK_BYTES", 10 * 4 * D_MODEL)
    feature = FeatureId(1, 5)
    seen: list[tuple[int, int, str]] = []

    def run(progress: Callable[[int, int, str], None]) -> None:
        if search < len(KINDS):
            tracer.neighbours(model, feature, KINDS[search], 5, progress)
        elif search == len(KINDS):
            tracer.features_promoting(model, TOKEN, 5, progress=progress)
        else:
            tracer.features_reading(model, TOKEN, 5, progress)

    def stop(done: int, total: int, what: str) -> None:
        if done > 0:
            raise Cancelled("stopped")

    run(lambda *step: seen.append(step))
    counts = [done for done, _, _ in seen]
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == seen[-1][1]
    assert len(counts) >= 4 and {total for _, total, _ in seen} == {counts[-1]}
    with pytest.raises(Cancelled):
        run(stop)


def test_a_layer_of_equal_values_has_no_z() -> None:
    values = np.full(4, 2.0)
    matches = dictionary.strongest([(0, values), (1, np.array([1.0, 5.0]))], 9, "both", by="z")
    assert [match.z for match in matches[:2]] == [-1, 1]
    without_z = {m.feature.index for m in matches if m.feature.layer == 0 and m.z is None}
    assert without_z == {0, 1, 2, 3}


def test_a_feature_without_a_decoder_is_similar_to_nothing(model: Model) -> None:
    layer = model.transcoders[0]
    decoder = layer.W_dec.clone()
    decoder[3] = 0
    silent = with_layers(model, replace(layer, W_dec=decoder), *model.transcoders.layers[1:])
    matches = tracer.neighbours(silent, FeatureId(1, 5), "same-decoder", 99)
    assert len(matches) > 20 and FeatureId(0, 3) not in {match.feature for match in matches}
    assert tracer.neighbours(silent, FeatureId(0, 3), "same-decoder", 99) == ()


@pytest.mark.parametrize(
    ("feature", "kind", "message"),
    [
        ((9, 0), "upstream", "feature L9/0 does not exist: .* has layers 0 to 2"),
        ((-1, 0), "upstream", "feature L-1/0 does not exist"),
        ((1, 24), "upstream", "feature L1/24 does not exist: layer 1 has features 0 to 23"),
        ((1, 5), "sideways", "kind is 'sideways': expected one of same-decoder, same-encoder, opp"),
    ],
)
def test_neighbours_of_nothing_are_refused(
    model: Model, feature: tuple[int, int], kind: NeighbourKind, message: str
) -> None:
    with pytest.raises(SearchError, match=message) as caught:
        tracer.neighbours(model, FeatureId(*feature), kind)
    assert "\n" not in str(caught.value) and not str(caught.value).endswith(".")


@pytest.mark.parametrize("search", [tracer.features_promoting, tracer.features_reading])
def test_unknown_tokens_and_limits_are_refused(model: Model, search: Callable[..., object]) -> None:
    with pytest.raises(TargetError, match="a target is exactly one"):
        search(model, "nowhere")
    with pytest.raises(TargetError, match="999"):
        search(model, 999)
    with pytest.raises(SearchError, match="limit is 0: expected at least 1"):
        search(model, TOKEN, 0)


@pytest.mark.parametrize(
    ("vector", "side", "message"),
    [
        ([1.0, 2.0], "decoder", r"shape \(2,\): expected 32 numbers"),
        ([0.0] * 32, "decoder", "no direction"),
        ([float("nan")] * 32, "encoder", "no direction"),
        ([1.0] * 32, "middle", "side is 'middle': expected one of decoder, encoder"),
    ],
)
def test_vectors_that_are_not_directions_are_refused(
    model: Model, vector: list[float], side: str, message: str
) -> None:
    with pytest.raises(SearchError, match=message):
        similar_to_vector(model, vector, side)
