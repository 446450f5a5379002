"""The comparison: every number is there, nothing is claimed too much, names stay text, the figure is the numbers."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from compared_methods import FOLDS, GAINS, compared, undefined
from html_page import HOSTILE, Page, rows_after
from PIL import Image
from wsipipe.data.errors import UsageError
from wsipipe.models.evaluation.metrics import Estimate, binary_metrics
from wsipipe.models.evaluation.paired_tests import PairedDifference
from wsipipe.models.training.methods import OF_TILES
from wsipipe.stages.compare.figure import comparison_figure, forest_plot
from wsipipe.stages.compare.page import FIGURES, comparison_cautions, comparison_page, comparison_table, verdict
from wsipipe.stages.compare.results import GROUPS, ComparedMethod, Comparison
from wsipipe.stages.compare.variants import variants
from wsipipe.stages.pages.asked_question import Question
from wsipipe.stages.pages.numbers import figure
from wsipipe.stages.train.settings import TrainSettings

REDUCED: Final = {"momkd-no-rna", "momkd-shuffled-rna", "momkd-fixed-memory", "evidence-no-rna"}


def signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def test_the_page_shows_every_number() -> None:
    comparison = compared()
    page = comparison_page(comparison)
    text = Page(page).text
    forest = rows_after(page.replace(' class="reference"', ""), "<h2>AUC, out of fold</h2>")
    figures = rows_after(page.replace(' class="reference"', ""), "<h2>All figures, out of fold</h2>")
    about = rows_after(page.replace(' class="reference"', ""), "<h2>Methods</h2>")
    corrected = comparison.corrected()
    shown = [method for _, methods in comparison.groups for method in methods]
    assert len(forest) == len(figures) == len(about) == len(shown) == len(comparison.methods)
    for method, row, figure_row, about_row in zip(shown, forest, figures, about, strict=True):
        assert row[0].startswith(method.title)
        assert ("soft targets" in row[0]) is method.soft_targets
        assert ("reference" in row[0]) is (method.name == "momkd")
        auc, against = method.metrics.auc, method.against_reference
        assert auc.value is not None
        assert row[2] == f"{auc.value:.2f}"
        if against is None:
            assert row[5:] == ["", "", "", ""]
        else:
            assert against.low is not None
            assert against.high is not None
            assert against.p_value is not None
            assert row[5] == signed(against.difference)
            assert row[6] == f"{signed(against.low)} to {signed(against.high)}"
            for cell, p in ((row[7], against.p_value), (row[8], corrected[method.name])):
                assert p is not None
                assert cell == ("&lt; 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}")
        assert figure_row[1] == f"{np.mean(method.fold_aucs):.2f}± {np.std(method.fold_aucs, ddof=1):.2f}"
        for cell, name in zip(figure_row[2:9], FIGURES[1:8], strict=True):
            estimate = getattr(method.metrics, name)
            assert cell == f"{figure(estimate.value)}{figure(estimate.low)} – {figure(estimate.high)}"
        slope = method.metrics.calibration_slope
        assert slope.value is not None
        assert figure_row[9].startswith(figure(method.metrics.calibration_in_the_large.value))
        assert figure_row[10].startswith(figure(slope.value))
        assert about_row[1:4] == [method.name, method.note, str(method.metrics.n_patients)]
        assert about_row[4] == " · ".join(f"{auc:.2f}" for auc in method.fold_aucs)
        assert about_row[5] == "1 min"
    for told in ("her2-compare", "HER2Calc", "120 patients", "40 positive", "300 stratified bootstrap rounds"):
        assert told in text
    for name, value in (*comparison.facts, *comparison.versions):
        assert f"{name} {value}" in text


def test_marks_lie_where_the_numbers_are() -> None:
    comparison = compared(("momkd", "abmil"))
    page = comparison_page(comparison)
    head = page[page.index('<th scope="col" class="strip">AUC') :]
    ticks = [(float(x), float(value)) for x, value in re.findall(r'<text x="([\d.]+)%"[^>]*>([\d.]+)<', head)]
    (x0, v0), (x1, v1) = ticks[0], next(tick for tick in reversed(ticks) if tick[0] == 95)
    body = page[page.index("<tbody>") :]
    for method in comparison.methods:
        auc = method.metrics.auc
        assert auc.value is not None
        assert auc.low is not None
        place = x0 + (auc.value - v0) / (v1 - v0) * (x1 - x0)
        marks = re.search(
            r'<line class="range" x1="([\d.]+)%" x2="[\d.]+%"[^>]*/><circle class="full" cx="([\d.]+)%"', body
        )
        assert marks is not None
        assert float(marks[2]) == pytest.approx(place, abs=0.01)
        assert float(marks[1]) == pytest.approx(x0 + (auc.low - v0) / (v1 - v0) * (x1 - x0), abs=0.01)
        body = body[body.index("</tr>") + 5 :]


def test_what_is_called_better_is_so_after_correction() -> None:
    comparison = compared()
    text = Page(comparison_page(comparison)).text
    assert [method.name for method in comparison.told_apart(1)] == ["momkd+soft", "omics"]
    assert [method.name for method in comparison.told_apart(-1)] == ["transmil"]
    assert (
        "Better than MoMKD by more than chance: MoMKD + soft targets. Worse than MoMKD by more than chance: TransMIL. "
        "2 of the 4 others cannot be distinguished from MoMKD. RNA alone, which uses no slides, reaches" in text
    )

    uncertain = PairedDifference(difference=0.1, low=0.01, high=0.19, p_value=0.03, n_positive=40, n_negative=80)
    methods = tuple(
        method if method.name == "momkd" else replace(method, against_reference=uncertain)
        for method in comparison.methods
    )
    unclear = replace(comparison, methods=methods)
    assert unclear.told_apart(1) == (), "five tests at 0.03 are one at 0.15"
    text = Page(comparison_page(unclear)).text
    assert "No method that reads slides differs from MoMKD by more than chance." in text
    assert "cannot be distinguished" not in text
    alone = replace(comparison, methods=methods[:2])
    assert [method.name for method in alone.told_apart(1)] == ["momkd+soft"]
    text = Page(comparison_page(alone)).text
    assert "Better than MoMKD by more than chance: MoMKD + soft targets." in text
    assert "Holm" not in text, "one test needs no correction"


def held(method: ComparedMethod, auc: float, against: tuple[float, float, float, float] | None) -> ComparedMethod:
    """The method with this AUC, and this difference, interval and p-value."""
    metrics = method.metrics.model_copy(update={"auc": Estimate(value=auc, low=auc - 0.1, high=auc + 0.1)})
    paired = against and PairedDifference(
        difference=against[0], low=against[1], high=against[2], p_value=against[3], n_positive=40, n_negative=80
    )
    return replace(method, metrics=metrics, against_reference=paired)


def test_the_first_sentence_says_who_leads_by_how_much_and_whether_it_is_chance() -> None:
    comparison = compared(("momkd", "abmil", "transmil", "omics"))
    momkd, abmil, transmil, omics = comparison.methods

    def said(*methods: ComparedMethod) -> tuple[str, ...]:
        return tuple(line.replace("\N{NO-BREAK SPACE}", " ") for line in verdict(replace(comparison, methods=methods)))

    reference = held(momkd, 0.7, None)
    level = held(transmil, 0.69, (-0.01, -0.06, 0.04, 0.7))
    ceiling = held(omics, 0.95, (0.25, 0.18, 0.32, 1e-9))
    assert said(reference, held(abmil, 0.8, (0.1, 0.05, 0.15, 0.0001)), level, ceiling) == (
        "ABMIL has the highest AUC, 0.80. That is 0.10 above MoMKD (95 % interval +0.05 to +0.15): "
        "more than chance alone would explain (p < 0.001 after Holm).",
        "Better than MoMKD by more than chance: ABMIL.",
        "1 of the 2 others cannot be distinguished from MoMKD.",
        "RNA alone, which uses no slides, reaches 0.95.",
        "That is 0.25 above MoMKD (95 % interval +0.18 to +0.32): "
        "more than chance alone would explain (p < 0.001 after Holm).",
    ), "the ceiling is not among the methods that may lead"
    assert said(reference, held(abmil, 0.74, (0.04, 0.001, 0.079, 0.04)), level) == (
        "ABMIL has the highest AUC, 0.74. That is 0.04 above MoMKD (95 % interval 0.00 to +0.08): "
        "chance alone may explain this (p = 0.080 after Holm).",
        "No method that reads slides differs from MoMKD by more than chance.",
    ), "0.04 by itself, twice that of two"
    assert said(reference, level, held(abmil, 0.5, (-0.2, -0.3, -0.1, 0.0001))) == (
        "MoMKD has the highest AUC, 0.70, before TransMIL. That is 0.01 below MoMKD "
        "(95 % interval −0.06 to +0.04): chance alone may explain this (p = 0.70 after Holm).",
        "Worse than MoMKD by more than chance: ABMIL.",
        "1 of the 2 others cannot be distinguished from MoMKD.",
    )
    assert said(reference, held(abmil, 0.7, (0.0, -0.1, 0.1, 1.0)))[0] == "MoMKD and ABMIL share the highest AUC, 0.70."
    three = held(transmil, 0.7, (0.0, -0.1, 0.1, 1.0))
    assert said(reference, held(abmil, 0.7, (0.0, -0.1, 0.1, 1.0)), three)[0] == (
        "MoMKD, ABMIL and TransMIL share the highest AUC, 0.70."
    )
    assert said(reference, ceiling)[0] == "RNA alone, which uses no slides, reaches 0.95."
    nowhere = replace(held(abmil, 0.8, None), against_reference=None)
    assert said(reference, nowhere)[0] == "ABMIL has the highest AUC, 0.80. It cannot be compared with MoMKD."


def test_all_variants_are_grouped_with_soft_targets_beside_hard_labels(tmp_path: Path) -> None:
    known = variants((), TrainSettings(), rna=True)
    some = compared(("momkd", "abmil"))
    others = (
        replace(some.methods[1], name=variant.name, title=variant.title, soft_targets=variant.name.endswith("+soft"))
        for variant in known[1:]
    )
    comparison = replace(some, methods=(some.methods[0], *reversed(tuple(others))))
    (whole, methods), (parts, controls), (top, ceiling) = comparison.groups
    assert (whole, parts, top) == GROUPS
    assert [method.name for method in methods[:2]] == ["momkd", "momkd+soft"]
    assert {method.stem for method in methods} == set(OF_TILES)
    assert {method.stem for method in controls} == REDUCED
    assert [method.name for method in ceiling] == ["omics"]
    for group in (methods, controls):
        assert [m.name for m in group[1::2]] == [f"{m.name}+soft" for m in group[::2]]

    page = comparison_page(comparison)
    assert page.count('scope="rowgroup"') == 3 * len(GROUPS), "in three tables"
    left, _ = forest_plot(comparison).axes
    names = [text.get_text().replace("\n", " ") for text in left.get_yticklabels()]
    assert len(names) == len(OF_TILES) + len(REDUCED) + 1 + len(GROUPS), "with and without soft targets in a row"
    comparison_figure(comparison, tmp_path / "all.png")
    with Image.open(tmp_path / "all.png") as picture:
        assert picture.size[1] < picture.size[0], "it fits a slide"


def test_cautions_follow_the_evidence() -> None:
    said = " ".join(comparison_cautions(compared()))
    assert "The AUC interval of TransMIL includes 0.5" in said
    assert "5 methods are compared with MoMKD" in said
    assert (
        "RNA alone was evaluated on 117 patients and MoMKD on 120: their difference is over the 117 patients of both"
        in said
    )
    assert "smaller class" not in said

    comparison = compared(("momkd", "abmil"), n=60)
    half = comparison.methods[1].against_reference
    assert half is not None
    assert half.low is not None
    assert half.high is not None
    said = " ".join(comparison_cautions(comparison))
    assert f"below about {(half.high - half.low) / 2:.2f}" in said
    assert "Only 20 patients in the smaller class" in said
    assert "Holm" not in said
    assert "owes part" not in said


def test_an_auc_without_an_error_is_said_to_have_another_interval() -> None:
    comparison = compared(("momkd", "abmil"))
    y, p = [0] * 40 + [1] * 40, [0.1] * 40 + [0.9] * 40
    perfect = replace(comparison.methods[1], metrics=binary_metrics(y, p, y))
    told = [
        line
        for line in comparison_cautions(replace(comparison, methods=(comparison.methods[0], perfect)))
        if "Clopper" in line
    ]
    assert len(told) == 1
    assert told[0].startswith("ABMIL ranked")
    assert not [line for line in comparison_cautions(comparison) if "Clopper" in line]


def test_no_title_has_a_comma_and_lists_read_as_sentences() -> None:
    for variant in variants((), TrainSettings(), rna=True):
        assert "," not in variant.title


def test_on_a_narrow_screen_every_cell_says_what_it_is() -> None:
    """There the heads of wide tables are not shown, and each row is a block of its own."""
    page = comparison_page(compared())
    for heading in ("All figures, out of fold", "Methods"):
        table = page[page.index(f"<h2>{heading}</h2>") :]
        table = table[table.index("<table") : table.index("</table>")]
        assert "stacked" in table[: table.index(">")]
        named = re.findall(r'<td[^>]* data-name="([^"]+)"', table)
        unnamed = re.findall(r"<td(?![^>]*data-name)[^>]*>(.*?)</td>", table)
        assert len(named) > len(GAINS)
        assert set(unnamed) <= {""}


def test_undefined_figures_are_dashes() -> None:
    comparison = compared()
    one = replace(
        comparison, methods=(comparison.methods[0], undefined(comparison.methods[1]), *comparison.methods[2:])
    )
    page = comparison_page(one)
    row = rows_after(page, "<h2>AUC, out of fold</h2>")[0]
    assert row[2:4] == ["–", "–"]
    assert row[5:] == ["–", "–", "–", "–"]
    assert page.count('aria-label="ROC curve') == len(comparison.methods) - 1

    everyone = replace(comparison, methods=tuple(undefined(method) for method in comparison.methods))
    text = Page(comparison_page(everyone)).text
    assert "No comparison is possible" in text
    assert "same label" in text
    assert "cannot be distinguished" not in text
    assert "nan" not in text.lower().split()

    alone = replace(comparison, methods=comparison.methods[:1])
    assert "no other method to compare with" in Page(comparison_page(alone)).text


def test_table_is_every_figure_of_every_method() -> None:
    comparison = compared()
    rows = comparison_table(comparison)
    assert [row["method"] for row in rows] == list(GAINS)
    assert len({tuple(row) for row in rows}) == 1, "the same columns"
    for method, row in zip(comparison.methods, rows, strict=True):
        for name in FIGURES:
            estimate = getattr(method.metrics, name)
            assert (row[name], row[f"{name}_low"], row[f"{name}_high"]) == (estimate.value, estimate.low, estimate.high)
        assert [row[f"auc_fold_{i}"] for i in range(FOLDS)] == list(method.fold_aucs)
        assert row["auc_fold_mean"] == pytest.approx(np.mean(method.fold_aucs))
        assert row["auc_fold_sd"] == pytest.approx(np.std(method.fold_aucs, ddof=1))
        assert row["reference"] == (method.name == "momkd")
        assert row["patients"] == (117 if method.name == "omics" else 120)
        against = method.against_reference
        if against is None:
            assert row["difference"] is row["p_value"] is row["p_value_holm"] is None
        else:
            assert (row["difference"], row["p_value"]) == (against.difference, against.p_value)
            assert row["p_value_holm"] == comparison.corrected()[method.name]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    assert len(stream.getvalue().splitlines()) == len(GAINS) + 1


def test_folds_that_differ_in_number_still_make_one_table() -> None:
    comparison = compared(("momkd", "abmil"))
    short = replace(comparison.methods[1], fold_aucs=(0.7, None))
    rows = comparison_table(replace(comparison, methods=(comparison.methods[0], short)))
    assert rows[1]["auc_fold_0"] == rows[1]["auc_fold_mean"] == 0.7
    assert rows[1]["auc_fold_sd"] is rows[1]["auc_fold_1"] is rows[1]["auc_fold_4"] is None


def test_nonsense_is_refused() -> None:
    comparison = compared(("momkd", "abmil"))
    with pytest.raises(UsageError, match="not among momkd, abmil"):
        replace(comparison, reference="clam-sb")
    with pytest.raises(UsageError, match="twice: abmil"):
        replace(comparison, methods=(*comparison.methods, comparison.methods[1]))
    with pytest.raises(UsageError, match="compared with itself"):
        replace(comparison, reference="abmil")


def test_nothing_is_fetched_nothing_runs_and_the_bytes_stay() -> None:
    page = comparison_page(compared())
    assert page == comparison_page(compared())
    for word in ("http:", "https:", "@import", "url("):
        assert word not in page
    for tag, attributes in Page(page).tags:
        assert tag not in {"script", "iframe", "object", "link", "base", "img"}
        assert not any(name.startswith("on") for name in attributes)


def test_hostile_names_stay_text() -> None:
    comparison = compared()
    methods = tuple(
        replace(method, title=HOSTILE, note=HOSTILE, name=f"{HOSTILE}{i}")
        for i, method in enumerate(comparison.methods)
    )
    hostile = Comparison(
        prevalence=0.5,
        name=HOSTILE,
        question=Question(label_column=HOSTILE, positive=HOSTILE, negative=HOSTILE),
        methods=methods,
        reference=methods[0].name,
        facts=((HOSTILE, HOSTILE),),
        versions=((HOSTILE, HOSTILE),),
    )
    page = comparison_page(hostile)
    assert "<script" not in page
    assert HOSTILE in Page(page).text
