"""The n-gram baseline: probabilities that sum to 1, and a calculation by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tracer.errors import CorpusError
from tracer.novels.ngrams import NGrams

BOS = 0
ROWS = [[BOS, 1, 2, 3], [BOS, 1, 2, 1], [BOS, 2, 3, 2, 3]]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("context", [(), (BOS,), (1,), (1, 2), (BOS, 1, 2), (3, 3, 3), (4, 4)])
def test_probabilities_sum_to_one(order: int, context: tuple[int, ...]) -> None:
    probabilities = NGrams(ROWS, 5, order).probabilities(context)
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-12)
    assert (probabilities > 0).all(), "a token never seen is possible too"


def test_a_bigram_model_agrees_with_the_calculation_by_hand() -> None:
    """Bigrams: 01 twice, 02 once, 12 twice, 21 once, 23 three times, 32 once.

    Discount: three bigrams occur once and two twice, 3 / (3 + 4). Tokens count by what is before
    them: 1 after 0 and 2; 2 after 0, 1 and 3; 3 after 2: 6 in all. One token counts once (3) and
    one twice (1): their discount is 1 / 3.
    """
    unigram = {1: (2 - 1 / 3) / 6, 2: (3 - 1 / 3) / 6, 3: (1 - 1 / 3) / 6}
    spread = (1 / 3 * 3 / 6) / 5  # for each of the five tokens
    unigram = {token: unigram.get(token, 0.0) + spread for token in range(5)}
    discount = 3 / 7
    expected = {
        1: (1 - discount) / 4 + discount * 2 / 4 * unigram[1],
        3: (3 - discount) / 4 + discount * 2 / 4 * unigram[3],
        4: discount * 2 / 4 * unigram[4],
    }
    model = NGrams(ROWS, 5, order=2)
    after_two = model.probabilities([2])
    for token, probability in expected.items():
        assert after_two[token] == pytest.approx(probability)
    after_bos = (2 - discount) / 3 + discount * 2 / 3 * unigram[1]
    loss = -(math.log(after_bos) + math.log(model.probabilities([1])[2])) / 2
    assert model.loss([[BOS, 1, 2]]) == pytest.approx(loss)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_loss_is_that_of_the_probabilities(order: int) -> None:
    rows = [[BOS, 1, 2, 3, 2], [BOS, 4, 4, 1]]
    model = NGrams(ROWS, 5, order)
    logs = [
        math.log(model.probabilities(row[:place])[row[place]])
        for row in rows
        for place in range(1, len(row))
    ]
    assert model.loss(rows) == pytest.approx(-sum(logs) / len(logs))


def test_a_longer_context_helps_where_it_decides() -> None:
    rng = np.random.default_rng(0)
    rows = [[BOS] for _ in range(60)]
    for row in rows:
        row.extend(rng.integers(1, 6, 2).tolist())
        for _ in range(40):
            row.append(1 + (row[-1] + 2 * row[-2]) % 5)  # decided by two tokens, not by one
    losses = [NGrams(rows[:50], 6, order).loss(rows[50:]) for order in (1, 2, 3)]
    assert losses[2] < 0.3 < 0.9 * losses[1]


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(CorpusError, match="no n-gram to count"):
        NGrams([[BOS], []], 5)
    with pytest.raises(CorpusError, match="do not fit in 63 bits"):
        NGrams(ROWS, 2**16, order=4)
    with pytest.raises(CorpusError, match="no token to predict"):
        NGrams(ROWS, 5).loss([[BOS]])
