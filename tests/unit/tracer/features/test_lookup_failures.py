"""A source that fails is named, and the other sources still answer."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from feature_files import known
from hub_server import HubServer
from neuronpedia_server import NeuronpediaServer, feature

from tracer.errors import FeatureIndexError, FeatureLookupError, SourceUnavailableError
from tracer.features import lookup
from tracer.features.cards import Label
from tracer.features.lookup import FeatureLookup
from tracer.types import FeatureId

F = FeatureId(0, 1)
SET = "model/0-set/1"


@pytest.mark.parametrize(
    ("status", "headers", "sentence"),
    [
        (
            429,
            {"Retry-After": "17"},
            r"received too many requests \(status 429\): try again in 17 seconds",
        ),
        (429, {}, r"try again in a minute"),
        (429, {"Retry-After": "9" * 5000}, r"try again in a minute"),
        (503, {}, r"is unavailable \(status 503\): try again in a few minutes"),
        (403, {}, r"refused the request for model, source set set \(status 403\)"),
    ],
)
def test_a_refusal_is_reported_and_not_cached(
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
    status: int,
    headers: dict[str, str],
    sentence: str,
) -> None:
    neuronpedia.status, neuronpedia.headers = status, headers
    neuronpedia.answers[SET] = feature()
    with pytest.raises(SourceUnavailableError, match=sentence):
        opened().card(F)
    neuronpedia.status = 200
    assert opened().card(F) is not None


def test_a_source_that_does_not_answer_is_paused(
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader = opened()
    neuronpedia.status = 503
    for index in range(3):
        with pytest.raises(SourceUnavailableError, match="status 503"):
            reader.card(FeatureId(0, index))
    assert len(neuronpedia.requests) == 1
    monkeypatch.setattr(lookup, "PAUSE", 0.0)
    other = opened()
    for index in range(3):
        with pytest.raises(SourceUnavailableError, match="status 503"):
            other.card(FeatureId(0, index))
    assert len(neuronpedia.requests) == 4


def test_an_unreachable_source_is_named(
    neuronpedia: NeuronpediaServer, opened: Callable[..., FeatureLookup]
) -> None:
    neuronpedia.stop()
    host = neuronpedia.url.removeprefix("http://")
    with pytest.raises(SourceUnavailableError, match=rf"no answer from {host} for feature L0/1"):
        opened().card(F)


def test_a_source_that_takes_too_long(
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tracer.features.from_web.DEADLINE", -1.0)
    neuronpedia.answers[SET] = feature()
    with pytest.raises(SourceUnavailableError, match="took too long to answer for feature L0/1"):
        opened().card(F)


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>maintenance</html>",
        b"\xff\xfe",
        b"[]",
        b'"text"',
        b"[" * 100_000,
        b'{"maxActApprox": %s}' % (b"9" * 5000),
        b'{"pos_str": ["\\ud83d"]}',
        feature(activations=[{"tokens": [" a"], "values": [1.0, 2.0], "maxValue": 2}]),
        feature(activations=[{"tokens": [" a"], "values": ["x"], "maxValue": 2}]),
        feature(activations=[{"tokens": [" a"], "values": [float("nan")], "maxValue": 2}]),
        feature(activations={"a": 1}),
        feature(explanations="none"),
        feature(maxActApprox=float("inf")),
        feature(freq_hist_data_bar_heights=["many"]),
        feature(pos_str=7),
        feature(pos_str=" Texas"),
        feature(activations=[{"tokens": "ab", "values": [1.0, 2.0], "maxValue": 2}]),
        feature(freq_hist_data_bar_heights=[-5, 3]),
        feature(freq_hist_data_bar_heights=[1e300]),
        {"error": "too many requests"},
        {"message": "not now", "statusCode": 503},
    ],
)
def test_a_malformed_answer_is_reported_and_not_cached(
    neuronpedia: NeuronpediaServer, opened: Callable[..., FeatureLookup], answer: Any
) -> None:
    neuronpedia.answers[SET] = answer
    with pytest.raises(
        FeatureLookupError, match=r"the answer of .* for feature L0/1 cannot be read"
    ):
        opened().card(F)
    neuronpedia.answers[SET] = feature()
    assert opened().card(F) is not None


def test_an_endless_answer_is_not_read_to_its_end(
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tracer.features.from_web.MAX_ANSWER_BYTES", 2**20)
    neuronpedia.answers[SET] = b" " * 2**20 + json.dumps(feature()).encode()
    with pytest.raises(FeatureLookupError, match="for feature L0/1 is larger than 1 MB"):
        opened().card(F)


def test_one_bad_answer_does_not_stop_the_others(
    neuronpedia: NeuronpediaServer, opened: Callable[..., FeatureLookup]
) -> None:
    features = [FeatureId(0, index) for index in range(6)]
    for index in range(6):
        neuronpedia.answers[f"model/0-set/{index}"] = feature() if index else b"nonsense"
    with pytest.raises(FeatureLookupError, match="for feature L0/0 cannot be read"):
        opened().fetch_many(features)
    reader = opened()
    assert all(reader.cached_card(feature) is not None for feature in features[1:])


def test_when_one_source_is_unreachable_the_next_is_asked(
    hub: HubServer, neuronpedia: NeuronpediaServer, opened: Callable[..., FeatureLookup]
) -> None:
    commit = hub.add("org/set", {"config.yaml": "x"})
    neuronpedia.answers[SET] = feature()
    hub.stop()
    reader = opened(commit=commit)
    assert known(reader.card(F)).label == Label("Texan cities", None)
    host = hub.url.removeprefix("http://")
    with pytest.raises(SourceUnavailableError, match=rf"cannot be fetched: no answer from {host}"):
        reader.card(FeatureId(0, 2))


def test_a_damaged_index_of_a_repository_is_named_and_labels_still_work(
    hub: HubServer, neuronpedia: NeuronpediaServer, opened: Callable[..., FeatureLookup]
) -> None:
    damaged = gzip.compress(b'[{"filename": 1}]')
    commit = hub.add("org/set", {"features/index.json.gz": damaged})
    reader = opened(commit=commit)
    for _ in range(2):
        with pytest.raises(FeatureIndexError, match=r"the feature index .* cannot be read"):
            reader.card(F)
    assert dict(reader.labels) == {} and reader.n_layers == 0
    neuronpedia.answers["model/0-set/2"] = feature()
    assert known(reader.card(FeatureId(0, 2))).label == Label("Texan cities", None)


@pytest.mark.parametrize("offsets", [[0, -5], [9, 3], [0, 2**40], ["0", "9"], [0, 9]])
def test_offsets_of_a_repository_are_checked(
    hub: HubServer, opened: Callable[..., FeatureLookup], offsets: list[Any]
) -> None:
    index = gzip.compress(json.dumps([{"filename": "l.bin", "offsets": offsets}]).encode())
    files = {"features/index.json.gz": index, "features/l.bin": b"\xff" * 20}
    reader = opened(commit=hub.add("org/set", files), neuronpedia=False)
    with pytest.raises(FeatureIndexError, match=r"feature (index|L0/0) .*cannot be read"):
        reader.card(FeatureId(0, 0))


def test_a_damaged_cached_record_is_fetched_again(
    neuronpedia: NeuronpediaServer, opened: Callable[..., FeatureLookup], tmp_path: Path
) -> None:
    neuronpedia.answers[SET] = feature()
    card = opened().card(F)
    (record,) = (tmp_path / "cache").rglob("*.bin")
    record.write_bytes(b"damaged")
    assert opened().card(F) == card
    assert len(neuronpedia.requests) == 2


def test_an_unwritable_cache_folder_is_named(
    neuronpedia: NeuronpediaServer, tmp_path: Path
) -> None:
    (tmp_path / "cache").touch()
    neuronpedia.answers[SET] = feature()
    reader = FeatureLookup.open(
        tmp_path, hub=None, neuronpedia=("model", "set"), cache_folder=tmp_path / "cache"
    )
    with pytest.raises(FeatureLookupError, match="feature examples cannot be saved in"):
        reader.card(F)
