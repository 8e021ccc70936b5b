"""Predicted against measured effects: bars with ticks, dots with a line."""

from __future__ import annotations

import numpy as np
import pytest

from charts.faithfulness_figures import check_sentence, group_check, ranked_figure, scatter_figure
from charts.palette import LIGHT
from tracer.interventions.faithfulness import EffectCheck

CHECK = EffectCheck(
    ("small", "<b>large</b>", "raises"),
    np.array([-0.5, -4.0, 1.0]),
    np.array([-0.3, -3.0, 2.0]),
    "logit of Austin",
)


def test_bars_are_sorted_by_size_with_their_predictions() -> None:
    figure = ranked_figure(CHECK, LIGHT)
    bars, ticks = figure.data
    assert list(bars.x) == [-3.0, 2.0, -0.3]
    assert list(ticks.x) == [-4.0, 1.0, -0.5]
    assert list(bars.marker.color) == [LIGHT.negative, LIGHT.positive, LIGHT.negative]
    assert figure.layout.yaxis.ticktext[0] == "&lt;b&gt;large&lt;/b&gt;"


def test_the_fitted_line_is_the_least_squares_line() -> None:
    figure = scatter_figure(CHECK, LIGHT)
    fitted = next(trace for trace in figure.data if trace.name == "least-squares fit")
    expected = np.polyval(np.polyfit(CHECK.predicted, CHECK.measured, 1), [-4.0, 1.0])
    assert list(fitted.y) == pytest.approx(list(expected))
    dots = figure.data[-1]
    assert list(dots.x) == list(CHECK.predicted) and list(dots.y) == list(CHECK.measured)
    assert "&lt;b&gt;large" in dots.hovertext[1]


def test_one_point_has_no_correlation_and_no_line() -> None:
    assert check_sentence(CHECK) == f"Correlation r = {CHECK.correlation:.2f}, slope 0.96."
    one = EffectCheck(("x",), np.array([1.0]), np.array([1.0]), "")
    assert check_sentence(one) == "Too few distinct effects for a correlation."
    assert not any(trace.name == "least-squares fit" for trace in scatter_figure(one, LIGHT).data)


def test_pairs_of_groups_without_a_possible_effect_are_left_out() -> None:
    predicted = np.array([[np.nan, 0.4], [1.0, np.nan]])
    measured = np.array([[np.nan, 0.5], [1.0, np.nan]])
    check = group_check(["low", "high"], predicted, measured)
    assert check.names == ("high with low off",)
    assert check.predicted == pytest.approx([-0.6])
    assert check.measured == pytest.approx([-0.5])
    assert group_check(["one"], np.array([[np.nan]]), np.array([[np.nan]])).names == ()
