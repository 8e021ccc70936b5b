"""Examples name title and author of their text, as far as the corpus does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from observed import CONTEXT, documents, file_bytes, read_index

from tracer.errors import Cancelled, CorpusError
from tracer.features.cards import FeatureIndex
from tracer.indexing import build_index
from tracer.model.model import Model
from tracer.types import FeatureId

NAMES = (
    ({"title": "Lamps", "author": "A. Nobody"}, "Lamps, A. Nobody"),
    ({"title": "Rivers\n of  the north"}, "Rivers of the north"),
    ({"author": "B. Nobody", "title": 3}, "B. Nobody"),
    ({}, ""),
    ({"title": "half a \ud800 character"}, ""),
)
TEXTS = list(dict.fromkeys(documents(60, longest=40)))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    lines = (json.dumps({"text": t, **NAMES[i % len(NAMES)][0]}) for i, t in enumerate(TEXTS))
    path.write_text("\n".join(lines))
    return path


def test_every_example_names_its_own_text(model: Model, corpus: Path, tmp_path: Path) -> None:
    build_index(model, corpus, tmp_path / "features", context=CONTEXT)
    sources: dict[str, set[str]] = {}
    for number, text in enumerate(TEXTS):
        for start in range(0, len(text.split()), CONTEXT - 1):
            window = " ".join(text.split()[start : start + CONTEXT - 1])
            sources.setdefault(window, set()).add(NAMES[number % len(NAMES)][1])
    index = FeatureIndex.open(tmp_path)
    seen: set[str] = set()
    for layer, records in enumerate(read_index(tmp_path / "features")):
        for feature, record in enumerate(records):
            card = index.card(FeatureId(layer, feature))
            assert card is not None
            stored = [e for group in record["examples_quantiles"] for e in group["examples"]]
            shown = [e for group in card.groups for e in group.examples]
            for raw, example in zip(stored, shown, strict=True):
                assert raw.get("source", "") == example.source
                assert ("source" in raw) == bool(example.source)
                text = " ".join(token.strip() for token in example.tokens if token[0] != "<")
                assert example.source in set().union(*(v for k, v in sources.items() if text in k))
                seen.add(example.source)
    assert seen == {source for _, source in NAMES}


def test_a_smaller_index_has_the_strongest_examples_and_fewer_tokens(
    model: Model, corpus: Path, tmp_path: Path
) -> None:
    def groups(folder: str, **options: int) -> list[tuple[str, list[dict[str, Any]]]]:
        build_index(model, corpus, tmp_path / folder, context=CONTEXT, **options)  # type: ignore[arg-type]
        records = [record for layer in read_index(tmp_path / folder) for record in layer]
        shown = [group for record in records for group in record["examples_quantiles"]]
        return [(group["quantile_name"], group["examples"]) for group in shown]

    def peak(example: dict[str, Any]) -> float:
        return float(example["tokens_acts_list"][example["train_token_ind"]])

    def cut(example: dict[str, Any]) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """Two tokens on either side."""
        place = example["train_token_ind"]
        part = slice(max(0, place - 2), place + 3)
        return tuple(example["tokens"][part]), tuple(example["tokens_acts_list"][part])

    every, small = groups("features"), groups("small", examples=3, around=2)
    assert len(every) == len(small) > 50
    for (name, complete), (same_name, shown) in zip(every, small, strict=True):
        assert same_name == name
        assert all(len(example["tokens"]) <= 5 and peak(example) > 0 for example in shown)
        if name != "Top activations":
            assert len(shown) == 1
            continue
        originals = {cut(example) for example in complete}
        assert {cut(example) for example in shown} <= originals
        assert sorted(map(peak, shown)) == sorted(map(peak, complete))[-3:]
    for option in ({"examples": 0}, {"around": -1}):
        with pytest.raises(CorpusError, match="it must be at least"):
            groups("other", **option)


def test_sources_survive_a_stop(model: Model, corpus: Path, tmp_path: Path) -> None:
    def build(folder: str, stop_after: int | None = None) -> None:
        def progress(done: int, total: int, what: str) -> None:
            if stop_after is not None and done > stop_after:
                raise Cancelled("enough")

        build_index(
            model,
            corpus,
            tmp_path / folder,
            context=CONTEXT,
            batch_tokens=100,
            checkpoint_tokens=200,
            progress=progress,
        )

    build("complete")
    for stop_after in (300, 600):
        with pytest.raises(Cancelled):
            build("stopped", stop_after)
        sources = tmp_path / "stopped.partial" / "sources.txt"
        sources.write_bytes(sources.read_bytes() + b"named after the checkpoint\n")
    build("stopped")
    assert file_bytes(tmp_path / "stopped") == file_bytes(tmp_path / "complete")
