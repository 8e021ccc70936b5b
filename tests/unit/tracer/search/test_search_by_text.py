"""Searching by a text equals computing every activation of every feature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from numpy.typing import NDArray
from weight_oracle import array, encoders

import tracer
from tracer.errors import (
    Cancelled,
    EmptyPromptError,
    MemoryLimitError,
    ModelError,
    PromptTooLongError,
    SearchError,
)
from tracer.features.cards import FeatureCard, FeatureIndex, FeatureReader
from tracer.features.lookup import feature_lookup
from tracer.model.model import Model
from tracer.search import by_text
from tracer.search.match import TextDetail
from tracer.types import FeatureId

FLAGSHIP = "The capital of the state containing Dallas is"
Activations = dict[FeatureId, NDArray[np.float64]]


def dense_activations(model: Model, text: str) -> Activations:
    """The activation of every feature at every position, by the definition of each function."""
    ids = torch.tensor(model.encode(text))
    activations: Activations = {}
    for layer, transcoder in enumerate(model.transcoders.layers):
        _, seen = model.bridge.capture(ids, [model.read_hook(layer)])
        x = array(seen[model.read_hook(layer)])
        pre = x @ encoders(model, layer).T + array(transcoder.b_enc)
        if transcoder.k is not None:
            least = np.sort(pre, axis=1)[:, -transcoder.k][:, None]
            active = np.where(pre >= least, pre, 0)
        elif transcoder.threshold is not None:
            active = np.where(pre > array(transcoder.threshold), pre, 0)
        else:
            active = np.maximum(pre, 0)
        active[: model.first_position] = 0
        for index, column in enumerate(active.T):
            activations[FeatureId(layer, index)] = column
    return activations


def ranked(values: dict[FeatureId, float], limit: int) -> list[FeatureId]:
    return sorted((f for f in values if values[f] > 0), key=lambda f: (-values[f], f))[:limit]


def detail_of(match: tracer.FeatureMatch) -> TextDetail:
    assert isinstance(match.detail, TextDetail)
    return match.detail


@pytest.fixture(params=["relu", "jumprelu", "topk"])
def activation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["transcoder_set", "cross_layer_transcoder"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["gpt2", "gemma2"])
def tiny_model(
    request: pytest.FixtureRequest, open_tiny: Callable[..., Model], kind: str, activation: str
) -> Model:
    return open_tiny(request.param, kind, activation=activation)


@pytest.mark.parametrize("values_at_once", [2**26, 50])
def test_the_strongest_features_equal_the_dense_computation(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch, values_at_once: int
) -> None:
    monkeypatch.setattr(by_text, "_VALUES_AT_ONCE", values_at_once)
    model, dense = tiny_model, dense_activations(tiny_model, tiny.PROMPT)
    peaks = {feature: float(column.max()) for feature, column in dense.items()}
    matches = tracer.features_on_text(model, tiny.PROMPT, 9)
    assert [match.feature for match in matches] == ranked(peaks, 9)
    for match in matches:
        column, detail = dense[match.feature], detail_of(match)
        assert match.value == pytest.approx(column.max(), abs=1e-5) and match.z is None
        assert detail.position == column.argmax()
        assert detail.example.activations == pytest.approx(column.tolist(), abs=1e-5)
        assert detail.example.tokens == model.token_strings(model.encode(tiny.PROMPT))
        assert detail.token == detail.example.tokens[detail.position]
    everything = tracer.features_on_text(model, tiny.PROMPT, 999)
    assert len(everything) == sum(peak > 0 for peak in peaks.values())


@pytest.mark.parametrize("position", [2, -1])
def test_the_strongest_features_at_a_position_equal_the_dense_computation(
    tiny_model: Model, position: int
) -> None:
    dense = dense_activations(tiny_model, tiny.PROMPT)
    values = {feature: float(column[position]) for feature, column in dense.items()}
    matches = tracer.features_on_text(tiny_model, tiny.PROMPT, 9, position=position)
    assert [match.feature for match in matches] == ranked(values, 9)
    assert {detail_of(match).position for match in matches} == {position % 6}
    for match in matches:
        assert match.value == pytest.approx(values[match.feature], abs=1e-5)
        column = dense[match.feature].tolist()
        assert detail_of(match).example.activations == pytest.approx(column, abs=1e-5)


@pytest.mark.parametrize("values_at_once", [2**26, 50])
def test_one_feature_on_a_text_equals_the_dense_computation(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch, values_at_once: int
) -> None:
    monkeypatch.setattr(by_text, "_VALUES_AT_ONCE", values_at_once)
    dense = dense_activations(tiny_model, tiny.PROMPT)
    for feature in (max(dense, key=lambda f: dense[f].max()), FeatureId(2, 23)):
        example = tracer.feature_activations(tiny_model, feature, tiny.PROMPT)
        assert example.activations == pytest.approx(dense[feature].tolist(), abs=1e-5)
        assert example.tokens == ("<bos>", "w1", "w7", "w2", "w30", "w11")
        assert example.activations[0] == 0


def test_positions_without_features_count_as_zero(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(model.__dict__, "first_position", 3)
    monkeypatch.setattr(by_text, "_VALUES_AT_ONCE", 50)
    for match in tracer.features_on_text(model, tiny.PROMPT, 99):
        assert detail_of(match).position >= 3
        assert detail_of(match).example.activations[:3] == (0, 0, 0)
    with pytest.raises(SearchError, match=r"position 2 cannot be searched: .* positions 3 to 5"):
        tracer.features_on_text(model, tiny.PROMPT, position=2)


def test_encoders_left_in_their_files_give_the_same_results(tmp_path: Path, kind: str) -> None:
    folder = str(tiny.save_model(tmp_path / "model"))
    transcoders = str(tiny.save_transcoders(tmp_path / "set", kind))
    whole = tracer.load(folder, transcoders, device="cpu")
    lazy = tracer.load(folder, transcoders, "cpu", lazy_decoders=True, lazy_encoders=True)
    assert tracer.features_on_text(lazy, tiny.PROMPT) == tracer.features_on_text(whole, tiny.PROMPT)
    feature = tracer.features_on_text(whole, tiny.PROMPT, 1)[0].feature
    expected = tracer.feature_activations(whole, feature, tiny.PROMPT)
    assert tracer.feature_activations(lazy, feature, tiny.PROMPT).activations == pytest.approx(
        expected.activations
    )


def test_dense_features_are_left_out(model: Model) -> None:
    everything = [m.feature for m in tracer.features_on_text(model, tiny.PROMPT, 99)]
    dense = everything[::2]
    densities = {feature: 0.5 if feature in dense else 0.1 for feature in everything[:-1]}
    matches = tracer.features_on_text(model, tiny.PROMPT, 4, 0.2, densities)
    left = [feature for feature in everything if densities.get(feature, 0.0) < 0.2]
    assert [match.feature for match in matches] == left[:4], "others move up"
    kept = [m.feature for m in tracer.features_on_text(model, tiny.PROMPT, 99, 0.2, densities)]
    assert everything[-1] in kept, "a feature of unknown density stays"


@pytest.fixture(scope="module")
def atlas() -> Model:
    return tracer.load("atlas", device="cpu")


@pytest.fixture(scope="module")
def reader(atlas: Model) -> FeatureReader:
    return feature_lookup(atlas.source)


def card(reader: FeatureReader, feature: FeatureId) -> FeatureCard:
    found = reader.card(feature)
    assert found is not None
    return found


def test_features_about_texas_fire_at_dallas(atlas: Model, reader: FeatureReader) -> None:
    matches = tracer.features_on_text(atlas, FLAGSHIP, 3, position=-2, reader=reader)
    assert {reader.name(match.feature) for match in matches} == {"about Texas"}
    for match in matches:
        detail = detail_of(match)
        largest = card(reader, match.feature).act_max
        assert detail.token == " Dallas" and detail.share_of_max == match.value / largest


def test_results_can_be_ranked_by_the_share_of_the_largest_activation(
    atlas: Model, reader: FeatureReader
) -> None:
    peaks = {m.feature: m.value for m in tracer.features_on_text(atlas, FLAGSHIP, 10**6)}
    shares = {f: peak / card(reader, f).act_max for f, peak in peaks.items()}
    matches = tracer.features_on_text(atlas, FLAGSHIP, 20, by="share", reader=reader)
    assert [match.feature for match in matches] == ranked(shares, 20)
    assert [match.value for match in matches] == [shares[match.feature] for match in matches]
    nothing = FeatureIndex.open(Path("no-index"))
    assert tracer.features_on_text(atlas, FLAGSHIP, by="share", reader=nothing) == ()
    assert tracer.features_on_text(atlas, FLAGSHIP, 1, reader=nothing)[0].value == max(
        peaks.values()
    )


def test_the_cards_say_which_features_are_dense(atlas: Model, reader: FeatureReader) -> None:
    everything = tracer.features_on_text(atlas, FLAGSHIP, 10**6)
    sparse = tracer.features_on_text(atlas, FLAGSHIP, 10**6, 0.005, reader=reader)
    frequency = {m.feature: card(reader, m.feature).frequency for m in everything}
    assert [m.feature for m in sparse] == [
        m.feature for m in everything if (frequency[m.feature] or 0) <= 0.005
    ]
    assert 0 < len(sparse) < len(everything)


def test_progress_counts_layers_and_can_stop_the_search(model: Model) -> None:
    seen: list[tuple[int, int]] = []
    tracer.features_on_text(
        model, tiny.PROMPT, progress=lambda done, total, what: seen.append((done, total))
    )
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]

    def stop(done: int, total: int, what: str) -> None:
        if done == 1:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        tracer.features_on_text(model, tiny.PROMPT, progress=stop)


def test_a_text_beyond_the_context_is_refused(model: Model) -> None:
    with pytest.raises(PromptTooLongError, match=r"21 tokens .* at most 16"):
        tracer.features_on_text(model, "w1 " * 20)
    with pytest.raises(PromptTooLongError, match=r"21 tokens .* at most 16"):
        tracer.feature_activations(model, FeatureId(0, 0), "w1 " * 20)


def test_a_text_beyond_the_free_memory_is_refused(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.attribution.memory.available_bytes", lambda device: 1000)
    with pytest.raises(MemoryLimitError, match="6 tokens"):
        tracer.features_on_text(model, tiny.PROMPT)


def test_a_model_that_does_not_compute_is_refused(tmp_path: Path) -> None:
    folder = str(tiny.save_model(tmp_path / "model"))
    model = tracer.load(folder, str(tiny.save_transcoders(tmp_path / "set")), device="cpu")
    model.unembedding[:, 0] = float("nan")
    with pytest.raises(ModelError, match="NaN or infinite logits"):
        tracer.features_on_text(model, tiny.PROMPT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"by": "name"}, "by is 'name': expected 'activation' or 'share'"),
        ({"by": "share"}, "pass a reader"),
        ({"max_density": 0.1}, "pass densities or a reader"),
        ({"max_density": 1.5, "densities": {}}, "max_density is 1.5: expected a share"),
        ({"position": 0}, "position 0 cannot be searched: .* positions 1 to 5"),
        ({"position": 6}, "position 6 cannot be searched"),
        ({"position": -7}, "position -7 cannot be searched"),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    model: Model, options: dict[str, object], message: str
) -> None:
    with pytest.raises(SearchError, match=message) as caught:
        tracer.features_on_text(model, tiny.PROMPT, **options)
    assert "\n" not in str(caught.value) and not str(caught.value).endswith(".")


def test_a_text_or_a_feature_that_does_not_exist_is_refused(model: Model) -> None:
    with pytest.raises(EmptyPromptError):
        tracer.features_on_text(model, " ")
    with pytest.raises(SearchError, match="feature L3/0 does not exist"):
        tracer.feature_activations(model, FeatureId(3, 0), tiny.PROMPT)
    with pytest.raises(SearchError, match="position 1 cannot be searched: the text has 1 tokens"):
        tracer.features_on_text(model, (1,), position=1)
    assert tracer.features_on_text(model, (1,)) == (), "a text of one token carries no features"


def test_a_topk_layer_of_negative_preactivations_has_no_peak(
    open_tiny: Callable[..., Model],
) -> None:
    model = open_tiny("llama", activation="topk")
    sunk = tuple(replace(layer, b_enc=layer.b_enc - 100) for layer in model.transcoders.layers)
    below = Model(model.source, model.bridge, replace(model.transcoders, layers=sunk))
    assert tracer.features_on_text(below, tiny.PROMPT) == ()
