"""Charts as inline SVG, which take their colours from the page's style for light, dark and print.

Every shape has a class of ``page.css`` and no colour of its own; text stays text, for search and screen readers. The
same numbers give the same bytes. All functions return escaped markup that can be inserted into a page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, floor, isfinite, log10
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from ...models.evaluation.decision_curve import DecisionCurve
from ...models.evaluation.metrics import CalibrationBin

Floats = npt.NDArray[np.float64]
Points = Iterable[tuple[float, float | None]]

_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 44  # px around the plotting area
_SHARES: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_BINS: Final = 20


def roc_chart(pooled: Floats, folds: Sequence[Floats]) -> Markup:
    """Draw ROC curves, (points, 2) each: all patients as a strong line, folds as thin ones. A curve may be empty."""
    plot = Plot("ROC curve", 360, 340, (0, 1), (0, 1))
    plot.x_axis(_SHARES, "1 − specificity")
    plot.y_axis(_SHARES, "Sensitivity")
    plot.line([(0, 0), (1, 1)], "chance")
    for fold in folds:
        plot.line(fold.tolist(), "fold")
    plot.line(pooled.tolist(), "pooled")
    return plot.markup()


def pr_chart(points: Floats, prevalence: float) -> Markup:
    """Draw precision against sensitivity (points, 2) in steps; the dashed line is the share of positive patients."""
    plot = Plot("Precision and recall", 360, 340, (0, 1), (0, 1))
    plot.x_axis(_SHARES, "Sensitivity (recall)")
    plot.y_axis(_SHARES, "Precision (PPV)")
    plot.line([(0, prevalence), (1, prevalence)], "chance")
    corners: list[tuple[float, float | None]] = []
    for recall, precision in points.tolist():
        corners += [(corners[-1][0], precision), (recall, precision)] if corners else [(recall, precision)]
    plot.line(corners, "pooled")
    return plot.markup()


def class_roc_chart(curves: Sequence[Floats]) -> Markup:
    """Draw the ROC curve of each class against the rest, (points, 2) each, in the colours of a series."""
    plot = Plot("ROC curves of the classes", 360, 340, (0, 1), (0, 1))
    plot.x_axis(_SHARES, "1 − specificity")
    plot.y_axis(_SHARES, "Sensitivity")
    plot.line([(0, 0), (1, 1)], "chance")
    for place, curve in enumerate(curves):
        plot.line(curve.tolist(), f"series s{place % 8}")
    return plot.markup()


def probability_chart(labels: Sequence[bool], probabilities: Sequence[float]) -> Markup:
    """Draw histograms of the predicted probability: positive patients upwards, negative ones downwards."""
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=bool)
    counts = [np.histogram(p[y == side], bins=_BINS, range=(0, 1))[0] for side in (True, False)]
    ticks = nice_ticks(0, max(1, *(int(column.max()) for column in counts)), 3, whole=True)
    plot = Plot("Predicted probability by label", 360, 340, (0, 1), (-ticks[-1], ticks[-1]))
    plot.x_axis(_SHARES, "Predicted probability")
    plot.y_axis([*(-tick for tick in ticks[:0:-1]), *ticks], "Patients", show=lambda tick: f"{abs(tick):g}")
    for column, name, sign in zip(counts, ("positive", "negative"), (1, -1), strict=True):
        for i, n in enumerate(column.tolist()):
            if n:
                plot.bar(
                    i / _BINS, (i + 1) / _BINS, 0, sign * n, name, f"{n} {name}, {i / _BINS:g} to {(i + 1) / _BINS:g}"
                )
    plot.line([(0, 0), (1, 0)], "axis")
    return plot.markup()


def calibration_chart(bins: Sequence[CalibrationBin]) -> Markup:
    """Draw the share of positives against the predicted probability, with 95 % intervals of the share."""
    plot = Plot("Calibration", 360, 340, (0, 1), (0, 1))
    plot.x_axis(_SHARES, "Mean predicted probability")
    plot.y_axis(_SHARES, "Share of positive patients")
    plot.line([(0, 0), (1, 1)], "chance")
    for one in bins:
        plot.line([(one.mean_probability, one.low), (one.mean_probability, one.high)], "whisker")
    plot.line([(one.mean_probability, one.share_positive) for one in bins], "fold")
    for one in bins:
        plot.dot(one.mean_probability, one.share_positive, "pooled", f"{one.n} patients")
    return plot.markup()


def scatter_chart(labels: Sequence[float], predictions: Sequence[float]) -> Markup:
    """Draw predicted against true numbers; the line is where both are the same."""
    ticks = nice_ticks(min(*labels, *predictions), max(*labels, *predictions), 5)
    ends = (ticks[0], ticks[-1])
    plot = Plot("Predicted and true values", 360, 340, ends, ends)
    plot.x_axis(ticks, "True value")
    plot.y_axis(ticks, "Predicted value")
    plot.line([(ends[0], ends[0]), (ends[1], ends[1])], "chance")
    for true, predicted in zip(labels, predictions, strict=True):
        plot.dot(true, predicted, "pooled", f"{true:.4g}, predicted {predicted:.4g}")
    return plot.markup()


def survival_chart(
    low: Points, high: Points, time_unit: str = "", followed: tuple[Sequence[float], Sequence[float]] = ((), ())
) -> Markup:
    """Draw the share of patients without the event over time, of those with a low and with a high predicted risk.

    :param low, high: the steps of the estimates (time, share), each to the end of its follow-up.
    :param followed: how long each patient with a low and with a high risk was followed, for the numbers at risk.
    """
    curves = {"negative": list(low), "positive": list(high)}
    ticks = nice_ticks(0, max((time for steps in curves.values() for time, _ in steps), default=1), 5)
    plot = Plot("Share without the event by predicted risk", 360, 340, (0, ticks[-1]), (0, 1))
    plot.x_axis(ticks, f"Time ({time_unit})" if time_unit else "Time")
    plot.y_axis(_SHARES, "Share without the event")
    for style, steps in curves.items():
        corners: list[tuple[float, float | None]] = []
        for time, share in steps:
            corners += [(time, corners[-1][1]), (time, share)] if corners else [(time, share)]
        plot.line(corners, f"series {style}")
    at_risk = [[sum(time >= tick for time in times) for tick in ticks] for times in followed]
    plot.rows_below("At risk", ticks, {"Low": at_risk[0], "High": at_risk[1]})
    return plot.markup()


def decision_chart(curve: DecisionCurve) -> Markup:
    """Draw the net benefit of the model, of treating all and of treating none, by threshold probability."""
    top = max(0.0, *curve.model, *curve.treat_all)
    ticks = nice_ticks(0, max(top, 0.01), 4)
    low = -(ticks[1] - ticks[0])  # what lies below is worse than doing nothing, and not drawn
    plot = Plot("Decision curve", 360, 340, (0, 1), (low, ticks[-1]))
    plot.x_axis(_SHARES, "Threshold probability")
    plot.y_axis([low, *ticks], "Net benefit")
    plot.line([(0, 0), (1, 0)], "axis")
    for values, style in ((curve.treat_all, "fold"), (curve.model, "pooled")):
        plot.line([(t, v if v >= low else None) for t, v in zip(curve.thresholds, values, strict=True)], style)
    return plot.markup()


def learning_chart(
    title: str,
    series: Sequence[Points],
    y_label: str,
    best_epoch: int,
    *,
    share: bool = False,
    styles: Sequence[str] = (),
) -> Markup:
    """Draw values by epoch, one line per series, and mark the epoch that was kept. None and NaN interrupt a line.

    :param series: (epoch, value) points; at most eight series, coloured in their order.
    :param share: whether the values are shares, shown from 0 to 1.
    :param styles: the CSS class of each series, if its colour has a meaning.
    """
    drawn = [[(x, y) for x, y in points] for points in series]
    epochs = [x for points in drawn for x, _ in points] or [best_epoch]
    values = [y for points in drawn for _, y in points if y is not None and isfinite(y)] or [0.0]
    last = max(*epochs, min(epochs) + 1)
    x_ticks = nice_ticks(min(epochs), last, 5, whole=True, inside=True)
    if len(x_ticks) > 1 and x_ticks[0] - min(epochs) > (x_ticks[1] - x_ticks[0]) / 2:
        x_ticks = [min(epochs), *x_ticks]  # shows the reader where counting begins
    y_ticks = _SHARES if share else nice_ticks(min(0.0, *values), max(0.0, *values), 4)
    plot = Plot(title, 330, 190, (min(epochs), last), (y_ticks[0], y_ticks[-1]))
    plot.x_axis(x_ticks, "Epoch")
    plot.y_axis(y_ticks, y_label)
    plot.line([(best_epoch, y_ticks[0]), (best_epoch, y_ticks[-1])], "best")
    for i, points in enumerate(drawn):
        plot.line(points, f"series {styles[i] if styles else f's{i % 8}'}")
    return plot.markup()


def slot_chart(shares: Sequence[float], name: str) -> Markup:
    """Draw the share of tiles that is nearest to each memory slot, largest first; the dashed line is an even share."""
    falling = sorted(shares, reverse=True)
    ticks = nice_ticks(0, max(falling), 4)
    plot = Plot(f"Memory slots, {name}", 360, 200, (0, len(falling)), (0, ticks[-1]))
    plot.x_axis([], f"{len(falling)} slots, most used first")
    plot.y_axis(ticks, "Share of tiles")
    for i, value in enumerate(falling):
        plot.bar(i + 0.1, i + 0.9, 0, value, name, f"{value:.3f}")
    plot.line([(0, 1 / len(falling)), (len(falling), 1 / len(falling))], "chance")
    return plot.markup()


def roc_against(title: str, curve: Points, other: Points) -> Markup:
    """Draw a small ROC curve over another one, which may be empty."""
    plot = Plot(title, 230, 224, (0, 1), (0, 1))
    plot.x_axis((0, 0.5, 1), "1 − specificity")
    plot.y_axis((0, 0.5, 1), "Sensitivity")
    plot.line([(0, 0), (1, 1)], "chance")
    plot.line(other, "fold")
    plot.line(curve, "pooled")
    return plot.markup()


def place_chart(probability: float, spread: float | None, threshold: float, positive: bool) -> Markup:
    """Draw one probability on a line from 0 to 1, for a table cell: spread as a bar, threshold as a tick."""
    x = [6 + 108 * min(max(value, 0), 1) for value in (probability, threshold)]
    parts = ['<line class="grid" x1="6" x2="114" y1="9" y2="9"/>']
    if spread is not None:
        low, high = (6 + 108 * min(max(probability + side * spread, 0), 1) for side in (-1, 1))
        parts.append(f'<line class="spread" x1="{low:.1f}" x2="{high:.1f}" y1="9" y2="9"/>')
    parts.append(f'<line class="axis" x1="{x[1]:.1f}" x2="{x[1]:.1f}" y1="3" y2="15"/>')
    parts.append(f'<circle class="{"positive" if positive else "negative"}" cx="{x[0]:.1f}" cy="9" r="4.5"/>')
    return Markup('<svg class="place" width="120" height="18" viewBox="0 0 120 18" aria-hidden="true">{}</svg>').format(
        Markup("".join(parts))
    )


@dataclass(frozen=True)
class Scale:
    """An axis across the rows of a table, or of a figure."""

    ticks: tuple[float, ...]

    @classmethod
    def around(cls, values: Iterable[float | None], middle: float) -> Self:
        """An axis that includes all known values and ``middle``."""
        known = [value for value in values if value is not None and isfinite(value)]
        return cls(tuple(nice_ticks(min(middle, *known, middle), max(middle, *known, middle + 0.1), 5)))

    def at(self, value: float) -> str:
        """Position of a value on the axis, in per cent of the cell's width; values beyond an end are at the end."""
        low, high = self.ticks[0], self.ticks[-1]
        share = min(max((value - low) / (high - low), 0), 1)
        return f"{5 + 90 * share:.2f}%"


