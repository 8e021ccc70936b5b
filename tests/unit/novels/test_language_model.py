"""Training the embedded model of English: windows, resuming, and learning at all."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tracer.errors import CorpusError
from tracer.novels.books import HELD_OUT, OPENINGS, Book, opening_texts, read_books
from tracer.novels.language_model import LanguageModelConfig, mean_loss, new_model, train
from tracer.novels.tokenizer import N_CONTEXT, train_tokenizer
from tracer.novels.windows import cut, tokenize, windows

NOUNS = ("cat", "dog", "house", "river", "lamp")


def books(n_paragraphs: int = 400) -> tuple[Book, ...]:
    """A made-up book whose sentences follow one pattern, and the famous first lines."""
    rng = random.Random(0)
    paragraphs = [
        " ".join(
            f"The {a} saw the {b}. Then the {b} ran to the {a}."
            for a, b in (rng.sample(NOUNS, 2) for _ in range(4))
        )
        for _ in range(n_paragraphs)
    ]
    return (Book("Animals", "Nobody", 1, (*OPENINGS, *paragraphs)),)


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return train_tokenizer((text for book in books() for text in book.passages("train")), 400)


SMALL = LanguageModelConfig(
    n_layers=2, d_model=32, d_mlp=64, n_heads=2, epochs=0.8, batch_size=4, micro_batch=2, warm_up=5
)


@pytest.fixture(scope="module")
def trained(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small model after a training that nothing interrupted."""
    return train(tokenizer, books(), SMALL, tmp_path_factory.mktemp("once"), lambda line: None, 10)


def test_held_out_blocks_are_in_no_training_passage() -> None:
    book = Book("t", "a", 1, tuple(f"p{i}" for i in range(30 * HELD_OUT * 2)))
    train_lines = {line for text in book.passages("train") for line in text.split("\n")}
    held_out = {line for text in book.passages("validation") for line in text.split("\n")}
    assert len(held_out) == 60
    assert not train_lines & held_out
    assert train_lines | held_out == set(book.paragraphs)


def test_windows_begin_sentences_and_spell_the_text(tokenizer: object) -> None:
    text = next(books()[0].passages("train"))
    passage = tokenize(text, tokenizer)
    for row in cut(passage, 40, 0):
        spelled = tokenizer.decode(row)  # type: ignore[attr-defined]
        assert spelled in text
        assert spelled[0].isupper() or spelled[0] in "\"'"


def test_windows_cover_the_text(tokenizer: object) -> None:
    passage = tokenize(next(books()[0].passages("train")), tokenizer)
    rows = windows([passage], 1, 64)
    assert all(row[0] == 1 and len(row) <= 64 for row in rows)
    assert sum(len(row) - 1 for row in rows) >= len(passage.ids)


def test_any_text_can_be_encoded_and_comes_back(tokenizer: object) -> None:
    for text in ("Once upon a time", "naïve café ☃", "1 + 1 = 2\n\tDone.", "日本語"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[operator]
        assert tokenizer.decode(ids) == text  # type: ignore[attr-defined]
        assert tokenizer.unk_token_id not in ids  # type: ignore[attr-defined]


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(
    tokenizer: Any, tmp_path: Path
) -> None:
    few = books(200)
    complete = train(tokenizer, few, SMALL, tmp_path / "once", lambda line: None, 10)

    class Killed(Exception):
        pass

    steps = 0

    def stop(line: str) -> None:
        nonlocal steps
        steps += 1
        if steps == 2:  # the report of twenty steps after the first line
            raise Killed

    with pytest.raises(Killed):
        train(tokenizer, few, SMALL, tmp_path / "killed", stop, 10)
    again = train(tokenizer, few, SMALL, tmp_path / "killed", lambda line: None, 10)
    pairs = zip(complete.named_parameters(), again.named_parameters(), strict=True)
    for (name, expected), (_, resumed) in pairs:
        assert torch.equal(resumed, expected), name


def test_it_learns(tokenizer: Any, trained: Any) -> None:
    held_out = [tokenize(text, tokenizer) for text in books(3000)[0].passages("validation")]
    rows = windows(held_out, 1, N_CONTEXT)
    untrained = new_model(tokenizer, SMALL).eval()
    assert mean_loss(trained, rows) < 0.6 * mean_loss(untrained, rows)


def test_a_file_that_is_no_corpus_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "books.jsonl"
    with pytest.raises(CorpusError, match="cannot be read as books"):
        read_books(path)
    path.write_text('{"title": "a"}\n')
    with pytest.raises(CorpusError, match=r"'author'|'text'"):
        read_books(path)
    path.write_text("")
    with pytest.raises(CorpusError, match="has no books"):
        read_books(path)


def test_a_missing_book_is_named() -> None:
    with pytest.raises(CorpusError, match="Alice was beginning"):
        opening_texts((Book("t", "a", 1, ("Something else.",)),))
