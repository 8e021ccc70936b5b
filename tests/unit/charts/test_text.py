"""Numbers, tokens and sentences as a person reads them; and the small figures."""

from __future__ import annotations

import pytest

from charts.distributions import comparison_figure, histogram_figure, token_figure
from charts.text import (
    change_sentence,
    count_text,
    percent,
    plotly_text,
    signed,
    token_text,
    truncate,
)
from tracer.interventions.run import TokenChange
from tracer.types import TokenProbability


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0 %"),
        (0.00001, "<0.1 %"),
        (0.004, "0.4 %"),
        (0.03, "3 %"),
        (0.123, "12 %"),
        (0.99, "99 %"),
        (0.99996, "99.9 %"),
        (1, "100 %"),
    ],
)
def test_a_share_is_never_rounded_to_nothing_or_to_all(share: float, text: str) -> None:
    assert percent(share) == text


def test_effects_carry_their_sign() -> None:
    assert (signed(1.2349), signed(-0.0312)) == ("+1.23", "−0.0312")


def test_invisible_tokens_become_visible() -> None:
    assert token_text(" Austin") == "Austin"
    assert token_text("\n") == "↵" and token_text("  ") == "␣␣" and token_text("") == "(empty)"


def test_long_text_is_cut_with_an_ellipsis() -> None:
    assert truncate("Texas: Dallas, Houston", 14) == "Texas: Dallas…"
    assert truncate("short", 14) == "short"


def test_plotly_shows_markup_as_text() -> None:
    assert plotly_text("<b>&") == "&lt;b&gt;&amp;"


def tokens(*pairs: tuple[str, float]) -> list[TokenProbability]:
    return [TokenProbability(f" {name}", i, p, 0.0) for i, (name, p) in enumerate(pairs)]


def test_the_sentence_names_the_fall_and_the_new_first() -> None:
    before = tokens(("Austin", 0.99), ("Phoenix", 0.001))
    after = [before[1]._replace(probability=0.61), before[0]._replace(probability=0.12)]
    sentence = change_sentence(before, after)
    assert sentence == "Austin falls from 99 % to 12 %; Phoenix is now the top token (61 %)."


def test_the_sentence_says_when_nothing_happened_or_the_token_is_gone() -> None:
    before = tokens(("Austin", 0.99))
    assert "stays at 99 %" in change_sentence(before, before)
    gone = [TokenProbability(" Paris", 7, 0.5, 0.0), TokenProbability(" Rome", 8, 0.02, 0.0)]
    assert "falls from 99 % to below 2 %" in change_sentence(before, gone)


def test_bars_stand_in_order_with_their_numbers() -> None:
    figure = token_figure(tokens(("Austin", 0.9), ("<b>", 0.05), ("c", 0.01)), limit=2)
    (bars,) = figure.data
    assert list(bars.x) == [0.9, 0.05] and list(bars.text) == ["90 %", "5 %"]
    assert figure.layout.yaxis.ticktext == ("Austin", "&lt;b&gt;")
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1], "the first is on top"


def test_before_and_after_stand_beside_each_other() -> None:
    changes = [TokenChange(" Austin", 0, 0.9, 0.1), TokenChange(" Paris", 1, 0.0, 0.7)]
    before, after = comparison_figure(changes).data
    assert (before.name, list(before.x)) == ("before", [0.9, 0.0])
    assert (after.name, list(after.x)) == ("after", [0.1, 0.7])
    assert before.marker.color != after.marker.color


def test_the_histogram_spans_the_activations_and_marks_this_prompt() -> None:
    figure = histogram_figure([5, 3, 1, 1], 8.0, activation=3.0)
    (bars,) = figure.data
    assert list(bars.x) == [1.0, 3.0, 5.0, 7.0] and list(bars.y) == [5, 3, 1, 1]
    (line,) = figure.layout.shapes
    assert line.x0 == line.x1 == 3.0
    assert not histogram_figure([1], 1.0).layout.shapes


@pytest.mark.parametrize(
    ("count", "text"),
    [(2614341888, "2.6 B"), (999885952, "1.0 B"), (268098176, "268 M"), (60_000, "60 k"), (7, "7")],
)
def test_parameters_are_counted_in_units_that_people_say(count: int, text: str) -> None:
    assert count_text(count) == text
