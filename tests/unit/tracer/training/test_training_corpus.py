"""A corpus becomes windows on disk, and windows become shards of bounded size."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from small_training import sentences

from tracer.errors import CorpusError
from tracer.indexing.corpus import open_corpus
from tracer.model.model import Model
from tracer.training.corpus_source import CorpusSource
from tracer.training.texts import open_texts
from tracer.training.token_store import TokenStore, split_windows, store_tokens

CONTEXT = 16


def quiet(done: int, total: int, what: str) -> None:
    pass


@pytest.fixture
def store(bare: Callable[..., Model], corpus: Path, tmp_path: Path) -> TokenStore:
    texts = open_texts(corpus)
    return store_tokens(bare(), texts, CONTEXT, 10**9, tmp_path, {"corpus": 1}, quiet)


def test_every_kind_of_file_gives_the_same_tokens(
    bare: Callable[..., Model], tmp_path: Path
) -> None:
    texts = sentences(30)
    plain = "\n\n".join(texts)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    folder = tmp_path / "folder" / "nested"
    folder.mkdir(parents=True)
    (tmp_path / "folder" / "a.txt").write_text("\n\n".join(texts[:9]))
    (folder / "b.jsonl").write_text("".join(lines.splitlines(keepends=True)[9:]))
    (folder / "cover.png").write_bytes(b"png")
    (tmp_path / "t.txt").write_text(plain)
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(plain.encode()))
    (tmp_path / "t.txt.xz").write_bytes(lzma.compress(plain.encode()))
    (tmp_path / "t.jsonl.xz").write_bytes(lzma.compress(lines.encode()))
    tokens = []
    for name in ("t.txt", "t.txt.gz", "t.txt.xz", "t.jsonl.xz", "folder"):
        work = tmp_path / f"{name}.work"
        work.mkdir()
        texts_of = open_texts(tmp_path / name)
        stored = store_tokens(bare(), texts_of, CONTEXT, 10**9, work, {}, quiet)
        tokens.append((stored.tokens.tolist(), stored.starts.tolist(), stored.documents))
    assert all(entry == tokens[0] for entry in tokens)
    assert tokens[0][2] == 30


def test_how_much_of_a_compressed_file_was_read(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.xz"
    lines = "".join(json.dumps({"text": text}) + "\n" for text in sentences(3000))
    path.write_bytes(lzma.compress(lines.encode()))
    shares = [document.share for document in open_corpus(path).documents()]
    assert shares == sorted(shares) and 0 < shares[0] < 1 and shares[-1] == 1.0


@pytest.mark.parametrize("suffix", [".xz", ".gz"])
def test_a_damaged_compressed_file_is_named(tmp_path: Path, suffix: str) -> None:
    compress = {".xz": lzma.compress, ".gz": gzip.compress}[suffix]
    whole = compress("\n\n".join(sentences(300)).encode())
    cut = tmp_path / f"cut.txt{suffix}"
    cut.write_bytes(whole[: len(whole) // 2])
    other = tmp_path / f"other.jsonl{suffix}"
    other.write_bytes(b"plain text")
    for path in (cut, other):
        with pytest.raises(CorpusError, match=f"{path.name} cannot be read"):
            list(open_corpus(path).documents())


def test_a_parquet_file_is_not_read_compressed(tmp_path: Path) -> None:
    (tmp_path / "t.parquet.gz").write_bytes(b"")
    with pytest.raises(CorpusError, match=r"t.parquet.gz ends in '.gz'"):
        open_corpus(tmp_path / "t.parquet.gz")


def test_tokens_are_reused_for_the_same_corpus_only(
    bare: Callable[..., Model], corpus: Path, store: TokenStore, tmp_path: Path
) -> None:
    steps: list[str] = []

    def record(done: int, total: int, what: str) -> None:
        steps.append(what)

    again = store_tokens(
        bare(), open_texts(corpus), CONTEXT, 10**9, tmp_path, {"corpus": 1}, record
    )
    assert not steps and again.tokens.tolist() == store.tokens.tolist()
    less = store_tokens(bare(), open_texts(corpus), CONTEXT, 900, tmp_path, {"corpus": 2}, record)
    assert steps and 900 <= less.starts[-1] < 1200


def test_tokens_that_are_damaged_are_made_again(
    bare: Callable[..., Model], corpus: Path, store: TokenStore, tmp_path: Path
) -> None:
    expected = store.tokens.tolist()
    del store
    with (tmp_path / "tokens.bin").open("ab") as file:
        file.truncate(100)
    again = store_tokens(bare(), open_texts(corpus), CONTEXT, 10**9, tmp_path, {"corpus": 1}, quiet)
    assert again.tokens.tolist() == expected


@pytest.mark.parametrize("share", [0.001, 0.1, 0.9])
def test_held_out_windows_are_blocks_of_about_the_share(store: TokenStore, share: float) -> None:
    training, held_out = split_windows(store, share, seed=1)
    assert sorted([*training, *held_out]) == list(range(store.n_windows))
    assert len(training) >= 1 and len(held_out) >= 1
    assert len(held_out) == pytest.approx(share * store.n_windows, abs=20)
    if share == 0.1:
        neighbours = np.diff(held_out) == 1
        assert neighbours.mean() > 0.85
        assert held_out.tolist() != split_windows(store, share, seed=2)[1].tolist()


def source(model: Model, store: TokenStore, shard_tokens: int = 700) -> CorpusSource:
    return CorpusSource(model, store, np.arange(store.n_windows), shard_tokens, 64, seed=5)


def test_every_pass_has_every_window_once_in_another_order(
    bare: Callable[..., Model], store: TokenStore
) -> None:
    made, n = source(bare(), store), store.n_windows
    passes = made.sequence(0, 3 * n).reshape(3, n)
    assert all(sorted(order) == list(range(n)) for order in passes.tolist())
    assert passes[0].tolist() != passes[1].tolist() != passes[2].tolist()
    assert made.sequence(n - 5, 10).tolist() == passes.flatten()[n - 5 : n + 5].tolist()


def test_shards_follow_one_another_and_keep_within_their_size(
    bare: Callable[..., Model], store: TokenStore
) -> None:
    made = source(bare(), store)
    bounds = [made.bounds(number) for number in range(40)]
    assert bounds[0][0] == 0
    assert all(left[1] == right[0] for left, right in pairwise(bounds))
    sizes = [made.n_tokens(made.sequence(start, stop - start)) for start, stop in bounds]
    assert max(sizes) <= 700 and min(sizes) > 700 - CONTEXT
    assert source(bare(), store).bounds(39) == bounds[39], "also when asked for first"


def test_the_buffer_keeps_within_its_size(bare: Callable[..., Model], store: TokenStore) -> None:
    model = bare()
    peaks = []
    for shard_tokens in (200, 700, 2100):
        made = source(model, store, shard_tokens)
        made.moments()
        for number in range(5):
            list(made.shard(number))
        per_token = 2 * 4 * model.n_layers * model.bridge.d_model
        peaks.append(made.peak_bytes / per_token)
        assert shard_tokens - CONTEXT < peaks[-1] <= shard_tokens
    assert peaks == sorted(peaks)


def test_a_shard_is_what_the_mlps_read_and_write(
    bare: Callable[..., Model], store: TokenStore
) -> None:
    model = bare()
    made = source(model, store)
    batches = list(made.shard(3))
    assert all(batch.inputs.shape == (3, 64, 32) for batch in batches)
    start, stop = made.bounds(3)
    rows = []
    for number in made.sequence(start, stop - start):
        ids = torch.tensor(store.window(int(number)).astype(np.int64))
        _, seen = model.bridge.capture(ids, ["blocks.1.mlp.hook_in", "blocks.2.mlp.hook_out"])
        pair = seen["blocks.1.mlp.hook_in"][1:], seen["blocks.2.mlp.hook_out"][1:]
        rows.append(torch.cat(pair, dim=1))
    expected = torch.cat(rows)
    found = torch.cat([torch.cat([batch.inputs[1], batch.outputs[2]], dim=1) for batch in batches])
    nearest = torch.cdist(found, expected, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    assert float(nearest.values.max()) < 1e-4
    assert len(found) == len(expected) // 64 * 64
    assert nearest.indices.tolist() != sorted(nearest.indices.tolist()), "shuffled"
