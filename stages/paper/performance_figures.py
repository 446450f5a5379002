"""Figures of performance for a paper: ROC, precision and recall, calibration, decision curve, confusion, and others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...models.evaluation.decision_curve import DecisionCurve
from ...models.evaluation.metrics import CalibrationBin, Estimate
from ..pages.numbers import figure as number
from ..pages.numbers import interval
from .print_style import COLUMN, FAINT, INK, LIGHT, STYLES, square

Floats = npt.NDArray[np.float64]
Points = Sequence[tuple[float, float]]


def with_interval(name: str, estimate: Estimate) -> str:
    """A figure as a legend says it, such as ``AUC 0.87 (0.80 – 0.93)``."""
    shown = f"{name} {number(estimate.value)}"
    return shown if estimate.low is None else f"{shown} ({interval(estimate)})"


def _legend_above(axes: Axes, *, columns: int = 1, length: float = 2.6) -> None:
    """Put the legend above the axes, where it hides no curve, whatever the curves are."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.3, ncols=columns, handlelength=length)


def roc_figure(curves: Sequence[tuple[str, Floats]], folds: Sequence[Floats] = ()) -> Figure:
    """Draw ROC curves.

    :param curves: the words of the legend, and the points (points, 2) of 1 - specificity and sensitivity.
    :param folds: curves drawn thin behind them.
    """
    figure, axes = square("1 − specificity", "Sensitivity")
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.7, linestyle=(0, (4, 3)))
    for fold in folds:
        if len(fold):
            axes.plot(fold[:, 0], fold[:, 1], color=FAINT, linewidth=0.6, clip_on=False)
    for place, (name, points) in enumerate(curves):
        if len(points):
            style = STYLES[place % len(STYLES)]
            axes.plot(points[:, 0], points[:, 1], color=INK, linestyle=style, label=name, clip_on=False)
    _legend_above(axes)
    return figure


def precision_recall_figure(points: Floats, name: str, prevalence: float) -> Figure:
    """Draw precision against sensitivity.

    :param points: (points, 2) of sensitivity and precision, steps between them.
    :param prevalence: the share of positive patients, which is what guessing gets.
    """
    figure, axes = square("Sensitivity (recall)", "Positive predictive value (precision)")
    axes.axhline(prevalence, color=FAINT, linewidth=0.7, linestyle=(0, (4, 3)))
    if len(points):
        axes.step(points[:, 0], points[:, 1], where="pre", color=INK, label=name, clip_on=False)
        _legend_above(axes)
    return figure


def calibration_figure(bins: Sequence[CalibrationBin]) -> Figure:
    """Draw the share of positive patients against the mean predicted probability, with Wilson's intervals."""
    figure, axes = square("Mean predicted probability", "Share of positive patients")
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.7, linestyle=(0, (4, 3)))
    for one in bins:
        axes.plot([one.mean_probability] * 2, [one.low, one.high], color=INK, linewidth=1)
    x, y = ([getattr(one, name) for one in bins] for name in ("mean_probability", "share_positive"))
    axes.plot(x, y, color=INK, linewidth=0.7, marker="o", markersize=4, clip_on=False)
    return figure


def decision_figure(curve: DecisionCurve) -> Figure:
    """Draw the net benefit of the model, of treating all and of treating none."""
    figure = Figure(figsize=(COLUMN, COLUMN), layout="constrained")
    axes = figure.subplots()
    top = max(0.01, *curve.model, *curve.treat_all)
    axes.set(xlim=(0, 1), ylim=(-0.15 * top, 1.05 * top), xlabel="Threshold probability", ylabel="Net benefit")
    axes.axhline(0, color=INK, linewidth=0.7, linestyle=STYLES[2], label="treat none")
    axes.plot(curve.thresholds, curve.treat_all, color=FAINT, linestyle=STYLES[1], label="treat all")
    axes.plot(curve.thresholds, curve.model, color=INK, label="model")
    _legend_above(axes, columns=3)
    return figure


