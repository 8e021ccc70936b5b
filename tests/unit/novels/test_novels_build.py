"""The build of the embedded model of English: end to end on a made-up book, killed and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_novels import SMALL, save_books

import tracer
from tracer import paths
from tracer.catalog.embedded import gallery, installed
from tracer.errors import CorpusError, ModelError
from tracer.features.cards import FeatureIndex
from tracer.interventions import gallery_checks
from tracer.novels import build as building
from tracer.novels import pronoun_swaps
from tracer.novels.__main__ import main
from tracer.novels.books import read_books
from tracer.novels.build import build
from tracer.novels.evaluation import evaluate
from tracer.novels.token_rows import write_rows
from tracer.types import FeatureId


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_books(tmp_path_factory.mktemp("books") / "books.jsonl")


@pytest.fixture(scope="module")
def built(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished build; the test of kills compares with it."""
    folder = tmp_path_factory.mktemp("built") / "weights"
    build(corpus, folder, threads=torch.get_num_threads(), config=SMALL)
    return folder


def results(folder: Path) -> dict[str, bytes]:
    """The files of a build that must be the same in every build."""
    kinds = (".safetensors", ".yaml", ".gz", ".bin")
    files = [
        path for path in folder.rglob("*") if path.suffix in kinds or path.name == "stamp.json"
    ]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(files)}


class Killed(Exception):
    """The process ends here."""


def killed_at(beginning: str) -> Callable[[str], None]:
    def report(line: str) -> None:
        if line.startswith(beginning):
            raise Killed

    return report


def test_a_build_that_is_killed_again_and_again_ends_with_the_same_files(
    corpus: Path, built: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "weights"
    threads = torch.get_num_threads()
    for line in (
        "model: ", "corpus: ", "per-layer: training", "per-layer: ", "index of per-layer: writing",
        "cross-layer: training", "index of cross-layer: writing", "gallery: ",
    ):  # fmt: skip
        with pytest.raises(Killed):
            build(corpus, folder, killed_at(line), threads, SMALL)
    build(corpus, folder, threads=threads, config=SMALL)
    assert results(folder) == results(built)
    assert not (tmp_path / "weights.work").exists()


def test_a_finished_build_is_left_alone(
    corpus: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("something would be built anew")

    monkeypatch.setattr(building.language_model, "train", refuse)
    monkeypatch.setattr(building, "train_transcoders", refuse)
    monkeypatch.setattr(building, "build_index", refuse)
    build(corpus, built, threads=torch.get_num_threads(), config=SMALL)


def test_another_book_builds_everything_anew(
    corpus: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(corpus.read_text().replace("Lamps", "Other lamps"))
    with pytest.raises(Killed):
        build(other, built, killed_at("tokenizer: "), torch.get_num_threads(), SMALL)


def test_the_result_is_opened_by_its_name(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "NOVELS_WEIGHTS", built)
    assert [model.name for model in installed()] == ["atlas", "novels"]
    for name, cross_layer in (("per-layer", False), ("cross-layer", True)):
        model = tracer.load("novels", name, device="cpu")
        assert model.source.name == model.transcoders.model_name == "novels"
        assert model.transcoders.is_cross_layer == cross_layer
        assert model.transcoders.scan == building.SCANS[name]
        graph = tracer.trace(model, "Anything can be typed here: naïve café!")
        assert len(graph.activations) > 0
    assert tracer.load("novels", device="cpu").source.transcoders == "per-layer"


def test_examples_name_book_and_author(built: Path) -> None:
    index = FeatureIndex.open(built / "per-layer")
    sources = {
        example.source
        for feature in range(48)
        if (card := index.card(FeatureId(1, feature))) is not None
        for group in card.groups
        for example in group.examples
    }
    assert sources == {"Lamps, A. Nobody", "Rivers, B. Nobody"}


def test_without_weights_the_model_is_not_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "NOVELS_WEIGHTS", tmp_path)
    assert [model.name for model in installed()] == ["atlas"]
    with pytest.raises(ModelError, match="novels is not part of this installation"):
        tracer.load("novels")


def test_the_evaluation_has_every_figure(
    corpus: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = gallery("novels")[:3]
    monkeypatch.setattr(gallery_checks, "gallery", lambda name: few)
    monkeypatch.setattr(pronoun_swaps, "NOUNS", pronoun_swaps.NOUNS[:2])
    result = evaluate(corpus, built)
    assert result.ngram_loss is not None and 0 < result.ngram_loss < result.loss
    assert set(result.sets) == set(result.swaps) == {"per-layer", "cross-layer"}
    assert json.loads(json.dumps(result.to_dict()))["tokens"] == result.tokens > 100
    assert "4-grams" in str(result) and "at the noun exchanged" in str(result)


def test_rows_are_of_one_split_and_name_their_books(
    corpus: Path, built: Path, tmp_path: Path
) -> None:
    output = tmp_path / "rows.jsonl"
    arguments = ["--corpus", str(corpus), "--folder", str(built), "--split", "validation"]
    assert main(["rows", *arguments, str(output)]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert {(row["title"], row["author"]) for row in rows} == {
        ("Lamps", "A. Nobody"),
        ("Rivers", "B. Nobody"),
    }
    tokenizer = tracer.load(str(built / "model"), str(built / "per-layer")).bridge.tokenizer
    for row in rows:
        text = tokenizer.decode(row["tokens"], skip_special_tokens=True)
        passages = [p for book in read_books(corpus) for p in book.passages("validation")]
        assert any(text in passage for passage in passages)
    with pytest.raises(CorpusError, match="validation split of the books is empty"):
        write_rows(read_books(corpus)[:0], "validation", tokenizer, output)


def test_the_gallery_is_complete() -> None:
    entries = gallery("novels")
    assert len(entries) >= 20 and len({entry.prompt for entry in entries}) == len(entries)
    assert all(entry.note.endswith((".", "?", "”")) and entry.title for entry in entries)
    assert not any(entry.prompt != entry.prompt.strip() for entry in entries)
    groups = list(dict.fromkeys(entry.group for entry in entries))
    order = [entry.group for entry in entries]
    assert order == sorted(order, key=groups.index), "the sidebar draws each group once"


def test_wrong_arguments_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = ["--corpus", str(tmp_path / "none.jsonl")]
    assert main(["build", *missing, "--folder", str(tmp_path / "w")]) == 2
    assert "cannot be read as books" in capsys.readouterr().err
    assert main(["evaluate", *missing, "--folder", str(tmp_path)]) == 2
    assert "is missing: build it" in capsys.readouterr().err
