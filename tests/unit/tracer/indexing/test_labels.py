"""A generated label covers the share of the activation that its precision states."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from observed import CONTEXT, documents, new_windows, observe, read_index, save_text

from tracer.features.cards import FeatureIndex
from tracer.indexing import LabelRule, build_index
from tracer.indexing.corpus import Tag
from tracer.indexing.labels import (
    output_labels,
    shortened,
    tag_labels,
    token_label,
    with_examples,
)
from tracer.indexing.statistics import N_SAMPLED
from tracer.model.model import Model
from tracer.types import FeatureId

RULE = LabelRule()
TEXTS = documents(60, words=8, longest=12)


def word(token: int) -> str:
    return f"w{token}"


def test_one_to_three_tokens_that_cover_the_activation_are_the_label() -> None:
    def label(
        tokens: Sequence[int],
        values: Sequence[float],
        measured: tuple[Sequence[int], Sequence[float]] | None = None,
        occur: int = 1,
        count: int = 8,
    ) -> object:
        """Words are chosen on ``tokens``; all tokens occur ``occur`` times in other text."""
        other_tokens, other_values = measured or (tokens, values)
        every = np.array([*tokens, *other_tokens])
        held_out = np.arange(len(every)) >= len(tokens)
        strengths = np.array([*values, *other_values], np.float32)
        return token_label(
            RULE, every, strengths, held_out, count, np.full(10, occur, np.int64), word
        )

    # of 8 firings 2 / 6 are on w5 in the held-out text, where it occurs 4 times
    assert label([5, 5, 6], [4, 4.5, 1.5], occur=4) == (
        "“w5”", pytest.approx(0.85), pytest.approx(8 * 2 / 6 / 4)
    )  # fmt: skip
    assert label([5, 6, 7], [2, 3, 1]) == ("“w6” / “w5”", pytest.approx(5 / 6), 1.0)
    assert label([5, 6, 7, 8], [3, 3, 3, 1]) == ("“w5” / “w6” / “w7”", pytest.approx(0.9), 1.0)
    assert label([5, 6, 7, 8], [1, 1, 1, 1]) is None
    assert label([5, 5, 5], [1, 1, 1], count=4) is None, "too few observations"
    assert label([5, 5, 5], [1, 1, 1], occur=11) is None, "it fires on 4 of 11 occurrences"
    assert label([5, 5], [1, 1], ([6, 6], [1, 1])) is None, "the choice does not hold elsewhere"
    assert label([5, 5], [3, 1], ([5, 6], [3, 1])) is None, "it covers 75 % of other text"
    assert label([5, 5], [1, 1], ([], [])) == label([], [], ([5, 5], [1, 1]))


def test_a_predicted_token_that_the_feature_promotes_is_the_label() -> None:
    predicted = np.array([[3.0, 0.0, 6.0], [1.0, 1.0, 1.0], [9.0, 0.0, 0.0]])
    promoted = np.array([[4, 5, 6], [4, 5, 6], [4, 5, 6]])
    found = output_labels(
        RULE, predicted, promoted, np.array([10.0, 10.0, 9.0]), np.array([9, 9, 4]), word
    )
    assert found == {0: ("say w6 / w4", pytest.approx(0.9))}


def test_a_tag_needs_precision_and_recall_and_groups_join_tags() -> None:
    tags = [Tag("wide"), Tag("exact"), Tag("about a", "about", "a"), Tag("about b", "about", "b")]
    tag_totals = np.array([100, 10, 50, 50])
    sums = np.array([[10.0, 5, 0, 0], [9.5, 5, 0, 0], [0, 3, 6, 9.99], [0, 2, 3.5, 0.01]])
    counts = np.array([[50, 5, 0, 0], [9, 3, 0, 0], [0, 2, 9, 9], [0, 2, 5, 1]])
    totals = np.array([10.0, 10, 10, 10])
    found = tag_labels(RULE, tags, {"about": "about "}, tag_totals, sums, counts, totals)
    assert found == {
        0: ("exact", 0.95),  # higher recall than the wide one, and precise enough
        2: ("about a / b", 0.95),
        3: ("about a", 0.999),  # fires on part of it only; b is too small to name
    }
    sums[2:, 3] = 7.97, 0.05  # too small to name, but needed to reach the precision
    found = tag_labels(RULE, tags, {"about": "about "}, tag_totals, sums, counts, totals)
    assert found[3] == ("about a / b", pytest.approx(0.802))
    assert tag_labels(RULE, [], {}, tag_totals[:0], sums[:0], counts[:0], totals) == {}


def test_a_label_has_examples_and_stays_short() -> None:
    assert with_examples("Texas: *", ["Dallas", "Waco", "Dallas", "Austin", "Paris"]) == (
        "Texas: Dallas, Waco, Austin"
    )
    assert with_examples("say *", ["x"]) == "say x"
    assert with_examples("plain", ["x"]) == "plain"
    assert shortened("x" * 40) == "x" * 40
    assert shortened("long / " * 9) == "long / long / long / long / long / long…"


def test_token_labels_are_chosen_on_one_half_and_measured_on_the_other(
    model: Model, tmp_path: Path
) -> None:
    build_index(model, save_text(tmp_path / "a.txt", TEXTS), tmp_path / "features", context=CONTEXT)
    odd = Counter(
        ids[position]
        for number, (ids, new) in enumerate(new_windows(model, TEXTS))
        for position in new
        if number % 2
    )
    firings, _ = observe(model, TEXTS)
    labels = FeatureIndex.open(tmp_path).labels
    n_token_labels = n_refused = 0
    for layer, features in enumerate(firings):
        for feature, firing in enumerate(features):
            label = labels.get(FeatureId(layer, feature))
            if len(firing.values) > N_SAMPLED or (label and label.text.startswith("say ")):
                continue
            spent: list[Counter[int]] = [Counter(), Counter()]
            fired: Counter[int] = Counter()
            for token, value, window in zip(
                firing.tokens, firing.values, firing.windows, strict=True
            ):
                spent[window % 2][token] += value  # type: ignore[assignment]
                fired[token] += window % 2
            named: list[int] = []
            for token, _ in spent[0].most_common(3):
                if sum(spent[0][t] for t in named) < 0.8 * spent[0].total():
                    named.append(token)
            covers = sum(spent[0][t] for t in named) >= 0.8 * spent[0].total()
            precision = sum(spent[1][t] for t in named) / max(spent[1].total(), 1e-9)
            recall = sum(fired[t] for t in named) / max(sum(odd[t] for t in named), 1)
            enough = len(firing.values) >= 5 and spent[0] and spent[1]
            if enough and covers and precision >= 0.8 and recall >= 0.4:
                assert label is not None
                words = " / ".join(f"“{model.token_string(token).strip()}”" for token in named)
                assert label.text == words
                assert label.precision == pytest.approx(precision, abs=1e-3)
                assert label.recall == pytest.approx(recall, abs=1e-3)
                n_token_labels += 1
            else:
                assert label is None
                n_refused += bool(enough and covers)
    assert n_token_labels and n_refused, "the other half decides"


def test_output_labels_of_an_untagged_corpus_count_everything(model: Model, tmp_path: Path) -> None:
    build_index(model, save_text(tmp_path / "a.txt", TEXTS), tmp_path / "features", context=CONTEXT)
    firings, _ = observe(model, TEXTS)
    predictions: Counter[str] = Counter()
    for ids, new in new_windows(model, TEXTS):
        logits, _ = model.bridge.capture(torch.tensor(ids), ())
        likeliest = logits.argmax(-1).tolist()
        predictions.update(model.token_string(likeliest[position]) for position in new)
    n_labels = 0
    for layer, records in enumerate(read_index(tmp_path / "features")):
        for feature, record in enumerate(records):
            label = FeatureIndex.open(tmp_path).labels.get(FeatureId(layer, feature))
            firing = firings[layer][feature]
            spent: Counter[str] = Counter()
            fired: Counter[str] = Counter()
            for predicted, value in zip(firing.predicted, firing.values, strict=True):
                word = model.token_string(predicted)
                if word in record["top_logits"]:
                    spent[word] += value  # type: ignore[assignment]
                    fired[word] += 1
            share = spent.total() / max(sum(firing.values), 1e-9)
            if share < 0.8 or len(firing.values) < 5:
                assert label is None or not label.text.startswith("say ")
                continue
            named = [word for word, _ in spent.most_common(3)]
            assert label is not None
            assert label.text == "say " + " / ".join(word.strip() for word in named)
            assert (record["label"], record["label_precision"]) == (label.text, label.precision)
            assert label.precision == pytest.approx(share, abs=1e-3)
            recall = sum(fired[word] for word in named) / sum(predictions[w] for w in named)
            assert label.recall == pytest.approx(recall, abs=1e-3)
            n_labels += 1
    assert n_labels


def test_labels_are_optional(model: Model, tmp_path: Path) -> None:
    corpus = save_text(tmp_path / "a.txt", TEXTS)
    summary = build_index(model, corpus, tmp_path / "features", context=CONTEXT, label=None)
    assert summary.labelled == 0 and not FeatureIndex.open(tmp_path).labels


def test_tag_precision_is_a_share_of_the_total_activation(model: Model, tmp_path: Path) -> None:
    """The tags follow from the words, so the activation they cover is computed again here."""
    lines: list[object] = [{"tag_groups": {"word": "", "pair": "pair "}}]
    for text in TEXTS:
        numbers = [int(token[1:]) for token in text.split()]
        tags = [
            [[f"number {n}", "word", f"{n}"], f"{'even' if n % 2 == 0 else 'odd'}: *"]
            for n in numbers
        ]
        lines.append({"text": text, "tags": tags})
    corpus = tmp_path / "a.jsonl"
    corpus.write_text("\n".join(json.dumps(line) for line in lines))
    shares = {}
    for batch_tokens in (64, 10**6):
        folder = tmp_path / str(batch_tokens)
        build_index(model, corpus, folder, context=CONTEXT, batch_tokens=batch_tokens)
        shares[batch_tokens] = {
            feature: (label.text, label.precision)
            for feature, label in FeatureIndex.open(folder).labels.items()
        }
    assert shares[64] == shares[10**6]
    firings, _ = observe(model, TEXTS)
    every = {token for layer in firings for firing in layer for token in firing.tokens}
    checked: set[str] = set()
    for (layer, feature), (text, precision) in shares[64].items():
        firing = firings[layer][feature]
        numbers = [int(model.token_string(token).strip()[1:]) for token in firing.tokens]
        kind = text.split()[0].rstrip(":")
        if kind in ("even", "odd"):
            holds = [(number % 2 == 0) == (kind == "even") for number in numbers]
        elif kind == "say":
            continue
        else:
            named = {int(part) for part in text.removeprefix("number ").split(" / ")}
            holds = [number in named for number in numbers]
        covered = sum(v for v, tagged in zip(firing.values, holds, strict=True) if tagged)
        assert covered / sum(firing.values) == pytest.approx(precision, abs=1e-3)
        checked.add("number" if kind.isdigit() or "/" in text else kind)
    assert len(checked) >= 2 and len(every) == 8