def nice_ticks(low: float, high: float, about: int, *, whole: bool = False, inside: bool = False) -> list[float]:
    """About ``about`` round numbers (1, 2, 5 × a power of ten apart) around [low, high].

    :param whole: integers only.
    :param inside: only numbers within [low, high]; otherwise there are at least two.
    """
    if not high > low:
        high = low + 1
    raw = (high - low) / about
    decade = 10.0 ** floor(log10(raw))
    step = decade * next(s for s in (1, 2, 5, 10) if s * decade >= raw * (1 - 1e-9))
    if whole:
        step = max(1.0, step)
    first, last = low / step, high / step
    # Without the margin, 0.6000000000000001 would need another tick.
    start, stop = (ceil(first - 1e-9), floor(last + 1e-9)) if inside else (floor(first + 1e-9), ceil(last - 1e-9))
    return [round(i * step, 12) for i in range(start, stop + 1)]


def _number(tick: float) -> str:
    return f"{tick:g}".replace("-", "−")


@dataclass
class Plot:
    """A plotting area with its axes; values in the units of the data."""

    title: str
    width: int
    height: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    _parts: list[str] = field(default_factory=list)
    _below: int = 0
    """Height of what is written below."""

    def _x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (value - low) / (high - low) * (self.width - _LEFT - _RIGHT)

    def _y(self, value: float) -> float:
        low, high = self.y_range
        return self.height - _BOTTOM - (value - low) / (high - low) * (self.height - _TOP - _BOTTOM)

    def x_axis(self, ticks: Iterable[float], label: str) -> None:
        """Draw grid lines, the numbers below them, and the label of the axis."""
        bottom = self.height - _BOTTOM
        for tick in ticks:
            x = self._x(tick)
            self._parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>')
            self._text(x, bottom + 16, _number(tick), "tick middle")
        self._text((_LEFT + self.width - _RIGHT) / 2, self.height - 8, label, "middle")

    def rows_below(self, heading: str, ticks: Sequence[float], rows: Mapping[str, Sequence[int]]) -> None:
        """Write rows of numbers below the chart, each under its tick of the horizontal axis."""
        self._text(4, self.height + 14, heading, "tick")
        for place, (name, numbers) in enumerate(rows.items(), start=2):
            self._text(4, self.height + 14 * place, name, "tick")
            for tick, number in zip(ticks, numbers, strict=True):
                self._text(self._x(tick), self.height + 14 * place, f"{number:,}", "tick middle")
        self._below = 14 * (len(rows) + 1) + 6

    def y_axis(self, ticks: Iterable[float], label: str, show: Callable[[float], str] | None = None) -> None:
        """Draw the axis at the left, as :meth:`x_axis`; ``show`` formats the numbers."""
        for tick in ticks:
            y = self._y(tick)
            self._parts.append(
                f'<line class="grid" x1="{_LEFT}" x2="{self.width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            self._text(_LEFT - 7, y + 4, (show or _number)(tick), "tick end")
        middle = (_TOP + self.height - _BOTTOM) / 2
        self._parts.append(
            f'<text class="middle" transform="translate(13 {middle:.1f}) rotate(-90)">{escape(label)}</text>'
        )

    def line(self, points: Points, style: str) -> None:
        """Draw a line through the points, interrupted at None and NaN; a point between two gaps becomes a dot."""
        runs: list[list[str]] = [[]]
        for x, y in points:
            if y is None or not isfinite(y):
                runs.append([])
            else:
                runs[-1].append(f"{self._x(x):.1f},{self._y(y):.1f}")
        for run in runs:
            if len(run) > 1:
                self._parts.append(f'<polyline class="{style}" points="{" ".join(run)}"/>')
            elif run:
                x_text, y_text = run[0].split(",")
                self._parts.append(f'<circle class="{style} lone" cx="{x_text}" cy="{y_text}" r="2.5"/>')

    def dot(self, x: float, y: float, style: str, title: str) -> None:
        """Draw a dot with a tooltip."""
        place = f'cx="{self._x(x):.1f}" cy="{self._y(y):.1f}"'
        self._parts.append(f'<circle class="{style}" {place} r="4.5"><title>{escape(title)}</title></circle>')

    def bar(self, x0: float, x1: float, y0: float, y1: float, style: str, title: str) -> None:
        """Draw a filled rectangle with a tooltip."""
        left, right = self._x(x0) + 0.5, self._x(x1) - 0.5
        top, bottom = sorted((self._y(y0), self._y(y1)))
        place = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"'
        self._parts.append(f'<rect class="{style}" {place}><title>{escape(title)}</title></rect>')

    def markup(self) -> Markup:
        """The chart as SVG, at its own size or as wide as its container allows."""
        title = escape(self.title)
        height = self.height + self._below
        return Markup(
            f'<svg class="chart" role="img" aria-label="{title}" width="{self.width}" height="{height}" '
            f'viewBox="0 0 {self.width} {height}">{"".join(self._parts)}</svg>'
        )

    def _text(self, x: float, y: float, text: str, style: str) -> None:
        self._parts.append(f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>')
