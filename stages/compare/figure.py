"""The comparison as a figure for papers and talks: AUC by method, and differences from the reference."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from textwrap import wrap
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .page import auc_scale, chance_of, difference_scale
from .results import ComparedMethod, Comparison

_INK, _FAINT, _LINE, _BAND = "#1d2126", "#626a73", "#e2e3df", "#f1f1ed"
_FONT: Final = "DejaVu Sans"  # comes with matplotlib, and is therefore the same everywhere
_LETTERS: Final = 30  # in a line of a method's name
_ROW, _AROUND = 0.3, 0.75  # inches
_HEADING, _FURTHER_LINE, _SECOND = 1.1, 0.5, 0.3  # heights in rows: of a heading, of a further line, of a second method
_APART: Final = 0.19  # distance in rows of two methods in one row from its middle


@dataclass(frozen=True)
class _Row:
    """A heading, or one method with and without soft targets."""

    name: str
    methods: tuple[ComparedMethod, ...]

    @property
    def height(self) -> float:
        lines = self.name.count("\n") * _FURTHER_LINE
        return _HEADING if not self.methods else 1 + max(lines, _SECOND * (len(self.methods) - 1))


def comparison_figure(comparison: Comparison, path: Path, *, dpi: int = 200) -> None:
    """Write :func:`forest_plot` as PNG, white and without a title; the same comparison gives the same bytes."""
    figure = forest_plot(comparison)
    FigureCanvasAgg(figure)  # draws without a screen
    figure.savefig(path, format="png", dpi=dpi, metadata={"Software": None})


def forest_plot(comparison: Comparison) -> Figure:
    """Draw AUCs with their 95 % intervals (left), and differences from the reference with theirs (right).

    Methods are in the groups and order of the page; a method with and without soft targets shares a row. Hollow points
    are soft targets, dashed lines the reference, the solid line is chance.
    """
    rows = _rows(comparison)
    tops = [-sum(row.height for row in rows[:i]) for i in range(len(rows) + 1)]
    places = [(top + bottom) / 2 for top, bottom in pairwise(tops)]
    figure = Figure(figsize=(8.6, _AROUND - _ROW * tops[-1]), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.08})

    for axes, scale in ((left, auc_scale(comparison)), (right, difference_scale(comparison))):
        axes.set_xticks(scale.ticks)
        axes.set_xlim(scale.ticks[0], scale.ticks[-1])
        axes.set_ylim(tops[-1], 0)
        axes.tick_params(length=0, labelsize=8, labelfontfamily=_FONT, labelcolor=_FAINT)
        axes.spines[:].set_visible(False)
        axes.spines["bottom"].set(visible=True, color=_FAINT)
        axes.grid(axis="x", color=_LINE, linewidth=0.8)
        axes.set_axisbelow(True)
    left.axvline(chance_of(comparison), color=_FAINT, linewidth=0.8, zorder=1)
    _rule(left, comparison.of_reference.main.value)
    _rule(right, 0)
    _label(left, f"{comparison.measure}, 95 % interval")
    _label(right, f"Difference from {comparison.reference_in_short}, 95 % interval")

    for row, middle, top in zip(rows, places, tops, strict=False):
        if comparison.of_reference in row.methods:
            for axes in (left, right):
                axes.axhspan(top - row.height, top, color=_BAND, linewidth=0, zorder=0)
        for method in row.methods:
            away = 0 if len(row.methods) == 1 else -_APART if method.soft_targets else _APART
            auc, against = method.main, method.against_reference
            _interval(left, method, middle + away, auc.low, auc.value, auc.high)
            if against is not None:
                _interval(right, method, middle + away, against.low, against.difference, against.high)
    left.set_yticks(places, [row.name for row in rows])
    for tick, row in zip(left.yaxis.get_major_ticks(), rows, strict=True):
        weight = "bold" if comparison.of_reference in row.methods else "normal"
        colour, size = (_INK, 9) if row.methods else (_FAINT, 8)
        tick.label1.set(parse_math=False, color=colour, fontsize=size, weight=weight)
    right.tick_params(axis="y", labelleft=False)
    if len({method.soft_targets for method in comparison.methods}) == 2:
        marks = [_mark(name, soft) for name, soft in (("hard labels", False), ("soft targets", True))]
        figure.legend(
            handles=marks, loc="outside upper right", ncols=2, frameon=False, prop={"family": _FONT, "size": 8}
        )
    return figure


def _rows(comparison: Comparison) -> list[_Row]:
    rows = []
    for heading, methods in comparison.groups:
        if len(comparison.groups) > 1:
            rows.append(_Row(heading.split(":")[0], ()))
        for _, of_one in groupby(methods, key=lambda method: method.stem):
            pair = tuple(of_one)
            label = pair[0].title if len(pair) > 1 else pair[0].label
            rows.append(_Row("\n".join(wrap(label, _LETTERS, break_long_words=True)), pair))
    return rows


def _interval(
    axes: Axes, method: ComparedMethod, y: float, low: float | None, value: float | None, high: float | None
) -> None:
    if low is not None and high is not None:
        axes.plot([low, high], [y, y], color=_INK, linewidth=1.4, solid_capstyle="butt")
    if value is not None:
        dot = _mark("", method.soft_targets)
        dot.set(xdata=[value], ydata=[y], clip_on=False)
        axes.add_line(dot)


def _mark(name: str, soft_targets: bool) -> Line2D:
    colour = "white" if soft_targets else _INK
    return Line2D([], [], ls="", marker="o", ms=5, mec=_INK, mew=1.4, mfc=colour, label=name)


def _rule(axes: Axes, at: float | None) -> None:
    if at is not None:
        axes.axvline(at, color=_FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)


def _label(axes: Axes, text: str) -> None:
    axes.set_xlabel("\n".join(wrap(text, 44)), fontsize=9, color=_INK, family=_FONT, parse_math=False)
