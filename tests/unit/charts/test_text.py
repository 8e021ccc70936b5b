"""How numbers, tokens and changes are worded; and the small figures."""

from __future__ import annotations

import pytest

from charts.distributions import comparison_figure, histogram_figure, token_figure
from charts.text import (
    change_sentence,
    count_text,
    percent,
    plotly_text,
    plural,
    signed,
    times,
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
def test_a_share_is_never_rounded_to_0_or_100_percent(share: float, text: str) -> None:
    assert percent(share) == text


def test_effects_and_strengths_show_their_sign() -> None:
    assert (signed(1.2349), signed(-0.0312)) == ("+1.23", "−0.0312")
    assert (times(-2.0), times(0.25)) == ("−2×", "0.25×")


def test_counts_agree_with_their_noun() -> None:
    assert (plural(1, "feature"), plural(1200, "feature")) == ("1 feature", "1,200 features")


def test_invisible_tokens_are_made_visible() -> None:
    assert token_text(" Austin") == "Austin"
    assert token_text("\n") == "↵" and token_text("  ") == "␣␣" and token_text("") == "(empty)"


def test_long_text_is_cut_with_an_ellipsis() -> None:
    assert truncate("Texas: Dallas, Houston", 14) == "Texas: Dallas…"
    assert truncate("short", 14) == "short"


def test_markup_is_escaped_for_plotly() -> None:
    assert plotly_text("<b>&") == "&lt;b&gt;&amp;"


def tokens(*pairs: tuple[str, float]) -> list[TokenProbability]:
    return [TokenProbability(f" {name}", i, p, 0.0) for i, (name, p) in enumerate(pairs)]


def test_the_change_sentence_names_the_fall_and_the_new_top_token() -> None:
    before = tokens(("Austin", 0.99), ("Phoenix", 0.001))
    after = [before[1]._replace(probability=0.61), before[0]._replace(probability=0.12)]
    sentence = change_sentence(before, after)
    assert sentence == "Austin falls from 99 % to 12 %; Phoenix is now the top token (61 %)."


def test_the_change_sentence_covers_no_change_and_a_token_off_the_list() -> None:
    before = tokens(("Austin", 0.99))
    assert "stays at 99 %" in change_sentence(before, before)
    gone = [TokenProbability(" Paris", 7, 0.5, 0.0), TokenProbability(" Rome", 8, 0.02, 0.0)]
    assert "falls from 99 % to below 2 %" in change_sentence(before, gone)


def test_bars_are_sorted_and_labelled() -> None:
    figure = token_figure(tokens(("Austin", 0.9), ("<b>", 0.05), ("c", 0.01)), limit=2)
    (bars,) = figure.data
    assert list(bars.x) == [0.9, 0.05] and list(bars.text) == ["90 %", "5 %"]
    assert figure.layout.yaxis.ticktext == ("Austin", "&lt;b&gt;")
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1], (
        "the most likely token is at the top"
    )


def test_before_and_after_are_drawn_side_by_side() -> None:
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
def test_parameter_counts_have_units(count: int, text: str) -> None:
    assert count_text(count) == text