def confusion_figure(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Figure:
    """Draw the numbers of patients by label (rows) and call (columns), shaded by the share of the row."""
    size = max(2.2, 0.75 * len(names) + 0.9)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    table = np.asarray(counts, np.float64)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=2)  # black digits stay legible on the darkest
    for (row, column), n in np.ndenumerate(table):
        axes.text(column, row, f"{int(n):,}\n{shares[row, column]:.0%}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="Called", ylabel="Label")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(True)
    return figure


def scatter_figure(labels: Sequence[float], predictions: Sequence[float], name: str) -> Figure:
    """Draw predicted against true numbers."""
    figure = Figure(figsize=(COLUMN, COLUMN), layout="constrained")
    axes = figure.subplots()
    ends = min(*labels, *predictions), max(*labels, *predictions)
    room = 0.05 * (ends[1] - ends[0] or 1)
    limits = ends[0] - room, ends[1] + room
    axes.plot(limits, limits, color=FAINT, linewidth=0.7, linestyle=(0, (4, 3)))
    axes.plot(labels, predictions, "o", markersize=3, markerfacecolor="none", color=INK, label=name)
    axes.set(xlim=limits, ylim=limits, xlabel="True value", ylabel="Predicted value", aspect="equal")
    _legend_above(axes, length=1)
    return figure


def survival_figure(low: Points, high: Points, words: tuple[str, str], time_unit: str) -> Figure:
    """Draw the share without the event of patients with a low and with a high predicted risk.

    :param low, high: the steps of the estimates (time, share).
    :param words: of the legend.
    """
    figure = Figure(figsize=(COLUMN, 0.85 * COLUMN), layout="constrained")
    axes = figure.subplots()
    for points, name, style in ((low, words[0], STYLES[0]), (high, words[1], STYLES[1])):
        if points:
            axes.step(*zip(*points, strict=True), where="post", color=INK, linestyle=style, label=name)
    axes.set(xlim=(0, None), ylim=(0, 1.02), ylabel="Share without the event")
    axes.set_xlabel(f"Time ({time_unit})" if time_unit else "Time")
    _legend_above(axes)
    return figure


def learning_figure(folds: Sequence[tuple[int, Points, Points, int]], loss: str, measure: str) -> Figure:
    """Draw the training loss and the validation's figure by epoch, a line a fold, with a dot at the epoch kept.

    :param folds: number, (epoch, loss), (epoch, figure), and the epoch that was kept.
    """
    several = any(points for _, _, points, _ in folds)
    figure = Figure(figsize=((2 if several else 1) * COLUMN, 0.75 * COLUMN), layout="constrained")
    panels = figure.subplots(1, 2 if several else 1, squeeze=False)[0]
    for axes, which, label in zip(panels, (1, 2), (loss, measure), strict=False):
        for place, fold in enumerate(folds):
            points: Points = fold[which]  # type: ignore[assignment]
            if points:
                x, y = zip(*points, strict=True)
                shade = FAINT if place >= len(STYLES) else INK
                style = STYLES[place % len(STYLES)]
                axes.plot(x, y, color=shade, linewidth=1, linestyle=style, label=f"fold {fold[0]}")
                kept = [value for epoch, value in points if epoch == fold[3]]
                axes.plot([fold[3]] * len(kept), kept, "o", color=shade, markersize=3.5)
        axes.set(xlabel="Epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
    if len(folds) <= 10:
        panels[-1].legend(loc="best", handlelength=2.8, ncols=1 + (len(folds) > 5))
    return figure


def forest_figure(rows: Sequence[tuple[str, str, Estimate | None]], label: str, chance: float | None) -> Figure:
    """Draw figures with their intervals, a row each, and their numbers at the right.

    :param rows: name, number of patients, and the figure; None for a heading.
    :param chance: where a line is drawn.
    """
    figure = Figure(figsize=(1.5 * COLUMN, 0.55 + 0.2 * len(rows)), layout="constrained")
    axes = figure.subplots()
    if chance is not None:
        axes.axvline(chance, color=FAINT, linewidth=0.7, linestyle=(0, (4, 3)))
    for place, (_, n, estimate) in enumerate(rows):
        axes.axhline(place, color=LIGHT, linewidth=0.5, zorder=0)
        if estimate is None or estimate.value is None:
            words = "" if estimate is None else f"too few (n = {n})"
        else:
            words = f"{number(estimate.value)} ({interval(estimate)}), n = {n}"
            if estimate.low is not None and estimate.high is not None:
                axes.plot([estimate.low, estimate.high], [place] * 2, color=INK, linewidth=1.2)
            axes.plot([estimate.value], [place], "s", color=INK, markersize=4)
        axes.text(1.02, place, words, transform=axes.get_yaxis_transform(), va="center", fontsize=7)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    for tick, (_, _, estimate) in zip(axes.yaxis.get_major_ticks(), rows, strict=True):
        tick.label1.set_fontweight("bold" if estimate is None else "normal")
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=label)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return figure
