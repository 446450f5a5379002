"""Tables on a telephone, in a real browser: no word is broken, and the page itself does not scroll sideways."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from chromium import Browser, browser
from markupsafe import Markup
from wsipipe.models.tasks.prediction import PatientPrediction
from wsipipe.stages.pages.asked_question import Question
from wsipipe.stages.pages.numbers import TEMPLATES
from wsipipe.stages.pages.report_page import PredictionReport, SlidePrediction, prediction_page
from wsipipe.stages.pages.slot_page import jpeg_address

WORDS = ("undifferentiated", "Neuroendocrine carcinoma", "validation_fraction", "Calibration-in-the-large (0 is good)")
LONG_ID = "TCGA_BH_A0B3_01Z_00_DX1_e1c8d5d6f4a74b1f9bb1c7a3d6f0aa11_of_a_second_scanner"
KINDS = (
    "", "facts", "confusion", "sum", "points stacked", "stacked", "predictions stacked", "characteristics", "sites",
    "audit stacked", "figures stacked", "figures audit stacked", "look stacked", "about stacked", "checklist stacked",
    "forest", "asked stacked",
)  # fmt: skip
"""Classes of the tables that the pages have."""
BROKEN_WORDS = r"""(() => {
  const broken = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, cell = node.parentElement.closest("td, th");
    if (!cell || !node.parentElement.checkVisibility()) continue;
    for (const word of node.data.matchAll(/[^\s\u2013\u2014\/-]+/g)) {
      if (word[0].length > 24) continue;
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const tops = new Set([...range.getClientRects()].filter(box => box.width > 0).map(box => Math.round(box.top)));
      if (tops.size > 1) broken.push(cell.closest("table").className + ": " + word[0]);
    }
  }
  return broken;
})()"""

PLACES = """["img", ".scrolls"].map(one => {
  const box = document.querySelector(one).getBoundingClientRect();
  return [box.left, box.right];
})"""
"""Left and right of the first picture and of what it scrolls in."""


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for the tests of this module."""
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


def page_of(content: Markup, path: Path) -> str:
    """The address of a page with this content."""
    layout = TEMPLATES.from_string('{% extends "page.html" %}{% block main %}{{ content }}{% endblock %}')
    path.write_text(layout.render(content=content))
    return path.as_uri()


def a_table(kind: str) -> Markup:
    rows = Markup().join(
        Markup("<tr><th scope=row>{}</th>{}</tr>").format(
            name,
            Markup("<td>{}</td>").format(f"{name}, sha256:{'0' * 64}")
            if kind == "facts"
            else Markup("<td data-name=value>0.83</td>{}").format(
                Markup('<td class="n" data-name="interval">0.71 – 0.95</td>') * (4 if "stacked" not in kind else 2)
            ),
        )
        for name in (*WORDS, LONG_ID)
    )
    head = Markup(
        "<thead><tr><th>Undifferentiated</th><th>Discrimination</th><th class=n>95 % interval</th></tr></thead>"
    )
    return Markup('<section><div class=scrolls><table class="{}">{}<tbody>{}</tbody></table></div></section>').format(
        kind, "" if kind == "facts" else head, rows
    )


def test_no_word_of_a_table_is_broken(opened: Browser, tmp_path: Path) -> None:
    page = page_of(Markup("\n").join(map(a_table, KINDS)), tmp_path / "page.html")
    for width in (390, 900):
        opened.window(width, 800)
        opened.open(page)
        assert opened.run(BROKEN_WORDS) == [], width
        assert opened.run("document.documentElement.scrollWidth") <= width, "each section scrolls by itself"
    wide = "[...document.querySelectorAll('tbody th')].map(cell => cell.clientWidth)"
    assert max(opened.run(wide)) <= 500, "a long id is broken"


def test_the_coloured_half_of_a_heatmap_is_seen_first(opened: Browser, tmp_path: Path) -> None:
    """On the page of predictions, where the words of the whole picture were 4 px high at 390 px."""
    cv2.imwrite(str(tmp_path / "heatmap.png"), np.full((600, 1200, 3), 255, np.uint8))
    answer = PatientPrediction(
        patient_id="P1", probability=0.7, logit=0.8, spread=None, threshold=0.5, call=1, slides=1, folds=(0,), why=""
    )
    slide = SlidePrediction(
        slide="S1", n_tiles=9, heatmap="heatmap.png", top_tiles=None, geojson=None, prediction=answer
    )
    report = PredictionReport(
        prevalence=0.5,
        name="new",
        model="her2",
        backbone="uni",
        question=Question(label_column="HER2", positive="positive", negative="negative"),
        n_folds=1,
        patients=(answer,),
        slides=(slide,),
        failed=(),
        facts=(),
    )
    page = tmp_path / "report.html"
    page.write_text(prediction_page(report))
    for width, share in ((390, 0.5), (1280, 1)):
        opened.window(width, 800)
        opened.open(page.as_uri())
        opened.run("document.querySelector('img').scrollIntoView()")  # it is loaded when it is seen
        opened.wait("document.querySelector('img').naturalWidth === 1200")
        (left, right), (first, last) = opened.run(PLACES)
        assert right == pytest.approx(last, abs=2)
        assert (last - first) / (right - left) == pytest.approx(share, rel=0.02), "the right half, or all of it"
        assert opened.run("document.documentElement.scrollWidth") <= width


def test_the_coloured_half_of_an_example_is_seen_first(opened: Browser, tmp_path: Path) -> None:
    _, data = cv2.imencode(".jpg", np.full((600, 1200, 3), 255, np.uint8))
    row = SimpleNamespace(patient_id="P1", fold=0)
    example = SimpleNamespace(why="median certainty", said="positive", row=row, slides=("S1",), of_slides=1)
    sets = [SimpleNamespace(shown=[example], target="", rule="By rule.", note="")]
    macros: Any = TEMPLATES.get_template("examples.html").module
    drawn = macros.examples(sets, lambda slide: [("heatmap", jpeg_address(data.tobytes()))], {}, {}, "", False)
    tile = SimpleNamespace(slide=LONG_ID, x=0, y=0, nearness=0.5, address=jpeg_address(data.tobytes()))
    slot = SimpleNamespace(name="positive 1", use=0.5, attention=0.5, weight=None, tiles=[tile] * 6)
    page = page_of(drawn + Markup("<section>{}</section>").format(macros.slot_figure(slot)), tmp_path / "page.html")
    for width, share in ((390, 0.5), (1280, 1)):
        opened.window(width, 800)
        opened.open(page)
        opened.wait("document.querySelector('img').naturalWidth === 1200")
        (left, right), (first, last) = opened.run(PLACES)
        assert right == pytest.approx(last, abs=2)
        assert (last - first) / (right - left) == pytest.approx(share, rel=0.02), "the right half, or all of it"
        assert opened.run("getComputedStyle(document.querySelector('.swipe')).display") == (
            "block" if share < 1 else "none"
        )
        cut = "[...document.querySelectorAll('.slot .note')].some(one => one.scrollWidth > one.clientWidth)"
        assert not opened.run(cut), "whose tile it is can be read"
        assert opened.run("document.documentElement.scrollWidth") <= width
