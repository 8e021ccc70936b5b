"""A feature index in the published layout is read, and a damaged one is named."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from pathlib import Path

import pytest
from feature_files import save_index

from tracer.errors import FeatureIndexError
from tracer.features.cards import FeatureIndex, Label
from tracer.types import FeatureId


def test_a_card_shows_what_a_feature_fires_on(tmp_path: Path) -> None:
    index = FeatureIndex.open(save_index(tmp_path))
    card = index.card(FeatureId(0, 1))
    assert len(index) == 3 and card is not None
    assert card.label == Label("letters", 0.9) == index.labels[FeatureId(0, 1)]
    assert card.groups[0].examples[0].activations == (0.0, 3.0)
    assert card.top_tokens(2) == ("b", "c")
    assert (card.promoted, card.suppressed, card.frequency) == ((" up",), (" down",), 0.25)


def test_a_feature_without_a_label_or_a_card(tmp_path: Path) -> None:
    index = FeatureIndex.open(save_index(tmp_path))
    card = index.card(FeatureId(0, 2))
    assert card is not None and card.label is None
    for absent in (FeatureId(0, 3), FeatureId(1, 0), FeatureId(0, -1), FeatureId(-1, 0)):
        assert index.card(absent) is None


def test_a_folder_without_an_index_gives_an_empty_one(tmp_path: Path) -> None:
    index = FeatureIndex.open(tmp_path)
    assert len(index) == 0 and index.card(FeatureId(0, 0)) is None


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = save_index(tmp_path)
    path = folder / "features" / "layer_0.bin"
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(FeatureIndexError, match="L0/1"):
        FeatureIndex.open(folder).card(FeatureId(0, 1))
    (folder / "features" / "index.json.gz").write_bytes(b"not gzip")
    with pytest.raises(FeatureIndexError, match=r"index\.json\.gz"):
        FeatureIndex.open(folder)


def packed(raw: object, cut: int = 0) -> bytes:
    contents = zlib.compress(json.dumps(raw).encode())
    contents = contents[: len(contents) - cut]
    return struct.pack("<I", len(contents)) + contents


def test_a_record_that_is_truncated_or_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = FeatureIndex.open(save_index(tmp_path))
    raw = {"examples_quantiles": [], "act_max": 1.0}
    assert index.card_of_record(FeatureId(0, 0), packed(raw)).act_max == 1.0
    with pytest.raises(FeatureIndexError, match="truncated"):
        index.card_of_record(FeatureId(0, 0), packed(raw, cut=4))
    monkeypatch.setattr("tracer.features.records.MAX_RECORD_BYTES", 1000)
    with pytest.raises(FeatureIndexError, match="more than 1000 bytes"):
        index.card_of_record(FeatureId(0, 0), packed(raw | {"padding": "a" * 10_000}))


@pytest.mark.parametrize(
    ("example", "why"),
    [
        ({"tokens": [" a", " b"], "tokens_acts_list": [1.0]}, "not 1 for 2"),
        ({"tokens": [" a"], "tokens_acts_list": [float("nan")]}, "expected a finite number"),
        ({"tokens": [" a"], "tokens_acts_list": [10**400]}, "expected a finite number"),
        ({"tokens": [" a"]}, "not 0 for 1"),
        ({"tokens": [None], "tokens_acts_list": [1.0]}, "tokens.*is None: expected text"),
        (7, "expected keys with values"),
    ],
)
def test_a_malformed_example_is_refused(tmp_path: Path, example: object, why: str) -> None:
    index = FeatureIndex.open(save_index(tmp_path))
    group = {"quantile_name": "Top activations", "examples": [example]}
    with pytest.raises(FeatureIndexError, match=f"feature L0/0 in .* cannot be read .*{why}"):
        index.card_of_record(FeatureId(0, 0), packed({"examples_quantiles": [group]}))


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        (b"[" * 100_000, "it is not JSON"),
        (b'[{"filename": "l.bin", "offsets": [%s]}]' % (b"9" * 5000), "it is not JSON"),
        (b'[{"filename": 1, "offsets": [0]}]', "'filename' of .* is 1: expected text"),
        (b'[{"filename": "l.bin", "offsets": []}]', "'offsets' of .*: expected a list that is not"),
        (b'[{"filename": "l.bin", "offsets": [0, "9"]}]', "is '9': expected a whole number"),
        (b'[{"filename": "a\\u0000b", "offsets": [0]}]', "expected the name of a file"),
    ],
)
def test_a_malformed_index_is_refused(tmp_path: Path, layers: bytes, why: str) -> None:
    folder = save_index(tmp_path)
    (folder / "features" / "index.json.gz").write_bytes(gzip.compress(layers))
    with pytest.raises(FeatureIndexError, match=rf"index\.json\.gz cannot be read \(.*{why}"):
        FeatureIndex.open(folder)


def test_an_index_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_index(tmp_path)
    (folder / "features" / "index.json.gz").write_bytes(gzip.compress(b" " * 10**6 + b"[]"))
    assert len(FeatureIndex.open(folder)) == 0
    monkeypatch.setattr("tracer.features.records.MAX_INDEX_BYTES", 10**6)
    with pytest.raises(FeatureIndexError, match="takes more than 1000000 bytes"):
        FeatureIndex.open(folder)


def test_an_offset_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    folder = save_index(tmp_path)
    layers = [{"filename": "layer_0.bin", "offsets": [2**70, 2**70 + 5]}]
    (folder / "features" / "index.json.gz").write_bytes(gzip.compress(json.dumps(layers).encode()))
    with pytest.raises(FeatureIndexError, match="cannot be a record"):
        FeatureIndex.open(folder).card(FeatureId(0, 0))


def test_an_example_without_tokens_is_left_out(tmp_path: Path) -> None:
    index = FeatureIndex.open(save_index(tmp_path))
    group = {"quantile_name": "Top", "examples": [{"tokens": [], "tokens_acts_list": []}]}
    card = index.card_of_record(FeatureId(0, 0), packed({"examples_quantiles": [group]}))
    assert card.groups[0].examples == () and card.top_tokens() == ()


def test_an_index_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    folder = save_index(tmp_path)
    with gzip.open(folder / "features" / "index.json.gz", "wt") as file:
        json.dump([{"filename": "../../secret", "offsets": [0, 9]}], file)
    with pytest.raises(FeatureIndexError, match="expected the name of a file inside the folder"):
        FeatureIndex.open(folder)


def test_features_are_found_by_all_words_of_their_label_or_by_number(tmp_path: Path) -> None:
    folder = save_index(tmp_path)
    labels = {
        "0": {
            "0": {"label": "about Texas / thin", "precision": 0.8},
            "1": {"label": "about Texas", "precision": 0.9},
            "2": {"label": "about California", "precision": 0.99},
        }
    }
    with gzip.open(folder / "features" / "labels.json.gz", "wt") as file:
        json.dump(labels, file)
    index = FeatureIndex.open(folder)
    texas, thin = FeatureId(0, 1), FeatureId(0, 0)
    assert index.search("texas") == (texas, thin)
    assert index.search("ABOUT thin") == (thin,)
    assert index.search("texas california") == ()
    assert index.search("about", limit=1) == (texas,)
    assert index.search("  ") == ()
    assert index.search("L0/2") == index.search(" 0/2 ") == (FeatureId(0, 2),)
    assert index.search("0/99") == index.search("9/0") == ()
    assert index.search("L0/" + "9" * 5000) == ()
