"""How figures for papers look, and their files: vectors with text as text, legible without colour, no title."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ...data.artifact import remove, whole

INK, FAINT, LIGHT = "#000000", "#5f5f5f", "#d4d4d4"
COLUMN: Final = 3.4
"""Width of a column of a journal, in inches: 86 mm."""
STYLES: Final = ("-", (0, (5, 2)), (0, (1.2, 1.4)), (0, (6, 2, 1.2, 2)), (0, (3, 1)), (0, (8, 2, 1, 2, 1, 2)))
"""Lines that are told apart without colour."""
KINDS: Final = ("svg", "pdf")
_STYLE: Final[dict[Any, Any]] = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.linewidth": 0.7,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "lines.linewidth": 1.3,
    "svg.fonttype": "none",
    "svg.hashsalt": "wsipipe",
    "pdf.fonttype": 42,
    "figure.facecolor": "white",
    "axes.parse_math": False,
    "text.parse_math": False,
}
_NOTHING_OF_TODAY: Final = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}

Drawn = Callable[[], Figure]


def write_figures(folder: Path, figures: Mapping[str, Drawn]) -> dict[str, Path]:
    """Write each figure as SVG and as PDF, and remove those of an earlier run that are not drawn any more.

    The same figures give the same bytes.

    :param folder: ``figures`` beside the report.
    :param figures: name of the file, without its ending → what draws it.
    :returns: the outputs of a stage.
    """
    outputs: dict[str, Path] = {}
    known = {key: value for key, value in _STYLE.items() if key in mpl.rcParams}
    for name, draw in figures.items():
        with mpl.rc_context(known):
            figure = draw()
            FigureCanvasAgg(figure)  # measures text without a screen
            for kind in KINDS:
                path = outputs[f"figure {name} {kind}"] = folder / f"{name}.{kind}"
                with whole(path) as scratch:
                    figure.savefig(scratch, format=kind, metadata=_NOTHING_OF_TODAY[kind])
    remove_others(folder, KINDS, outputs.values())
    return outputs


def remove_others(folder: Path, endings: Iterable[str], kept: Iterable[Path]) -> None:
    """Remove files with these endings from a folder of ours, except those that are kept."""
    names = {path.name for path in kept}
    for ending in endings:
        for path in sorted(folder.glob(f"*.{ending}")):
            if path.name not in names:
                remove(path)


def square(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """A figure one column wide with both axes from 0 to 1."""
    figure = Figure(figsize=(COLUMN, COLUMN), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=x_label, ylabel=y_label, aspect="equal")
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    return figure, axes
