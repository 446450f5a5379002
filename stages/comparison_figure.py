"""The forest plot of a comparison as a picture for papers and slides: AUC by method, and how it differs."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .comparison_page import ComparedMethod, Comparison, auc_scale, difference_scale

_INK, _FAINT, _LINE, _BAND = "#1d2126", "#626a73", "#e2e3df", "#f1f1ed"
_FONT: Final = "DejaVu Sans"  # comes with matplotlib, and is therefore the same everywhere
_LETTERS: Final = 30  # in a line of a method's name
_ROW, _AROUND = 0.3, 0.75  # inches
_FURTHER_LINE: Final = 0.5  # what each further line of a name adds to a row, in rows


def comparison_figure(comparison: Comparison, path: Path, *, dpi: int = 200) -> None:
    """Write :func:`forest_plot` as PNG, white and without a title; the same comparison gives the same bytes."""
    figure = forest_plot(comparison)
    FigureCanvasAgg(figure)  # draws without a screen
    figure.savefig(path, format="png", dpi=dpi, metadata={"Software": None})


def forest_plot(comparison: Comparison) -> Figure:
    """Left the AUC with its 95 % interval, right its difference from the reference with that interval.

    Methods run from top to bottom in the order of the comparison; soft targets are hollow, the broken lines are the
    reference, the solid one is chance.
    """
    methods = comparison.methods
    names = ["\n".join(wrap(method.label, _LETTERS, break_long_words=True)) for method in methods]
    heights = [1 + _FURTHER_LINE * name.count("\n") for name in names]
    tops = [-sum(heights[:i]) for i in range(len(heights))]
    places = [top - height / 2 for top, height in zip(tops, heights, strict=True)]
    figure = Figure(figsize=(8.6, _AROUND + _ROW * sum(heights)), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.08})

    for axes, scale in ((left, auc_scale(comparison)), (right, difference_scale(comparison))):
        axes.set_xticks(scale.ticks)
        axes.set_xlim(scale.ticks[0], scale.ticks[-1])
        axes.set_ylim(-sum(heights), 0)
        axes.tick_params(length=0, labelsize=8, labelfontfamily=_FONT, labelcolor=_FAINT)
        axes.spines[:].set_visible(False)
        axes.spines["bottom"].set(visible=True, color=_FAINT)
        axes.grid(axis="x", color=_LINE, linewidth=0.8)
        axes.set_axisbelow(True)
    left.axvline(0.5, color=_FAINT, linewidth=0.8, zorder=1)
    _rule(left, comparison.of_reference.metrics.auc.value)
    _rule(right, 0)
    _label(left, "AUC, 95 % interval")
    _label(right, f"Difference from {comparison.reference_in_short}, 95 % interval")

    for method, y, top, height in zip(methods, places, tops, heights, strict=True):
        auc, against = method.metrics.auc, method.against_reference
        if method.name == comparison.reference:
            for axes in (left, right):
                axes.axhspan(top - height, top, color=_BAND, linewidth=0, zorder=0)
        _interval(left, method, y, auc.low, auc.value, auc.high)
        if against is not None:
            _interval(right, method, y, against.low, against.difference, against.high)
    left.set_yticks(places, names)
    for tick, method in zip(left.yaxis.get_major_ticks(), methods, strict=True):
        tick.label1.set(
            parse_math=False, color=_INK, fontsize=9, weight="bold" if method.name == comparison.reference else "normal"
        )
    right.tick_params(axis="y", labelleft=False)
    return figure


def _interval(
    axes: Axes, method: ComparedMethod, y: float, low: float | None, value: float | None, high: float | None
) -> None:
    if low is not None and high is not None:
        axes.plot([low, high], [y, y], color=_INK, linewidth=1.4, solid_capstyle="butt")
    if value is not None:
        axes.plot(
            [value], [y], "o", ms=5, mec=_INK, mew=1.4, mfc="white" if method.soft_targets else _INK, clip_on=False
        )


def _rule(axes: Axes, at: float | None) -> None:
    if at is not None:
        axes.axvline(at, color=_FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)


def _label(axes: Axes, text: str) -> None:
    axes.set_xlabel("\n".join(wrap(text, 44)), fontsize=9, color=_INK, family=_FONT, parse_math=False)
