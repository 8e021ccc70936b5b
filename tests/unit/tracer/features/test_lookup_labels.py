"""Examples from one place, the label from another: asked for once, and never worth an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from feature_files import known, save_index
from hub_server import HubServer
from neuronpedia_server import NeuronpediaServer, feature

from tracer.features import lookup
from tracer.features.cards import Label
from tracer.features.lookup import FeatureLookup
from tracer.hub import Reference, fetch
from tracer.types import FeatureId

F = FeatureId(0, 1)
SET = "model/0-set/1"
UNNAMED = FeatureId(0, 2)
UNNAMED_THERE = "model/0-set/2"
FAR_LABEL = Label("Texan cities", None)


@pytest.fixture
def commit(hub: HubServer, tmp_path: Path) -> str:
    """Examples on the hub; of three features one has a label there."""
    return hub.add("org/set", save_index(tmp_path / "published"))


def test_the_label_is_neuronpedias_where_the_hub_has_examples_alone(
    commit: str, neuronpedia: NeuronpediaServer, opened: Callable[..., FeatureLookup]
) -> None:
    neuronpedia.answers[UNNAMED_THERE] = feature()
    found = opened(commit=commit)
    plain = known(opened(commit=commit, neuronpedia=False).card(UNNAMED))
    assert plain.label is None
    assert known(found.card(UNNAMED)) == dataclasses.replace(plain, label=FAR_LABEL)
    assert found.name(UNNAMED) == "Texan cities" and found.search("texan") == (UNNAMED,)


def test_a_label_of_the_hub_stands_and_neuronpedia_is_not_asked(
    commit: str, neuronpedia: NeuronpediaServer, opened: Callable[..., FeatureLookup]
) -> None:
    neuronpedia.answers[SET] = feature()
    assert known(opened(commit=commit).card(F)).label == Label("letters", 0.9)
    assert neuronpedia.requests == []


def test_an_index_on_this_disk_gets_its_labels_from_the_nearest_place_that_has_one(
    hub: HubServer,
    commit: str,
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
    tmp_path: Path,
) -> None:
    near = save_index(tmp_path / "near")
    (near / "features" / "labels.json.gz").unlink()
    neuronpedia.answers |= {SET: feature(), UNNAMED_THERE: feature()}
    found = opened(near, commit)
    assert known(found.card(F)).label == Label("letters", 0.9)
    assert neuronpedia.requests == []
    assert known(found.card(UNNAMED)).label == FAR_LABEL
    assert neuronpedia.requests == [UNNAMED_THERE]


@pytest.mark.parametrize("answer", [feature(), feature(explanations=[]), None])
def test_a_label_is_asked_for_once_and_kept_also_that_there_is_none(
    commit: str,
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
    monkeypatch: pytest.MonkeyPatch,
    answer: Any,
) -> None:
    if answer is not None:
        neuronpedia.answers[UNNAMED_THERE] = answer
    expected = FAR_LABEL if answer is not None and answer["explanations"] else None
    first = opened(commit=commit)
    for reader in (first, first, opened(commit=commit)):
        assert known(reader.card(UNNAMED)).label == expected
    assert neuronpedia.requests == [UNNAMED_THERE]
    monkeypatch.setenv("CIRCUIT_OFFLINE", "1")
    for reader in (first, opened(commit=commit)):
        assert known(reader.card(UNNAMED)).label == expected
        assert known(reader.cached_card(UNNAMED)).label == expected
    assert neuronpedia.requests == [UNNAMED_THERE]


def test_no_label_is_asked_for_offline_or_by_what_reads_this_disk_alone(
    commit: str,
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known(opened(commit=commit, neuronpedia=False).card(UNNAMED))
    neuronpedia.answers[UNNAMED_THERE] = feature()
    found = opened(commit=commit)
    assert known(found.cached_card(UNNAMED)).label is None
    assert found.cached_name(UNNAMED) != "Texan cities"
    with monkeypatch.context() as context:
        context.setenv("HF_HUB_OFFLINE", "1")
        assert known(found.card(UNNAMED)).label is None
    assert neuronpedia.requests == []
    assert known(found.card(UNNAMED)).label == FAR_LABEL


def test_a_silent_neuronpedia_costs_the_label_alone_and_is_left_alone_for_a_while(
    commit: str,
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    neuronpedia.answers |= {"model/0-set/0": feature(), UNNAMED_THERE: feature()}
    neuronpedia.status = 503
    found = opened(commit=commit)
    for index in (2, 0, 2):
        card = known(found.card(FeatureId(0, index)))
        assert card.label is None and card.act_max == 2.0 + index
    assert len(neuronpedia.requests) == 1
    neuronpedia.status = 200
    monkeypatch.setattr(lookup, "PAUSE", 0.0)
    assert known(opened(commit=commit).card(UNNAMED)).label == FAR_LABEL


def test_cards_come_without_labels_from_a_neuronpedia_that_cannot_be_reached_or_understood(
    commit: str, neuronpedia: NeuronpediaServer, opened: Callable[..., FeatureLookup]
) -> None:
    neuronpedia.answers[UNNAMED_THERE] = b"<html>maintenance</html>"
    found = opened(commit=commit)
    assert known(found.card(UNNAMED)).label is None
    neuronpedia.stop()
    wanted = [FeatureId(0, index) for index in range(3)]
    cards = found.fetch_many(wanted)
    labels = [card.label for card in cards.values()]
    assert list(cards) == wanted and labels == [None, Label("letters", 0.9), None]


def test_a_silent_hub_does_not_cost_the_label_of_what_is_here(
    hub: HubServer,
    commit: str,
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
    tmp_path: Path,
) -> None:
    hub.stop()
    neuronpedia.answers[UNNAMED_THERE] = feature()
    found = opened(save_index(tmp_path / "near"), commit)
    assert known(found.card(UNNAMED)).label == FAR_LABEL


def test_examples_downloaded_whole_by_somebody_else_are_read_without_the_network(
    hub: HubServer,
    commit: str,
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
) -> None:
    names = ("index.json.gz", "labels.json.gz")
    fetch(Reference("org/set"), [f"features/{name}" for name in names], commit=commit)
    found = opened(commit=commit)
    assert found.cached_card(F) is None
    fetch(Reference("org/set"), ["features/layer_0.bin"], commit=commit)
    asked = len(hub.requests)
    assert known(found.cached_card(F)).label == Label("letters", 0.9)
    assert len(hub.requests) == asked
