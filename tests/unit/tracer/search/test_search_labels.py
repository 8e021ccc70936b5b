"""A label query finds the right labels in the right order."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import tracer
from tracer.errors import SearchError
from tracer.features.cards import FeatureCard, FeatureIndex, FeatureReader, Label
from tracer.paths import ATLAS_WEIGHTS
from tracer.search.match import parse_feature
from tracer.search.words import Query, Rank, stem
from tracer.types import FeatureId

ROOT = Path(__file__).resolve().parents[4]


class Labels(FeatureReader):
    """A reader that knows labels, and of some features how often they fire."""

    def __init__(
        self, *labels: str | tuple[str, float | None], frequencies: Mapping[int, float] = {}
    ) -> None:
        pairs = [label if isinstance(label, tuple) else (label, None) for label in labels]
        self._labels = {FeatureId(i // 2, i): Label(*pair) for i, pair in enumerate(pairs)}
        self._frequencies = frequencies

    @property
    def labels(self) -> Mapping[FeatureId, Label]:
        return self._labels

    @property
    def n_layers(self) -> int:
        return 0

    def card(self, feature: FeatureId) -> FeatureCard | None:
        frequency = self._frequencies.get(feature.index)
        if frequency is None:
            return None
        return FeatureCard(feature, None, (), (), (), 1.0, frequency, (), 1.0, ())


def found(reader: FeatureReader, query: str, **options: object) -> list[str]:
    matches = tracer.search_labels(reader, query, **options)
    return [match.detail.text for match in matches if isinstance(match.detail, Label)]


@pytest.mark.parametrize(
    ("query", "label"),
    [
        ("city", "names of cities"),
        ("cities", "about a city"),
        ("TEXAS", "about texas"),
        ("straße", "die STRASSE"),
        ("texas capital", "capital of Texas"),
        ("tex", "about Texas"),
        ("running", "someone who runs"),
        ("states", "about the state"),
        ("state", "stating a fact"),
        ("boxes", "a box"),
        ("stop", "stopped here"),
        ("use", "using tools"),
        ("movie", "the movies"),
        ("glass", "glasses"),
        ("bus", "buses"),
        ("of", "“of” in a name"),
        ("“of the”", "end of the line"),
        ('"new york"', "about New York"),
        ("+", "“+”"),
        ("= /", "say = / +"),
        ("state-capital", "capital of a state"),
        ('"unclosed phrase', "an unclosed phrase"),
        ("naïve", "a naïve reading"),
        ("東京", "about 東京"),
    ],
)
def test_a_query_finds(query: str, label: str) -> None:
    assert found(Labels(label), query) == [label]


@pytest.mark.parametrize(
    ("query", "label"),
    [
        ("texas", "about Tex"),
        ("texas capital", "about Texas"),
        ("capital -texas", "capital of Texas"),
        ("capital -cities", "capital city"),
        ('-"new york" state', "state of New York"),
        ('"new york"', "York, a new one"),
        ('"cities"', "about a city"),
        ("king", "about kin"),
        ("ed", "the bed"),
        ("sing", "about s"),
        ("need", "about ne"),
        ("+", "plus"),
    ],
)
def test_a_query_does_not_find(query: str, label: str) -> None:
    assert found(Labels(label), query) == []


def test_an_excluded_word_must_match_a_complete_word() -> None:
    labels = Labels("say a capital", "say Austin", "about Austin")
    assert found(labels, "a -say") == ["about Austin"]
    assert found(labels, "say -a") == ["say Austin"], "“Austin” only begins with an a"
    assert found(labels, "-say") == ["about Austin"]


def test_the_query_itself_comes_first_then_what_begins_with_it_then_the_precise() -> None:
    reader = Labels(
        ("about a capital", 0.7),
        ("capitalism", 0.99),
        ("about the capitals", 0.9),
        ("say capitalised", 0.95),
        ("capital of Texas", 0.5),
        ("Capitals", 0.4),
        ("capital of Ohio", 0.5),
        ("capital of Utah", None),
    )
    assert found(reader, "capital") == [
        "Capitals",
        "capitalism",
        "capital of Texas",
        "capital of Ohio",
        "capital of Utah",
        "about the capitals",
        "about a capital",
        "say capitalised",
    ]
    assert found(reader, "capital", limit=2) == ["Capitals", "capitalism"]


def test_matches_carry_the_label_and_its_precision() -> None:
    reader = Labels(("about Texas", 0.9), ("near Texas", None))
    first, second = tracer.search_labels(reader, "texas")
    assert first == tracer.FeatureMatch(FeatureId(0, 0), 0.9, None, Label("about Texas", 0.9))
    assert second.value == 0 and second.detail == Label("near Texas", None)


def test_layers_and_frequency_narrow_the_search() -> None:
    texts = [f"label {i}" for i in range(8)]
    reader = Labels(*texts, frequencies={0: 0.5, 1: 0.01, 2: 0.3})
    assert found(reader, "label", layers=(1, 2)) == texts[2:6]
    assert found(reader, "label", layers=(3, 99)) == texts[6:]
    assert found(reader, "label", max_frequency=0.3) == texts[1:]
    assert found(reader, "label", max_frequency=0.1, limit=2) == ["label 1", "label 3"]


def test_a_number_finds_its_feature_labelled_or_not() -> None:
    reader = Labels("about Texas", frequencies={5: 0.1})
    for query in ("L0/0", " 0/0", "l0/0"):
        assert found(reader, query) == ["about Texas"]
    assert tracer.search_labels(reader, "L3/5") == (tracer.FeatureMatch(FeatureId(3, 5), 0.0),)
    assert tracer.search_labels(reader, "L3/6") == ()
    assert parse_feature("L3/417") == FeatureId(3, 417)
    assert parse_feature("L3/417x") is None and parse_feature("x3/417") is None


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        ("", {}, "the query is empty"),
        ("  ", {}, "the query is empty"),
        ('""', {}, "the query is empty"),
        ("x", {"limit": 0}, "limit is 0"),
        ("x", {"layers": (3, 1)}, "layers is 3 to 1"),
        ("x", {"layers": (-1, 1)}, "layers is -1 to 1"),
        ("x", {"max_frequency": 2.0}, "max_frequency is 2.0: expected a share"),
    ],
)
def test_queries_that_mean_nothing_are_refused(
    query: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(SearchError, match=message) as caught:
        tracer.search_labels(Labels("x"), query, **options)
    assert "\n" not in str(caught.value) and not str(caught.value).endswith(".")


def test_a_dictionary_without_labels_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="no labels on this disk: build an index"):
        tracer.search_labels(FeatureIndex.open(tmp_path), "texas")


def test_atlas_has_features_about_texas() -> None:
    index = FeatureIndex.open(ATLAS_WEIGHTS / "per-layer")
    matches = tracer.search_labels(index, '"about Texas"', 1000)
    expected = {f for f, label in index.labels.items() if label.text.startswith("about Texas")}
    assert FeatureId(1, 887) in expected and {m.feature for m in matches} >= expected


@pytest.mark.parametrize("label", ["capital", "capitals of states", "a capital", "capitalism"])
def test_ranks(label: str) -> None:
    expected = {"capital": Rank.COMPLETE, "a capital": Rank.WORDS}
    assert Query("capital").rank(label) == expected.get(label, Rank.BEGINNING)


def test_the_quick_look_loses_no_match() -> None:
    """Every word whose stem is that of a query contains the key that labels are filtered by."""
    words = ["city", "cities", "runs", "running", "stopped", "stops", "states", "uses", "using"]
    words += ["ties", "tied", "classes", "adding"]
    for query in words:
        for label in words:
            same = stem(query) == stem(label) or label.startswith(query)
            assert (Query(query).rank(label) is not None) == same


def test_words_are_searched_without_torch() -> None:
    code = (
        "import sys, tracer.search.by_word, tracer.search.example_words\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
