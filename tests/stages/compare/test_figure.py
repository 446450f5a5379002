"""The forest plot of a comparison: its numbers from top to bottom, and names that are hard to draw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from compared_methods import compared, undefined
from html_page import HOSTILE
from PIL import Image
from wsipipe.stages.compare.figure import comparison_figure, forest_plot


def test_figure_shows_the_numbers_from_top_to_bottom(tmp_path: Path) -> None:
    comparison = compared()
    for name in ("a.png", "b.png"):
        comparison_figure(comparison, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"
        assert picture.size[0] == 1720

    left, right = forest_plot(comparison).axes
    names = [text.get_text() for text in left.get_yticklabels()]
    assert names == [
        "Methods",
        "MoMKD",
        "ABMIL",
        "TransMIL",
        "Controls",
        "MoMKD without RNA",
        "Upper limit",
        "RNA alone",
    ]
    places = left.get_yticks().tolist()
    assert places == sorted(places, reverse=True)
    shown = [method for _, methods in comparison.groups for method in methods]
    for axes, drawn in (
        (left, [(m.metrics.auc.low, m.metrics.auc.value, m.metrics.auc.high) for m in shown]),
        (right, [(d.low, d.difference, d.high) if (d := m.against_reference) else None for m in shown]),
    ):
        lines = {tuple(line.get_xdata()): line for line in axes.lines}
        low, high = axes.get_xlim()
        heights = []
        for method, numbers in zip(shown, drawn, strict=True):
            if numbers is None:
                continue
            assert low <= numbers[0] <= numbers[2] <= high
            dot = lines[(numbers[1],)]
            assert (dot.get_markerfacecolor() == "white") is method.soft_targets
            assert lines[numbers[0], numbers[2]].get_ydata()[0] == dot.get_ydata()[0]
            heights.append(dot.get_ydata()[0])
            near = names[int(np.argmin([abs(place - heights[-1]) for place in places]))]
            assert near == method.title, "it lies beside its name"
        assert heights == sorted(heights, reverse=True)
        assert len(set(heights)) == len(heights)
    marks = [text.get_text() for legend in forest_plot(comparison).legends for text in legend.get_texts()]
    assert marks == ["hard labels", "soft targets"]
    assert forest_plot(compared(("momkd", "abmil"))).legends == [], "all are of a kind"


def test_figure_of_long_undefined_and_mathematical_names(tmp_path: Path) -> None:
    comparison = compared()
    odd = ("a name that goes on and on " * 6, "$x^2$ and $y", HOSTILE, "no_space" * 12, "", "ok")
    methods = tuple(replace(method, title=title) for method, title in zip(comparison.methods, odd, strict=True))
    comparison_figure(
        replace(comparison, methods=(methods[0], undefined(methods[1]), *methods[2:])), tmp_path / "a.png"
    )
    comparison_figure(replace(comparison, methods=tuple(undefined(m) for m in comparison.methods)), tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.size[0] == 1720
