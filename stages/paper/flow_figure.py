"""The cohort flow as a figure for a paper, after the diagrams of CONSORT and STARD."""

from __future__ import annotations

from textwrap import wrap
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .cohort_flow import CohortFlow, Step
from .print_style import INK

_BOX, _SIDE, _GAP = 1.5, 1.55, 0.22  # inches: width of a box, of what is dropped beside it, and between both
_LINE, _AROUND, _BETWEEN = 0.135, 0.07, 0.28  # height of a line, space in a box above and below it, and between boxes
_TURN: Final = 0.12  # how far above the last box the lines of both ways turn towards it
_LETTERS: Final = 15.5  # of 7 points in an inch, at the least
_MOST_REASONS: Final = 5
_ARROW: Final[dict[str, Any]] = {
    "arrowstyle": "-|>",
    "color": INK,
    "lw": 0.7,
    "shrinkA": 0,
    "shrinkB": 0,
    "mutation_scale": 7,
}


def flow_figure(flow: CohortFlow) -> Figure:
    """Draw slides at the left and patients at the right, both ending in those who were used, and the folds below."""
    ways = (flow.slides[:-1], flow.patients[:-1])
    heights = [sum(_height_of(step) for step in way) for way in ways]
    folds = ", ".join(f"{number:,}" for _, number in flow.tested)
    used = _lines(
        f"{flow.patients[-1].number:,} patients used with {flow.slides[-1].number:,} slides; "
        f"{flow.with_rna:,} of them with RNA",
        2 * _BOX,
    )
    tested = _lines(f"{len(flow.tested)} folds, each tested on {folds} patients", 2 * _BOX)
    widths = [_BOX + (_GAP + _SIDE if any(step.dropped for step in way) else 0.35) for way in ways]
    width = sum(widths) + 0.2
    bottom = _box_height(used) + _BETWEEN + _box_height(tested)
    height = max(heights) + bottom + 0.04
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    starts = (0.02, widths[0] + 0.15)
    ends = [_way(axes, way, start) for way, start in zip(ways, starts, strict=True)]
    top = max(heights) + 0.02
    middle = (ends[0][0] + ends[1][0]) / 2
    left = middle - _BOX * 1.05
    for x, y in ends:
        axes.plot([x, x], [y, top - _TURN], color=INK, linewidth=0.7, solid_capstyle="butt")
        axes.plot(
            [x, min(max(x, left + 0.2), left + 2.1 * _BOX - 0.2)],
            [top - _TURN] * 2,
            color=INK,
            linewidth=0.7,
            solid_capstyle="butt",
        )
        _arrow(axes, (min(max(x, left + 0.2), left + 2.1 * _BOX - 0.2), top - _TURN), top)
    _box(axes, left, top, 2.1 * _BOX, used, centred=True)
    below = top + _box_height(used)
    _arrow(axes, (middle, below), below + _BETWEEN)
    _box(axes, left, below + _BETWEEN, 2.1 * _BOX, tested, centred=True)
    return figure


def _way(axes: Axes, steps: tuple[Step, ...], x: float) -> tuple[float, float]:
    """Draw the steps of one way, one below the other; where its last line ends."""
    y, middle = 0.02, x + _BOX / 2
    for step in steps:
        own, side = _lines(f"{step.name}: {step.number:,}", _BOX), _dropped(step)
        _box(axes, x, y, _BOX, own, centred=True)
        end = y + _height_of(step)
        if side:
            at = y + _box_height(own) + _BETWEEN / 2 + _box_height(side) / 2 - 0.06
            _box(axes, x + _BOX + _GAP, at - _box_height(side) / 2, _SIDE, side, centred=False)
            _arrow_right(axes, (middle, at), x + _BOX + _GAP)
        if step is not steps[-1]:
            _arrow(axes, (middle, y + _box_height(own)), end)
        else:
            axes.plot(
                [middle, middle], [y + _box_height(own), end - _TURN], color=INK, linewidth=0.7, solid_capstyle="butt"
            )
        y = end
    return middle, y - _TURN


def _dropped(step: Step) -> list[str]:
    """The lines of the box beside a step: how many were dropped after it, and why."""
    if not step.dropped:
        return []
    lines = [f"Dropped: {step.left_out:,}"]
    for one in step.dropped[:_MOST_REASONS]:
        lines += _lines(f"{one.reason}: {len(one.names):,}", _SIDE - 0.1, indent="  ")
    if rest := step.dropped[_MOST_REASONS:]:
        lines.append(f"  {len(rest)} other reasons: {sum(len(one.names) for one in rest):,}")
    return lines


def _height_of(step: Step) -> float:
    own = _box_height(_lines(f"{step.name}: {step.number:,}", _BOX))
    side = _dropped(step)
    return own + (max(_BETWEEN, _box_height(side) + 0.14) if side else _BETWEEN)


def _lines(text: str, width: float, indent: str = "") -> list[str]:
    return wrap(text, int(width * _LETTERS), initial_indent=indent, subsequent_indent=indent * 2) or [""]


def _box_height(lines: list[str]) -> float:
    return len(lines) * _LINE + 2 * _AROUND


def _box(axes: Axes, x: float, y: float, width: float, lines: list[str], *, centred: bool) -> None:
    height = _box_height(lines)
    axes.plot(
        [x, x + width, x + width, x, x],
        [y, y, y + height, y + height, y],
        color=INK,
        linewidth=0.7,
        solid_capstyle="butt",
    )
    for place, line in enumerate(lines):
        at = x + width / 2 if centred else x + 0.06 + 0.07 * (len(line) - len(line.lstrip()))
        words = line.strip()
        align = "center" if centred else "left"
        axes.text(at, y + _AROUND + (place + 0.5) * _LINE, words, ha=align, va="center", fontsize=7)


def _arrow(axes: Axes, start: tuple[float, float], y: float) -> None:
    axes.annotate("", (start[0], y), start, arrowprops=_ARROW)


def _arrow_right(axes: Axes, start: tuple[float, float], x: float) -> None:
    axes.annotate("", (x, start[1]), start, arrowprops=_ARROW)
