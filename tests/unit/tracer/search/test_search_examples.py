"""Features are found by the word their examples peak on, from a table that is built once."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from pathlib import Path

import pytest
from hub_server import HubServer

import tracer
from tracer.errors import Cancelled, FeatureIndexError, SearchError
from tracer.features.cards import Example, FeatureIndex
from tracer.features.lookup import FeatureLookup
from tracer.paths import ATLAS_WEIGHTS
from tracer.search import example_words
from tracer.search.by_word import example_words as open_words
from tracer.search.example_words import peak_words, table_path
from tracer.search.match import PeakDetail
from tracer.types import FeatureId

Text = tuple[list[str], list[float]]


def save_index(folder: Path, *layers: list[list[Text] | None]) -> FeatureIndex:
    """An index whose features have these top examples; None is a feature without a record."""
    features = folder / "features"
    features.mkdir(parents=True, exist_ok=True)
    entries = []
    for layer, examples in enumerate(layers):
        contents, offsets = b"", [0]
        for texts in examples:
            if texts is not None:
                contents += record(texts)
            offsets.append(len(contents))
        (features / f"layer_{layer}.bin").write_bytes(contents)
        entries.append({"filename": f"layer_{layer}.bin", "offsets": offsets})
    with gzip.open(features / "index.json.gz", "wt") as file:
        json.dump(entries, file)
    return FeatureIndex.open(folder)


def record(texts: list[Text]) -> bytes:
    examples = [{"tokens": tokens, "tokens_acts_list": values} for tokens, values in texts]
    groups = [{"quantile_name": "Top activations", "examples": examples}] if examples else []
    if examples:
        lower = {"tokens": [" lower"], "tokens_acts_list": [9.0]}
        groups.append({"quantile_name": "Lower half", "examples": [lower]})
    packed = zlib.compress(json.dumps({"examples_quantiles": groups}).encode())
    return struct.pack("<I", len(packed)) + packed


DALLAS: Text = ([" in", " Dallas", " is"], [0.0, 3.0, 0.5])
PIECES: Text = ([" near", " Dall", "as", ","], [0.0, 0.1, 2.0, 0.0])
PARIS: Text = ([" in", " Paris"], [0.2, 1.0])
SILENT: Text = ([" in", " Dallas"], [0.0, 0.0])


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRCUIT_HOME", str(tmp_path / "home"))


@pytest.fixture
def index(tmp_path: Path) -> FeatureIndex:
    return save_index(
        tmp_path / "set",
        [[DALLAS, PARIS], [PIECES, PIECES], None, []],
        [[PARIS, PARIS], [DALLAS], [SILENT, DALLAS, PARIS, PARIS]],
    )


def rows(index: FeatureIndex, word: str, limit: int = 50) -> list[tuple[str, float]]:
    return [(str(m.feature), m.value) for m in tracer.search_examples(index, word, limit)]


def test_features_are_ranked_by_share_then_by_activation(index: FeatureIndex) -> None:
    expected = [("L1/1", 1.0), ("L0/1", 1.0), ("L0/0", 0.5), ("L1/2", 0.25)]
    assert rows(index, " Dallas") == expected
    assert rows(index, "dallas") == rows(index, "DALLAS") == expected
    assert rows(index, "Dallas", 2) == expected[:2]
    assert rows(index, "Paris") == [("L1/0", 1.0), ("L0/0", 0.5), ("L1/2", 0.5)]
    assert rows(index, "in") == rows(index, "lower") == rows(index, "Rome") == []
    best = tracer.search_examples(index, " Dallas", 1)[0]
    assert best.detail == PeakDetail("Dallas", n_peaks=1, n_examples=1, activation=3.0)
    pieces = tracer.search_examples(index, "as")
    assert [match.feature for match in pieces] == [FeatureId(0, 1)]


@pytest.mark.parametrize(
    ("tokens", "peak", "words"),
    [
        ((" in", " Dallas"), 1, {"dallas"}),
        ((" in", " Dall", "as"), 1, {"dall", "dallas"}),
        ((" in", " D", "all", "as", " is"), 2, {"all", "dallas"}),
        (("▁in", "▁Dall", "as", "▁is"), 2, {"as", "dallas"}),
        (("Ġin", "ĠDall", "as", "."), 1, {"dall", "dallas"}),
        ((" in", " Dallas", ","), 2, {","}),
        ((" don", "'t", " go"), 1, {"'t", "don't"}),
        ((" and", "\n", "The"), 1, {"\n"}),
        (("w1", "w2", "w3"), 1, {"w2"}),
        (("Dall", "as", " is"), 0, {"dall", "dallas"}),
        (("<bos>", "As", " is"), 1, {"as"}),
    ],
)
def test_word_pieces_are_joined(tokens: tuple[str, ...], peak: int, words: set[str]) -> None:
    activations = tuple(float(place == peak) for place in range(len(tokens)))
    assert peak_words(Example(tokens, activations)) == words


def test_the_table_is_built_once_and_kept(
    index: FeatureIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = rows(index, "Dallas")
    path = table_path(index)
    assert path.is_file() and path.parents[1].name == "home"

    def read_again(*_: object) -> None:
        raise AssertionError("a card is read again")

    monkeypatch.setattr(FeatureIndex, "card", read_again)
    assert rows(FeatureIndex.open(index.folder), "Dallas") == first
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_an_index_that_was_built_again_is_read_again(tmp_path: Path, index: FeatureIndex) -> None:
    assert rows(index, "Rome") == []
    rome: Text = ([" in", " Rome"], [0.0, 4.0])
    changed = save_index(tmp_path / "set", [[rome]])
    assert table_path(changed) == table_path(index)
    assert rows(changed, "Rome") == [("L0/0", 1.0)] and rows(changed, "Dallas") == []


@pytest.mark.parametrize("contents", [b"", b"not a table", b"\xff" * 200])
def test_a_damaged_table_is_built_again(index: FeatureIndex, contents: bytes) -> None:
    expected = rows(index, "Dallas")
    table_path(index).write_bytes(contents)
    assert rows(index, "Dallas") == expected


def test_progress_counts_features_and_can_stop_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = save_index(tmp_path / "set", [[DALLAS]] * 7)
    monkeypatch.setattr(example_words, "_EVERY", 3)

    def stop(done: int, total: int, what: str) -> None:
        if done == 3:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        tracer.search_examples(index, "Dallas", progress=stop)
    assert not table_path(index).exists()
    seen: list[tuple[int, int]] = []
    open_words(index, lambda done, total, what: seen.append((done, total)))
    assert seen == [(0, 7), (3, 7), (6, 7), (7, 7)]
    seen.clear()
    open_words(index, lambda done, total, what: seen.append((done, total)))
    assert seen == [], "nothing is built the second time"


def test_a_dictionary_of_dead_features_has_a_table_too(tmp_path: Path) -> None:
    index = save_index(tmp_path / "set", [[], None])
    assert rows(index, "Dallas") == [] == rows(index, "Dallas")


def test_more_examples_than_a_column_holds_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example_words, "_MOST", 2)
    index = save_index(tmp_path / "set", [[DALLAS, DALLAS, PARIS]])
    assert rows(index, "Dallas") == [("L0/0", 1.0)]


def test_a_lookup_is_searched_in_its_index_on_this_disk(
    tmp_path: Path, index: FeatureIndex
) -> None:
    options = {"hub": None, "neuronpedia": ("model", "set"), "cache_folder": tmp_path / "cache"}
    lookup = FeatureLookup.open(index.folder, **options)
    assert tracer.search_examples(lookup, "Dallas") == tracer.search_examples(index, "Dallas")
    nothing = FeatureLookup.open(tmp_path / "nothing", **options)
    with pytest.raises(FeatureIndexError, match=r"no complete index on this disk.*build one"):
        tracer.search_examples(nothing, "Dallas")


def test_a_dictionary_that_is_only_on_the_hub_is_reported(
    hub: HubServer, index: FeatureIndex, tmp_path: Path
) -> None:
    commit = hub.add("org/set", index.folder.parent)
    lookup = FeatureLookup.open(
        tmp_path / "nothing",
        hub=("org/set", "", commit),
        neuronpedia=None,
        cache_folder=tmp_path / "cache",
    )
    assert lookup.card(FeatureId(0, 0)) is not None
    with pytest.raises(FeatureIndexError, match="no complete index on this disk"):
        tracer.search_examples(lookup, "Dallas")


def test_no_index_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FeatureIndexError, match="no complete index on this disk"):
        tracer.search_examples(FeatureIndex.open(tmp_path), "Dallas")


def test_damaged_examples_are_reported(index: FeatureIndex) -> None:
    path = index.folder / "layer_0.bin"
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(FeatureIndexError, match=r"feature L0/0 .* build the index again"):
        tracer.search_examples(index, "Dallas")
    assert not table_path(index).exists()


def test_an_index_that_vanished_is_reported(index: FeatureIndex) -> None:
    for path in index.folder.iterdir():
        path.unlink()
    index.folder.rmdir()
    with pytest.raises(FeatureIndexError, match=r"cannot be read .* build it again"):
        tracer.search_examples(index, "Dallas")


def test_a_home_that_cannot_be_written_is_reported(
    index: FeatureIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("CIRCUIT_HOME", str(blocked))
    with pytest.raises(FeatureIndexError, match=r"cannot be kept in .* set CIRCUIT_HOME"):
        tracer.search_examples(index, "Dallas")


@pytest.mark.parametrize(
    ("word", "limit", "message"),
    [
        ("", 5, "the query is empty"),
        ("   ", 5, "the query is empty"),
        ("New York", 5, "'New York' has 2 words: examples are searched for one word at a time"),
        ("Dallas", 0, "limit is 0"),
    ],
)
def test_queries_that_are_not_one_word_are_refused(
    index: FeatureIndex, word: str, limit: int, message: str
) -> None:
    with pytest.raises(SearchError, match=message) as caught:
        tracer.search_examples(index, word, limit)
    assert "\n" not in str(caught.value) and not str(caught.value).endswith(".")


@pytest.mark.parametrize("name", ["per-layer", "cross-layer"])
def test_atlas_features_that_fire_at_dallas_are_about_dallas_or_texas(name: str) -> None:
    index = FeatureIndex.open(ATLAS_WEIGHTS / name)
    matches = tracer.search_examples(index, " Dallas", 5)
    assert len(matches) == 5
    for match in matches:
        card = index.card(match.feature)
        assert card is not None and isinstance(match.detail, PeakDetail)
        peaks = [e.tokens[e.activations.index(max(e.activations))] for e in card.groups[0].examples]
        assert match.detail.n_peaks == peaks.count(" Dallas") == match.value * len(peaks)
    names = [index.name(match.feature) for match in matches]
    assert sum("Texas" in text or "Dallas" in text for text in names) >= 4
