"""A corpus of any kind is read document by document; a damaged one is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from observed import CONTEXT, documents, file_bytes, save_text

from tracer.errors import CorpusError
from tracer.indexing import build_index
from tracer.indexing.corpus import Document, open_corpus
from tracer.indexing.prefixes import PrefixSet, prefix_hashes
from tracer.indexing.windows import Position, WindowReader
from tracer.model.model import Model

TEXTS = documents(20)


def save_lines(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def save_table(path: Path, **columns: list[Any]) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def read(path: Path, column: str = "text") -> list[Document]:
    return list(open_corpus(path, column).documents())


def test_every_kind_of_corpus_gives_the_same_index(model: Model, tmp_path: Path) -> None:
    tokens = [model.encode(text) for text in documents(20, longest=14)]
    texts = documents(20, longest=14)
    corpora = [
        save_text(tmp_path / "a.txt", texts),
        save_lines(tmp_path / "b.jsonl", *({"text": text} for text in texts)),
        save_lines(tmp_path / "c.jsonl", *({"tokens": list(ids)} for ids in tokens)),
        save_lines(tmp_path / "d.ndjson", *({"tokens": list(ids[1:])} for ids in tokens)),
        save_table(tmp_path / "e.parquet", text=texts, other=list(range(len(texts)))),
    ]
    built = []
    for corpus in corpora:
        build_index(model, corpus, tmp_path / corpus.stem, context=CONTEXT)
        built.append(file_bytes(tmp_path / corpus.stem))
    assert all(files == built[0] for files in built)


def test_plain_text_is_cut_at_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "book"
    path.write_bytes("\ufeff\n\none\r\ntwo\n \t\n\nthrée".encode())
    found = read(path)
    assert [document.text for document in found] == ["one\ntwo", "thrée"]
    assert [document.location for document in found] == ["line 3", "line 7"]
    assert found[-1].share == 1.0


def test_text_without_blank_lines_is_cut_before_it_fills_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text(("word " * 100 + "\n") * 5000)
    found = read(path)
    assert len(found) == 3 and max(len(d.text or "") for d in found) < 2**20 + 501
    assert sum((d.text or "").count("word") for d in found) == 500_000
    shares = [document.share for document in found]
    assert shares == sorted(shares) and 0 < shares[0] < 0.6
    path.write_text("word " * 500_000)  # one line
    assert max(len(d.text or "") for d in read(path)) <= 2**20


def test_a_parquet_column_of_another_name(tmp_path: Path) -> None:
    path = save_table(tmp_path / "t.parquet", body=["one", None, "two"], number=[1, 2, 3])
    assert [document.text for document in read(path, "body")] == ["one", "two"]
    with pytest.raises(CorpusError, match="no column 'text': it has body, number"):
        read(path)
    with pytest.raises(CorpusError, match=r"'number' .* has type int64: expected strings"):
        read(path, "number")


def test_every_type_of_parquet_text_column_is_read(tmp_path: Path) -> None:
    texts = pyarrow.array(["one", None, "two", "one"])
    for kind in (pyarrow.large_string(), pyarrow.string_view()):
        path = save_table(tmp_path / "t.parquet", text=texts.cast(kind))
        assert [document.text for document in read(path)] == ["one", "two", "one"]
    path = save_table(tmp_path / "t.parquet", text=texts.dictionary_encode())
    assert [document.text for document in read(path)] == ["one", "two", "one"]
    numbers = pyarrow.array([1, 2, 1]).dictionary_encode()
    with pytest.raises(CorpusError, match="expected strings"):
        read(save_table(tmp_path / "t.parquet", text=numbers))


def test_a_parquet_file_with_invalid_or_ambiguous_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    bytes_of_text = pyarrow.array([b"one \xff"]).buffers()[1:]
    wrong = pyarrow.StringArray.from_buffers(1, *bytes_of_text)
    pyarrow.parquet.write_table(pyarrow.table({"text": wrong}), path)
    with pytest.raises(CorpusError, match=r"t\.parquet cannot be read as Parquet .*0xff"):
        read(path)
    twice = pyarrow.table([["one"], ["two"]], names=["text", "text"])
    pyarrow.parquet.write_table(twice, path)
    with pytest.raises(CorpusError, match="has 2 columns 'text': rename all but one"):
        read(path)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_corpus_without_read_permission_is_named(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = save_lines(tmp_path / name, {"text": "w1"})
    opened = Path.open

    def refused(self: Path, *args: Any, **more: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied")
        return opened(self, *args, **more)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(CorpusError, match=rf"{name} cannot be read: Permission denied"):
        build_index(model, path, tmp_path / "features", context=CONTEXT)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "no document that .* can read"),
        ("a.txt", b"\n \n\n", "no document that .* can read"),
        ("a.jsonl", b"\n", "no document that .* can read"),
        ("a.txt", b"w1 nonsense", "can read: 1 documents have unknown words"),
        ("a.txt", b"\xff\xfe w1", "cannot be read as UTF-8 .* save it as UTF-8"),
        ("a.txt", b"w1 w2\nw3\0\0", "line 2 has a zero byte"),
        ("a.csv", b"w1,w2", r"a.csv ends in '.csv': expected a .txt file"),
        ("a.parquet", b"PAR1 no", "cannot be read as Parquet"),
        ("a.jsonl", b'{"text": "w1"}\n{"text": ', "line 2 .* is not JSON"),
        ("a.jsonl", b'{"text": "w1"}\n' + b"[" * 200_000, "line 2 .* is not JSON"),
        ("a.jsonl", b'{"text": "w1"}\n{"text": "w2 \\ud83d"}', "line 2 .* has half a character"),
        ("a.jsonl", b'{"text": "w1", "tags": [["\\ud83d"]]}', '"tags" in line 1 .* cannot be'),
        ("a.jsonl", b'["w1"]', "line 1 .* has no text"),
        ("a.jsonl", b'{"body": "w1", "id": 3}', "has no text .it has body, id."),
        ("a.jsonl", b'{"text": 5}', "has no text"),
        ("a.jsonl", b'{"tokens": [1, "w1"]}', "is not a list of token ids"),
        ("a.jsonl", b'{"tokens": [1, true]}', "is not a list of token ids"),
        ("a.jsonl", b'{"tokens": [1, 99]}', "token id 99, but .* has ids 0 to 59"),
        ("a.jsonl", b'{"text": "w1 w2", "tags": [["x"]]}', "for 1 tokens, but the document has 2"),
        ("a.jsonl", b'{"text": "w1", "tags": [[["x", "y"]]]}', '"tags" in line 1 .* cannot be'),
        ("a.jsonl", b'{"text": "w1", "tags": 3}', '"tags" in line 1 .* cannot be'),
        ("a.jsonl", b'{"text": "w1", "tags": [[["x", "g", "w"]]]}', "group 'g', which is not"),
        ("a.jsonl", b'{"tag_groups": 3}\n{"text": "w1", "tags": [[]]}', '"tag_groups" .* is 3'),
        (
            "a.jsonl",
            b'{"text": "w1"}\n{"text": "w2", "tags": [["x"]]}',
            "the first document has none",
        ),
    ],
)
def test_a_corpus_that_cannot_be_used_is_named(
    model: Model, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=message) as refused:
        build_index(model, path, tmp_path / "features", context=CONTEXT)
    assert name in str(refused.value) and "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == [name], "nothing else is left behind"


def test_a_corpus_is_an_existing_file(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"corpus .*missing.txt does not exist"):
        open_corpus(tmp_path / "missing.txt")
    with pytest.raises(CorpusError, match="is a folder: give a text"):
        open_corpus(tmp_path)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_a_corpus_that_disappears_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.touch()
    corpus = open_corpus(path)
    path.unlink()
    with pytest.raises(CorpusError, match=rf"{name} cannot be read"):
        list(corpus.documents())
    with pytest.raises(CorpusError, match=rf"{name} cannot be read"):
        corpus.digest()


def test_documents_with_unknown_words_are_left_out_and_counted(
    model: Model, tmp_path: Path
) -> None:
    corpus = save_text(tmp_path / "a.txt", ["w1 w2", "w1 what w2", "w3", "who"])
    summary = build_index(model, corpus, tmp_path / "features")
    assert (summary.documents, summary.skipped, summary.tokens) == (2, 2, 3)
    assert str(summary).endswith("3 tokens of 2 documents (2 left out: unknown words)")


def windows(
    model: Model, path: Path, position: Position, batch_tokens: int = 50
) -> tuple[list[list[tuple[int, ...]]], list[Position]]:
    corpus = open_corpus(path)
    reader = WindowReader(model, corpus, 8, corpus.tags()[0], None, position)
    batches, positions = [], []
    while batch := reader.batch(batch_tokens):
        batches.append([window.ids for window in batch])
        positions.append(Position(**vars(reader.position)))
    return batches, positions


def test_long_documents_continue_in_windows_that_begin_like_a_text(
    model: Model, tmp_path: Path
) -> None:
    corpus = save_text(tmp_path / "a.txt", TEXTS)
    batches, _ = windows(model, corpus, Position())
    assert all(len(b) * max(map(len, b)) <= 50 for b in batches)
    joined: list[int] = []
    for ids in (ids for batch in batches for ids in batch):
        assert ids[0] == 1 and 2 <= len(ids) <= 8
        joined += ids[1:]
    tokenizer = model.bridge.tokenizer
    expected = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    assert joined == [token for ids in expected for token in ids]


def test_reading_resumes_from_every_position(model: Model, tmp_path: Path) -> None:
    corpus = save_text(tmp_path / "a.txt", [*TEXTS[:9], "unknown words", *TEXTS[9:]])
    batches, positions = windows(model, corpus, Position())
    assert len(batches) > 8 and positions[-1].unknown == 1
    for done in range(len(batches)):
        rest, later = windows(model, corpus, Position(**vars(positions[done])))
        assert rest == batches[done + 1 :]
        assert later == positions[done + 1 :]


def test_a_prefix_is_new_once() -> None:
    ids = np.random.default_rng(0).integers(0, 3, (4000, 6))
    hashes = prefix_hashes(ids).ravel()
    prefixes = [tuple(row[: stop + 1]) for row in ids.tolist() for stop in range(6)]
    known: set[tuple[int, ...]] = set()
    expected = []
    for prefix in prefixes:
        expected.append(prefix not in known)
        known.add(prefix)
    for parts in (1, 7, 300):
        prefix_set = PrefixSet(10**6)
        new = np.concatenate([prefix_set.add(part) for part in np.array_split(hashes, parts)])
        assert new.tolist() == expected and len(prefix_set) == len(known)
        again = PrefixSet(10**6, prefix_set.hashes())
        assert len(again) == len(prefix_set) and not again.add(hashes).any()


def test_a_full_set_keeps_the_first_prefixes_for_any_batch_size() -> None:
    hashes = prefix_hashes(np.random.default_rng(1).integers(0, 9000, (20_000, 1))).ravel()
    first = set(list(dict.fromkeys(hashes.tolist()))[:5000])
    expected: list[bool] = []
    known: set[int] = set()
    for value in hashes.tolist():
        expected.append(value not in known)
        if value in first:
            known.add(value)
    for parts in (1, 13, 400):
        prefix_set = PrefixSet(5000)
        new = np.concatenate([prefix_set.add(part) for part in np.array_split(hashes, parts)])
        assert len(prefix_set) == 5000 and set(prefix_set.hashes().tolist()) == first
        assert new.tolist() == expected
