"""A feature index has the numbers of a slow and simple count of the same corpus."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from observed import (
    CONTEXT,
    documents,
    file_bytes,
    logit_effects,
    observe,
    read_index,
    save_text,
)

import tracer
from tracer.errors import Cancelled, CorpusError, FeatureIndexError, MemoryLimitError
from tracer.features.cards import FeatureIndex
from tracer.indexing import LabelRule, build_index, index_memory
from tracer.model.model import Model
from tracer.types import FeatureId

TEXTS = documents(36)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text(tmp_path_factory.mktemp("corpus") / "texts.txt", TEXTS)


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("llama", {}),
        ("gemma2", {"read": "ln2.hook_normalized", "write": "hook_mlp_out"}),
        ("gemma2", {"kind": "cross_layer_transcoder"}),
        ("gpt2", {"kind": "cross_layer_transcoder", "activation": "topk"}),
        ("gpt_oss", {"activation": "relu", "read": "hook_resid_mid"}),
    ],
)
def test_every_number_matches_a_simple_count(
    open_tiny: Callable[..., Model],
    corpus: Path,
    tmp_path: Path,
    architecture: str,
    options: dict[str, str],
) -> None:
    model = open_tiny(architecture, **options)
    summary = build_index(model, corpus, tmp_path / "features", context=CONTEXT)
    firings, n_counted = observe(model, TEXTS)
    assert summary.tokens == n_counted and summary.documents == len(TEXTS)
    n_repeated = sum(len(text.split()) for text in TEXTS) - n_counted
    assert n_repeated > 20, "some prefixes are repeated"
    index = read_index(tmp_path / "features")
    assert [len(layer) for layer in index] == [len(layer) for layer in firings]
    alive = 0
    for layer, (records, expected) in enumerate(zip(index, firings, strict=True)):
        effects = logit_effects(model, layer)
        for feature, (record, firing) in enumerate(zip(records, expected, strict=True)):
            assert record["index"] == feature
            assert record["transcoder_id"] == f"{model.transcoders.scan}-{layer}"
            assert record["activation_frequency"] == len(firing.values) / n_counted
            assert record["act_max"] == pytest.approx(max(firing.values, default=0), abs=2e-4)
            assert record["act_min"] == pytest.approx(firing.least, abs=2e-4)
            for key, order in (
                ("top_logits", effects[feature].argsort()[::-1]),
                ("bottom_logits", effects[feature].argsort()),
            ):
                assert record[key] == list(model.token_strings(order[:8]))
            if not firing.values:
                assert record["examples_quantiles"] == record["histogram"] == []
                continue
            alive += 1
            edges = record["histogram_step"] * np.arange(len(record["histogram"]) + 1)
            counts, _ = np.histogram(firing.values, edges)
            assert record["histogram"] == counts.tolist()
            assert sum(record["histogram"]) == len(firing.values)
            assert 17 <= len(record["histogram"]) <= 32
            top = record["examples_quantiles"][0]
            assert top["quantile_name"] == "Top activations"
            strongest = [firing.shown[place] for place in firing.greedy()]
            assert len(top["examples"]) == len(strongest)
            for example, (ids, column, position) in zip(top["examples"], strongest, strict=True):
                assert example["tokens"] == list(model.token_strings(ids))
                assert example["train_token_ind"] == position
                assert example["tokens_acts_list"] == pytest.approx(column, abs=2e-3)
    assert alive == summary.alive > 30
    assert summary.features == sum(map(len, index))


def test_the_halves_are_random_samples_from_either_side_of_the_median(
    model: Model, corpus: Path, tmp_path: Path
) -> None:
    build_index(model, corpus, tmp_path / "features", context=CONTEXT)
    firings, _ = observe(model, TEXTS)
    checked, errors = 0, []
    for records, expected in zip(read_index(tmp_path / "features"), firings, strict=True):
        for record, firing in zip(records, expected, strict=True):
            quantiles = record["quantile_values"]
            if len(firing.values) < 25:
                assert len(record["examples_quantiles"]) <= 1
                continue
            checked += 1
            values = np.array(firing.values)
            exact = np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95))
            if len(values) <= 128:
                assert quantiles == pytest.approx(exact, abs=2e-4), "the sample is complete"
            errors.append(float((values < quantiles[2]).mean()) - 0.5)
            top, *halves = record["examples_quantiles"]
            assert [half["quantile_name"] for half in halves] == ["Upper half", "Lower half"]
            for half in halves:
                peaks = [e["tokens_acts_list"][e["train_token_ind"]] for e in half["examples"]]
                assert 1 <= len(peaks) <= 4 and peaks == sorted(peaks, reverse=True)
                side = 1 if half["quantile_name"] == "Upper half" else -1
                assert all(side * (peak - quantiles[2]) > -2e-3 for peak in peaks)
                assert not [e for e in half["examples"] if e in top["examples"]]
    assert checked > 30
    assert abs(np.mean(errors)) < 0.02 and max(map(abs, errors)) < 0.15


def test_the_batch_size_does_not_change_the_index(
    model: Model, corpus: Path, tmp_path: Path
) -> None:
    build_index(model, corpus, tmp_path / "large", context=CONTEXT, batch_tokens=10**6)
    large = read_index(tmp_path / "large")
    for batch_tokens in (1, 100):
        folder = tmp_path / str(batch_tokens)
        build_index(model, corpus, folder, context=CONTEXT, batch_tokens=batch_tokens)
        for records, others in zip(read_index(folder), large, strict=True):
            for record, other in zip(records, others, strict=True):
                assert record["histogram"] == other["histogram"]
                assert record["quantile_values"] == pytest.approx(
                    other["quantile_values"], abs=2e-4
                )
                assert record.get("label") == other.get("label")
                for group, same in zip(
                    record["examples_quantiles"], other["examples_quantiles"], strict=True
                ):
                    for example, twin in zip(group["examples"], same["examples"], strict=True):
                        values = twin.pop("tokens_acts_list")
                        assert example["tokens_acts_list"] == pytest.approx(values, abs=2e-3)
                        assert {**twin, "tokens_acts_list": example["tokens_acts_list"]} == example
                        twin["tokens_acts_list"] = values


def test_matrices_left_in_their_files_give_the_same_index(
    model: Model, corpus: Path, tmp_path: Path
) -> None:
    build_index(model, corpus, tmp_path / "in-memory", context=CONTEXT)
    lazy = tracer.load(
        str(model.source.model_folder),
        str(model.source.transcoder_folder),
        device="cpu",
        lazy_decoders=True,
        lazy_encoders=True,
    )
    build_index(lazy, corpus, tmp_path / "lazy", context=CONTEXT)
    assert file_bytes(tmp_path / "lazy") == file_bytes(tmp_path / "in-memory")


def test_bfloat16_gives_about_the_same_index(model: Model, corpus: Path, tmp_path: Path) -> None:
    narrow = tracer.load(
        str(model.source.model_folder),
        str(model.source.transcoder_folder),
        device="cpu",
        dtype="bfloat16",
    )
    build_index(model, corpus, tmp_path / "float32", context=CONTEXT)
    build_index(narrow, corpus, tmp_path / "bfloat16", context=CONTEXT)
    wide, rounded = (
        [record["act_max"] for layer in read_index(tmp_path / name) for record in layer]
        for name in ("float32", "bfloat16")
    )
    assert rounded != wide and rounded == pytest.approx(wide, rel=0.1, abs=0.1)


@pytest.mark.parametrize("stop_at", ["reading", "writing layer 1"])
def test_a_stopped_build_resumes_and_ends_with_the_same_bytes(
    model: Model, corpus: Path, tmp_path: Path, stop_at: str
) -> None:
    def build(folder: str, progress: Callable[[int, int, str], None] | None = None) -> None:
        build_index(
            model,
            corpus,
            tmp_path / folder,
            context=CONTEXT,
            batch_tokens=120,
            checkpoint_tokens=200,
            progress=progress,
        )

    def stop(done: int, total: int, what: str) -> None:
        assert 0 < done <= total
        if what.startswith(stop_at[:12]) and (done > 450 or what != "reading"):
            raise Cancelled("enough")

    reports: list[tuple[int, str]] = []
    build("complete")
    with pytest.raises(Cancelled):
        build("stopped", stop)
    assert not (tmp_path / "stopped").exists(), "only a complete index appears"
    unfinished = tmp_path / "stopped.partial" / "tokens.bin"
    unfinished.write_bytes(unfinished.read_bytes() + b"read after the checkpoint...")
    build("stopped", lambda done, total, what: reports.append((done, what)))
    read = [done for done, what in reports if what == "reading"]
    assert (read and read[0] > 350) if stop_at == "reading" else not read
    assert file_bytes(tmp_path / "stopped") == file_bytes(tmp_path / "complete")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["complete", "stopped"]


def test_an_unfinished_index_of_another_build_is_refused_with_what_differs(
    open_tiny: Callable[..., Model], model: Model, corpus: Path, tmp_path: Path
) -> None:
    def build(model: Model, corpus: Path, context: int = CONTEXT) -> None:
        def stop(done: int, total: int, what: str) -> None:
            if done > 400:
                raise Cancelled("enough")

        build_index(
            model,
            corpus,
            tmp_path / "features",
            context=context,
            batch_tokens=100,
            checkpoint_tokens=200,
            progress=stop,
        )

    with pytest.raises(Cancelled):
        build(model, corpus)
    other = save_text(tmp_path / "other.txt", TEXTS[1:])
    for differs, attempt in (
        ("another context", lambda: build(model, corpus, 8)),
        ("another corpus", lambda: build(model, other)),
        ("another model", lambda: build(open_tiny("qwen2"), corpus)),
    ):
        with pytest.raises(FeatureIndexError, match=differs):
            attempt()
    checkpoint = tmp_path / "features.partial" / "checkpoint.json"
    known = json.loads(checkpoint.read_text())
    (checkpoint.parent / known["state"]).write_bytes(b"damaged")
    with pytest.raises(FeatureIndexError, match=r"checkpoint .* is damaged .* delete"):
        build(model, corpus)
    position = known["position"]
    for damaged in (
        "{",
        "[]",
        "[" * 100_000,
        json.dumps({"identity": known["identity"]}),
        json.dumps(known | {"n_tokens": "many"}),
        json.dumps(known | {"position": None}),
        json.dumps(known | {"position": position | {"depth": 3}}),
        json.dumps(known | {"tag_totals": 3}),
    ):
        checkpoint.write_text(damaged)
        with pytest.raises(FeatureIndexError, match=r"checkpoint .* is damaged .* delete"):
            build(model, corpus)


def test_an_existing_index_is_replaced_only_at_the_end(
    model: Model, corpus: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "features"
    build_index(model, corpus, folder, context=CONTEXT, limit_tokens=50)
    before = file_bytes(folder)

    def watch(done: int, total: int, what: str) -> None:
        assert file_bytes(folder) == before

    summary = build_index(model, corpus, folder, context=CONTEXT, progress=watch)
    assert file_bytes(folder) != before and summary.tokens > 50


def test_a_built_index_is_found_and_read(model: Model, corpus: Path, tmp_path: Path) -> None:
    easy = LabelRule(precision=0.3, recall=0.01)
    summary = build_index(model, corpus, tmp_path / "features", context=CONTEXT, label=easy)
    index = FeatureIndex.open(tmp_path)
    assert len(FeatureIndex.open(tmp_path / "features")) == len(index) == summary.features
    assert len(index.labels) == summary.labelled > 0
    feature, label = next(iter(index.labels.items()))
    assert index.name(feature) == label.text and feature in index.search(label.text, limit=99)
    fires = [
        card
        for layer in range(model.n_layers)
        for number in range(tiny.N_FEATURES)
        if (card := index.card(FeatureId(layer, number))) is not None and card.groups
    ]
    assert len(fires) == summary.alive
    for card in fires:
        example = card.groups[0].examples[0]
        assert max(example.activations) == pytest.approx(card.act_max, abs=2e-3)
        assert card.top_tokens()[0].startswith("w")
        assert 0.94 * card.histogram_top <= card.act_max < card.histogram_top
    assert f"{summary.alive} of them fire" in str(summary) and "left out" not in str(summary)


def test_records_have_the_fields_that_readers_of_the_layout_ask_for(
    model: Model, corpus: Path, tmp_path: Path
) -> None:
    build_index(model, corpus, tmp_path / "features", context=CONTEXT)
    for record in (record for layer in read_index(tmp_path / "features") for record in layer):
        assert isinstance(record["index"], int) and isinstance(record["examples_quantiles"], list)
        for group in record["examples_quantiles"]:
            assert isinstance(group["quantile_name"], str)
            for example in group["examples"]:
                assert len(example["tokens"]) == len(example["tokens_acts_list"])
                assert all(isinstance(token, str) for token in example["tokens"])
                assert all(isinstance(value, float) for value in example["tokens_acts_list"])
                assert example["is_repeated_datapoint"] is False
        for key in ("top_logits", "bottom_logits"):
            assert len(record[key]) == 8 and all(isinstance(token, str) for token in record[key])


def test_a_build_that_does_not_fit_in_memory_is_refused_before_it_runs(
    model: Model, corpus: Path, tmp_path: Path
) -> None:
    needed = index_memory(model, CONTEXT)
    assert index_memory(model, CONTEXT, n_tags=100).kept - needed.kept == 100 * 12 * 3 * 24
    with pytest.raises(MemoryLimitError, match=r"72 features needs about [\d.]+ kB for its"):
        build_index(
            model,
            corpus,
            tmp_path / "features",
            context=CONTEXT,
            memory_limit=needed.total - 1,
            progress=lambda *report: pytest.fail("it ran"),
        )
    assert not list(tmp_path.iterdir())
    build_index(model, corpus, tmp_path / "features", context=CONTEXT, memory_limit=needed.total)


def test_a_limit_of_tokens_stops_after_a_complete_window(
    model: Model, corpus: Path, tmp_path: Path
) -> None:
    summaries = []
    for batch_tokens in (1, 10**6):
        summary = build_index(
            model,
            corpus,
            tmp_path / str(batch_tokens),
            context=CONTEXT,
            batch_tokens=batch_tokens,
            limit_tokens=200,
        )
        summaries.append(summary)
    assert summaries[0] == summaries[1]
    assert 150 < summaries[0].tokens < 200 + CONTEXT


@pytest.mark.parametrize(
    ("option", "value"), [("context", 1), ("batch_tokens", 0), ("limit_tokens", 0)]
)
def test_options_that_leave_nothing_to_read_are_refused(
    model: Model, corpus: Path, tmp_path: Path, option: str, value: int
) -> None:
    with pytest.raises(CorpusError, match=f"{option} is {value}: it must be at least"):
        build_index(model, corpus, tmp_path / "features", **{option: value})
