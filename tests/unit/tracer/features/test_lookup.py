"""Cards come from the first source that has them, and are fetched once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from feature_files import known, save_index
from hub_server import HubServer
from neuronpedia_server import NeuronpediaServer, feature

from tracer.errors import Cancelled
from tracer.features.cards import Example, FeatureIndex, Label
from tracer.features.disk_cache import CardCache
from tracer.features.lookup import NO_EXAMPLES, FeatureLookup
from tracer.types import FeatureId

F = FeatureId(0, 1)
SET = "model/0-set/1"
LATE = FeatureId(3, 417)


def test_the_first_source_with_a_card_is_the_last_one_asked(
    hub: HubServer,
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
    tmp_path: Path,
) -> None:
    near = save_index(tmp_path / "near")
    commit = hub.add("org/set", save_index(tmp_path / "far"))
    neuronpedia.answers[SET] = feature()

    assert known(opened(near, commit).card(F)).act_max == 3.0
    assert known(opened(near / "features", commit).card(F)).act_max == 3.0
    assert hub.requests == [] and neuronpedia.requests == []

    assert known(opened(None, commit).card(F)).label == Label("letters", 0.9)
    assert hub.requests != [] and neuronpedia.requests == []

    assert known(opened().card(F)).label == Label("Texan cities", None)
    assert neuronpedia.requests == [SET]

    assert opened().card(FeatureId(0, 2)) is None
    assert opened(neuronpedia=False).card(F) is None
    assert NO_EXAMPLES.endswith("python -m tracer index")


def test_one_record_is_fetched_from_the_hub_and_only_once(
    hub: HubServer, opened: Callable[..., FeatureLookup], tmp_path: Path
) -> None:
    folder = save_index(tmp_path / "repo" / "sub")
    commit = hub.add("org/set", tmp_path / "repo")
    card = opened(commit=commit, hub_folder="sub", neuronpedia=False).card(F)
    assert card == FeatureIndex.open(folder).card(F)
    (request,) = hub.asked("layer_0.bin")
    assert request.byte_range is not None and request.status == 206
    asked = len(hub.requests)
    again = opened(commit=commit, hub_folder="sub", neuronpedia=False)
    assert again.card(F) == card
    assert again.card(FeatureId(0, 99)) is None and again.card(FeatureId(7, 0)) is None
    assert len(hub.requests) == asked


def test_a_repository_without_features_is_asked_once(
    hub: HubServer, opened: Callable[..., FeatureLookup]
) -> None:
    commit = hub.add("org/set", {"config.yaml": "x"})
    assert opened(commit=commit, neuronpedia=False).card(F) is None
    asked = len(hub.requests)
    assert opened(commit=commit, neuronpedia=False).card(F) is None
    assert len(hub.requests) == asked


def test_an_index_without_labels_is_read(
    hub: HubServer, opened: Callable[..., FeatureLookup], tmp_path: Path
) -> None:
    folder = save_index(tmp_path / "repo")
    (folder / "features" / "labels.json.gz").unlink()
    reader = opened(commit=hub.add("org/set", folder), neuronpedia=False)
    assert known(reader.card(F)).label is None
    assert reader.name(F) == "b · c"


def test_an_answer_of_neuronpedia_becomes_a_card(
    neuronpedia: NeuronpediaServer, opened: Callable[..., FeatureLookup]
) -> None:
    neuronpedia.answers["model/3-set/417"] = feature()
    card = known(opened().card(LATE))
    assert card.feature == LATE and card.label == Label("Texan cities", None)
    (group,) = card.groups
    assert group.name == "Top activations"
    assert group.examples == (
        Example((" in", " Austin"), (0.5, 9.5)),
        Example((" in", " Dallas"), (0.0, 2.5)),
    )
    assert (card.promoted, card.suppressed) == ((" Texas", " TX"), (" Paris",))
    assert (card.act_max, card.frequency, card.histogram) == (9.5, 0.002, (5, 2))


@pytest.mark.parametrize(
    "absent",
    [
        {"explanations": []},
        {"explanations": None, "activations": None, "pos_str": None, "frac_nonzero": None},
        {"explanations": [{}], "freq_hist_data_bar_heights": [0.5, 0.25]},
    ],
)
def test_fields_that_neuronpedia_leaves_out_are_empty(
    neuronpedia: NeuronpediaServer, opened: Callable[..., FeatureLookup], absent: dict[str, Any]
) -> None:
    neuronpedia.answers[SET] = feature(**absent)
    card = known(opened().card(F))
    assert card.label is None
    assert card.histogram == (() if "freq_hist_data_bar_heights" in absent else (5, 2))
    neuronpedia.answers["model/0-set/2"] = {}
    assert known(opened().card(FeatureId(0, 2))).groups[0].examples == ()
    assert opened().name(FeatureId(0, 2)) == ""


def test_a_fetched_card_is_read_from_disk_and_offline(
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    neuronpedia.answers[SET] = feature()
    card = opened().card(F)
    assert opened().card(F) == card
    monkeypatch.setenv("CIRCUIT_OFFLINE", "1")
    assert opened().card(F) == card
    assert opened().card(FeatureId(0, 2)) is None
    assert neuronpedia.requests == [SET]


def test_offline_no_source_is_asked(
    hub: HubServer,
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    commit = hub.add("org/set", save_index(tmp_path / "repo"))
    neuronpedia.answers[SET] = feature()
    monkeypatch.setenv("HF_HUB_OFFLINE", "true")
    reader = opened(commit=commit)
    assert reader.card(F) is None and reader.name(F) == "" and reader.search("L0/1") == ()
    assert reader.fetch_many([F]) == {}
    assert hub.requests == [] and neuronpedia.requests == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert reader.card(F) is not None


def test_an_absent_feature_is_asked_for_once_a_day(
    neuronpedia: NeuronpediaServer, opened: Callable[..., FeatureLookup], tmp_path: Path
) -> None:
    assert opened().card(F) is None and opened().card(F) is None
    assert neuronpedia.requests == [SET]
    (note,) = (tmp_path / "cache").rglob("*.absent")
    yesterday = time.time() - 25 * 3600
    os.utime(note, (yesterday, yesterday))
    neuronpedia.answers[SET] = feature()
    assert opened().card(F) is not None


def test_long_examples_are_cut_around_their_peak(
    neuronpedia: NeuronpediaServer, opened: Callable[..., FeatureLookup]
) -> None:
    tokens = [f" {number}" for number in range(5000)]
    long = {"tokens": tokens, "values": [0.0] * 4000 + [7.0] + [0.0] * 999, "maxValue": 7}
    neuronpedia.answers[SET] = feature(
        activations=[long] * 100,
        explanations=[{"description": "x" * 10_000}],
        pos_str=["y" * 10_000],
    )
    card = known(opened().card(F))
    examples = card.groups[0].examples
    assert len(examples) == 40 and len(examples[0].tokens) == 256
    assert examples[0].tokens[examples[0].activations.index(7.0)] == " 4000"
    assert card.label is not None and len(card.label.text) == 500
    assert len(card.promoted[0]) == 200


def test_text_is_kept_as_text(
    neuronpedia: NeuronpediaServer, opened: Callable[..., FeatureLookup]
) -> None:
    markup = "<script>alert(1)</script> $x$ [a](javascript:b) **bold**\n"
    neuronpedia.answers[SET] = feature(
        explanations=[{"description": markup}],
        activations=[{"tokens": [markup], "values": [1.0], "maxValue": 1.0}],
    )
    for card in (known(opened().card(F)), known(opened().card(F))):
        assert card.label == Label(markup.strip(), None)
        assert card.groups[0].examples[0].tokens == (markup,)


def test_fetched_labels_are_searched_and_kept(
    hub: HubServer,
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
    tmp_path: Path,
) -> None:
    commit = hub.add("org/set", save_index(tmp_path / "repo"))
    neuronpedia.answers["model/3-set/417"] = feature()
    reader = opened(commit=commit)
    assert reader.search("texan") == () and reader.cached_name(LATE) == ""
    assert reader.search("L3/417") == (LATE,)
    for each in (reader, opened(commit=commit)):
        assert each.search("texan") == (LATE,) and each.search("letters") == (F,)
        assert each.labels[LATE] == Label("Texan cities", None)
        assert each.cached_name(LATE) == each.name(LATE) == "Texan cities"
    assert neuronpedia.requests == ["model/3-set/417"]


def test_a_cached_name_comes_from_this_disk_only(
    hub: HubServer,
    neuronpedia: NeuronpediaServer,
    opened: Callable[..., FeatureLookup],
    tmp_path: Path,
) -> None:
    commit = hub.add("org/set", save_index(tmp_path / "repo"))
    unnamed = FeatureId(0, 2)
    reader = opened(commit=commit)
    assert reader.cached_name(unnamed) == "" and reader.cached_card(unnamed) is None
    assert hub.requests == [] and neuronpedia.requests == []
    reader.card(unnamed)
    asked = len(hub.requests)
    assert reader.cached_name(unnamed) == reader.name(unnamed) == "b"
    assert len(hub.requests) == asked
    near = opened(save_index(tmp_path / "near"))
    assert near.cached_name(F) == "letters" and near.cached_name(unnamed) == "b"


def test_late_features_also_name_what_they_promote(
    neuronpedia: NeuronpediaServer, opened: Callable[..., FeatureLookup]
) -> None:
    neuronpedia.answers["model/3-set/417"] = feature(explanations=[])
    assert opened(n_layers=5).name(LATE) == "Austin → Texas, TX"
    assert opened(n_layers=6).name(LATE) == "Austin"
    assert opened().name(LATE) == "Austin"


def test_many_are_fetched_with_progress(
    neuronpedia: NeuronpediaServer, opened: Callable[..., FeatureLookup]
) -> None:
    features = [FeatureId(0, index) for index in range(20)]
    for index in range(0, 20, 2):
        neuronpedia.answers[f"model/0-set/{index}"] = feature(maxActApprox=index)
    reports: list[tuple[int, int, str]] = []
    cards = opened().fetch_many([*features, F], lambda *report: reports.append(report))
    assert list(cards) == features[::2]
    assert all(card.act_max == card.feature.index for card in cards.values())
    assert [report[:2] for report in reports] == [(done, 20) for done in range(21)]
    assert len(neuronpedia.requests) == 20


class SlowSource:
    """Answers three times at once, then only after ``finish`` is set."""

    labels: Mapping[FeatureId, Label] = MappingProxyType({})
    n_layers = 0

    def __init__(self) -> None:
        self.finish = threading.Event()
        self.calls = 0
        self._lock = threading.Lock()

    def card(self, feature: FeatureId, network: bool = True) -> None:
        with self._lock:
            self.calls += 1
            number = self.calls
        if number > 3:
            assert self.finish.wait(60)


def test_cancelling_waits_only_for_the_cards_being_fetched() -> None:
    source = SlowSource()

    def progress(done: int, _total: int, _what: str) -> None:
        if done == 3:
            threading.Timer(0.2, source.finish.set).start()
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        FeatureLookup([], [source]).fetch_many([FeatureId(0, i) for i in range(500)], progress)
    assert source.calls <= 3 + 4, "four are fetched at a time"


def test_names_of_sources_cannot_lead_out_of_the_cache_folder(
    neuronpedia: NeuronpediaServer, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    neuronpedia.answers["..%2F..%2Fx/0-..%2Fset/1"] = feature()
    reader = FeatureLookup.open(
        tmp_path, hub=None, neuronpedia=("../../x", "../set"), cache_folder=cache
    )
    assert reader.card(F) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert len(list(cache.rglob("1.bin"))) == 1


@pytest.mark.parametrize("name", ["..", ".", "", "/etc", "a/../../b", ".hidden"])
def test_every_source_has_one_visible_folder(tmp_path: Path, name: str) -> None:
    folder = CardCache(tmp_path, "hub", name).folder.resolve()
    assert folder.parent == tmp_path / "hub" and not folder.name.startswith(".")
