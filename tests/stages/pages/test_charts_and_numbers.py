"""What pages are made of: charts, numbers in words, cautions."""

from __future__ import annotations

import re

import numpy as np
import pytest
from jinja2 import Environment
from wsipipe.models.evaluation.metrics import Estimate, binary_metrics
from wsipipe.stages.pages.asked_question import Question
from wsipipe.stages.pages.charts import learning_chart, nice_ticks, place_chart
from wsipipe.stages.pages.numbers import duration, figure, in_hundred, interval, p_value, signed
from wsipipe.stages.pages.report_page import SlotUsage, cautions


def test_diverged_training_is_shown_not_hidden() -> None:
    chart = learning_chart("loss", [[(0, 1.0), (1, float("nan")), (2, 0.5), (3, 0.4)]], "loss", 0)
    assert "nan" not in chart
    assert chart.count("<polyline") == 2, "the best epoch and the run of two"
    assert chart.count("<circle") == 1, "the lone point"


@pytest.mark.parametrize(("last", "ticks"), [(6, "123456"), (27, "1 10 20"), (12, "1 5 10"), (9, "2468"), (1, "12")])
def test_the_axis_shows_where_epochs_begin(last: int, ticks: str) -> None:
    chart = learning_chart("loss", [[(epoch, 1.0) for epoch in range(1, last + 1)]], "loss", 1)
    shown = re.findall(r'class="tick middle"[^>]*>(\d+)<', chart)
    assert shown == (ticks.split() if " " in ticks else list(ticks))


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.874, "87"), (1.0, "100"), (0.9951, "more than 99"), (0.0, "0"), (0.004, "fewer than 1"), (0.5, "50")],
)
def test_nearly_all_does_not_read_as_all(share: float, text: str) -> None:
    assert in_hundred(share) == text


def test_numbers_below_zero_have_a_minus_and_no_dash_between() -> None:
    assert figure(-0.4567) == "−0.46"
    assert figure(-0.001) == "0.00"
    assert signed(0.0712) == "+0.07"
    assert signed(-0.0712) == "−0.07"
    assert signed(0.0001) == signed(-0.0001) == "0.00"
    assert interval(Estimate(value=-0.5, low=-0.8, high=0.1)) == "−0.80 to 0.10"
    assert interval(Estimate(value=0.5, low=0.1, high=0.8)) == "0.10 – 0.80"
    assert p_value(0.0004) == "< 0.001"
    assert p_value(0.0123) == "0.012"
    assert p_value(0.123) == "0.12"
    assert [duration(seconds) for seconds in (None, 1.2345, 75, 7500)] == ["–", "1.23 s", "1 min", "2 h 5 min"]


def test_a_question_names_all_values_of_a_side() -> None:
    asked = Question.of("HER2", ["3+", "2+ amplified"], ["0", "1+"])
    assert (asked.label_column, asked.positive, asked.negative) == ("HER2", "3+, 2+ amplified", "0, 1+")


def metrics_of(n_each: int, shift: float) -> tuple[str, ...]:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], n_each)
    p = 1 / (1 + np.exp(-(rng.normal(size=2 * n_each) + shift * y)))
    return cautions(binary_metrics(y, p, p >= 0.5))


def test_cautions_follow_the_evidence() -> None:
    assert metrics_of(400, 1.5) == ()
    assert any("includes 0.5" in line for line in metrics_of(40, 0))
    assert any("below 0.5" in line for line in metrics_of(100, -2))
    assert any("wide" in line for line in metrics_of(35, 0.7))
    few = metrics_of(8, 40)
    assert len(few) == 3, "told apart without fault: the interval is that of eight pairs"
    assert "Clopper" in few[0]
    assert "wide" in few[1]
    assert "Only 8 patients" in few[2]
    assert "same label" in cautions(binary_metrics([1, 1], [0.2, 0.3], [0, 0]))[0]


def test_effective_slots() -> None:
    assert SlotUsage(fold=0, positive=True, shares=(0.25,) * 4).effective == pytest.approx(4)
    assert SlotUsage(fold=0, positive=True, shares=(1.0, 0.0, 0.0)).effective == pytest.approx(1)


def test_place_chart_puts_the_dot_where_the_probability_is() -> None:
    chart = place_chart(0.25, 0.1, 0.5, positive=False)
    assert 'class="negative" cx="33.0"' in chart
    assert 'class="axis" x1="60.0"' in chart
    assert 'class="spread" x1="22.2" x2="43.8"' in chart
    assert "spread" not in place_chart(0.25, None, 0.5, positive=True)


@pytest.mark.parametrize(
    ("low", "high", "about", "ticks"),
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 0.61, 3, [0, 0.5, 1]),
        (0, 7, 3, [0, 5, 10]),
        (0, 0, 4, [0, 0.5, 1]),
        (-0.3, 0.8, 4, [-0.5, 0, 0.5, 1]),
    ],
)
def test_nice_ticks_surround_the_range(low: float, high: float, about: int, ticks: list[float]) -> None:
    assert nice_ticks(low, high, about) == pytest.approx(ticks)


def test_nice_ticks_inside_and_whole() -> None:
    assert nice_ticks(1, 27, 5, whole=True, inside=True) == [10, 20]
    assert nice_ticks(0, 2, 5, whole=True, inside=True) == [0, 1, 2]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9942, "0.99"),
        (0.9971, "0.997"),
        (0.99971, "0.9997"),
        (0.999999, "&gt; 0.9999"),
        (1.0, "1.00"),
        (0.004, "0.00"),
    ],
)
def test_a_figure_that_is_nearly_perfect_does_not_read_as_perfect(value: float, text: str) -> None:
    page = Environment(autoescape=True).from_string("{{ figure(value) }}").render(figure=figure, value=value)
    assert page == text
