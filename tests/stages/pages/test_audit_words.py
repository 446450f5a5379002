"""What the pages say of an audit: each case in the words that it deserves."""

from __future__ import annotations

import numpy as np
import pytest
from wsipipe.models.audit.confounding import Audit, ColumnAudit, ColumnsAlone, audit
from wsipipe.models.audit.strata import Strata
from wsipipe.models.audit.within_strata import WithinStrata
from wsipipe.models.evaluation.estimate import Estimate
from wsipipe.models.evaluation.paired_tests import PairedDifference
from wsipipe.stages.pages.audit_words import AuditSection, alone_in_words, within_in_words
from wsipipe.stages.pages.numbers import TEMPLATES

OF_TWO = Audit.model_construct()
"""Of two classes; the words ask it for the names of its figure and test alone."""


def estimate(value: float | None, by: float = 0.05) -> Estimate:
    return Estimate(value=value) if value is None else Estimate(value=value, low=value - by, high=value + by)


def column(plain: float | None, within: float | None, by: float = 0.05, *, n_strata: int = 3) -> ColumnAudit:
    pooled = WithinStrata(
        n_patients=200,
        n_positive=80,
        n_compared=190,
        n_compared_positive=75,
        n_strata=n_strata,
        plain=estimate(plain),
        within=estimate(within, by),
        p_value=0.04,
    )
    return ColumnAudit(column="grade", kind="categories", subgroups=(), pooled=pooled)


def alone(p_value: float | None, odds_ratio: float | None = 1.4) -> ColumnsAlone:
    return ColumnsAlone(
        n_patients=190,
        n_positive=75,
        n_columns=3,
        n_rare=0,
        score=estimate(0.8),
        columns=estimate(0.7),
        both=estimate(0.83),
        gain=PairedDifference(difference=0.13, low=0.05, high=0.21, p_value=0.002, n_positive=75, n_negative=115),
        likelihood_ratio=9.0,
        p_value=p_value,
        odds_ratio=estimate(odds_ratio),
        rises=odds_ratio is None or odds_ratio > 1,
    )


@pytest.mark.parametrize(
    ("plain", "within", "by", "words"),
    [
        (0.8, 0.52, 0.05, "most of what it reads goes along with grade, and more than that is not shown"),
        (0.8, 0.60, 0.05, "most of what it reads goes along with grade, but not all"),
        (0.8, 0.70, 0.05, "a part of what it reads goes along with grade"),
        (0.8, 0.79, 0.05, "little or nothing of what it reads goes along with grade"),
        (
            0.8,
            0.70,
            0.25,
            "it is not shown that it reads more, and patients are too few to say how much goes along with",
        ),
        (
            0.8,
            0.52,
            0.30,
            "it is not shown that it reads more, and patients are too few to say how much goes along with",
        ),
        (0.8, 0.40, 0.05, "it puts them in the wrong order"),
        (0.53, 0.52, 0.05, "no better than chance, and leaves nothing to explain"),
        (0.8, None, 0.05, "Too few patients of both classes are alike in grade"),
    ],
)
def test_what_is_left_within_strata_in_words(plain: float, within: float | None, by: float, words: str) -> None:
    assert words in within_in_words(column(plain, within, by), OF_TWO)


def test_the_figures_are_said_with_their_intervals() -> None:
    assert within_in_words(column(0.81, 0.52), OF_TWO).startswith(
        "Within each value of grade, the slide's AUC is 0.52 (0.47 – 0.57), against 0.81 over the same patients"
    )
    assert "one class only" in within_in_words(column(0.8, None, n_strata=0), OF_TWO)


@pytest.mark.parametrize(
    ("p_value", "odds_ratio", "words"),
    [
        (0.3, 1.1, "It is not shown that the slide adds anything to them (likelihood-ratio test, p = 0.30)."),
        (0.003, 1.4, "The slide adds to them (likelihood-ratio test, p = 0.003): together they have 0.83, +0.13"),
        (1e-9, None, "The slide adds to them (likelihood-ratio test, p < 0.001)"),
        (0.003, 0.6, "a higher score goes with fewer positive patients"),
        (None, 1.0, "follows from them, and can add nothing"),
    ],
)
def test_what_the_slide_adds_in_words(p_value: float | None, odds_ratio: float | None, words: str) -> None:
    first, second = alone_in_words(alone(p_value, odds_ratio), OF_TWO, "grade and ER", one=False)
    assert first == (
        "Without any slide, grade and ER reach an AUC of 0.70 (0.65 – 0.75); the slide alone has 0.80 over the same "
        "190 patients."
    )
    assert words in second


def test_names_from_a_table_are_text_and_no_markup() -> None:
    draw = np.random.default_rng(0)
    y = draw.integers(0, 2, 60)
    values = [("<script>", "b", "")[n % 3] for n in range(60)]
    found = audit(y, draw.random(60), [Strata.of("<b>grade", values, [False] * 60)], np.arange(60) % 3, rounds=20)
    macros = TEMPLATES.get_template("audit.html").module
    page = macros.audit_section(AuditSection(found))  # type: ignore[attr-defined]
    assert "<script>" not in page
    assert "<b>grade" not in page
    assert "&lt;script&gt;" in page


def test_limits_of_an_audit_are_said() -> None:
    draw = np.random.default_rng(1)
    n = 60
    y = draw.integers(0, 2, n)
    age = Strata.of("age", [str(40 + i % 30) for i in range(n)], [False] * n)
    sites = ["A"] * 30 + ["B"] * 20 + ["C"] * 4 + ["D"] * 4 + ["", ""]
    site = Strata.of("site", sites, [False] * n)
    section = AuditSection(audit(y, draw.random(n), [age, site], np.arange(n) % 5, rounds=20))
    cautions = " ".join(section.cautions)
    assert "without a value in one of the columns, or with several: 2 of 60" in cautions
    assert "Cut into thirds, as numbers of many values: age" in cautions
    assert "Categories of fewer than 10 patients: 2" in cautions
    assert "too often significant" in cautions
    assert section.names == "age and site"
