"""The two pages: every number is there, names are escaped, nothing is fetched, same report same page."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Final

import numpy as np
import pytest
from jinja2 import Environment
from wsipipe.data.errors import UsageError
from wsipipe.models.evaluation.metrics import Estimate, binary_metrics, youden_threshold
from wsipipe.stages.pages.charts import learning_chart, nice_ticks, place_chart
from wsipipe.stages.pages.numbers import duration, figure, in_hundred, interval, mean_and_deviation, p_value, signed
from wsipipe.stages.pages.report_page import (
    Accounting,
    EpochRow,
    FailedSlide,
    FoldSummary,
    OofPatient,
    PatientPrediction,
    PredictionReport,
    Question,
    SlidePrediction,
    SlotUsage,
    TrainingReport,
    cautions,
    prediction_page,
    training_page,
)

HOSTILE: Final = '<script>alert("x")</script>&"\''
VOID: Final = {"meta", "img", "br", "hr", "link", "input"}


def training_report(n: int = 81, folds: int = 5, seed: int = 1, signal: float = 1.3) -> TrainingReport:
    rng = np.random.default_rng(seed)
    positive = np.arange(n) % 3 == 0
    probability = 1 / (1 + np.exp(-(rng.normal(size=n) + signal * positive - 0.8)))
    fold_of = np.arange(n) % folds
    summaries, oof = [], []
    for fold in range(folds):
        test, validation = fold_of == fold, fold_of == (fold + 1) % folds
        threshold = youden_threshold(positive[validation], probability[validation]) or 0.5
        metrics = binary_metrics(positive[test], probability[test], probability[test] >= threshold, rounds=0)
        history = []
        for epoch in range(24 + 3 * fold):
            fall = np.exp(-epoch / 9)
            losses = {
                "total": 0.5 + 0.9 * fall + rng.normal(0, 0.02),
                "cross-entropy": 0.3 + 0.4 * fall + rng.normal(0, 0.02),
                "histology alignment": 0.15 + 0.3 * fall + rng.normal(0, 0.01),
                "omics alignment": 0.1 + 0.2 * fall + rng.normal(0, 0.01),
                "reconstruction": 0.05 + 0.15 * fall,
                "memory": 0.03 + 0.05 * fall,
            }
            history.append(
                EpochRow(
                    epoch=epoch + 1,
                    losses=losses,
                    validation_auc=float(np.clip(0.76 - 0.2 * fall + rng.normal(0, 0.03), 0, 1)),
                )
            )
        summaries.append(
            FoldSummary(
                fold=fold,
                n_train=int((~test & ~validation).sum()),
                n_validation=int(validation.sum()),
                n_test=int(test.sum()),
                validation_auc=0.7523 + 0.01 * fold,
                test_auc=metrics.auc.value,
                threshold=threshold,
                best_epoch=14 + fold,
                history=tuple(history),
            )
        )
        oof += [
            OofPatient(
                patient=f"TCGA-A2-A{i:03d}",
                fold=fold,
                positive=bool(positive[i]),
                probability=float(probability[i]),
                called_positive=bool(probability[i] >= threshold),
            )
            for i in np.flatnonzero(test)
        ]
    metrics = binary_metrics([p.positive for p in oof], [p.probability for p in oof], [p.called_positive for p in oof])
    shares = rng.dirichlet(np.full(16, 0.8), size=4)
    return TrainingReport(
        run="her2-momkd",
        question=Question(label_column="HER2Calc", positive="positive", negative="negative"),
        accounting=Accounting(
            in_table=n + 1017,
            used=n,
            dropped=(("no slide", 731), ("label missing", 172), ("label is “equivocal”", 13), ("no tissue found", 101)),
        ),
        metrics=metrics,
        folds=tuple(summaries),
        oof=tuple(oof),
        slots=tuple(
            SlotUsage(fold=i // 2, positive=i % 2 == 0, shares=tuple(row.tolist())) for i, row in enumerate(shares)
        ),
        facts=(
            ("Slides", "86"),
            ("Tiles", "341 (median 4 a slide)"),
            ("Patients with RNA", "78 of 81"),
            ("Resolution", "0.5 µm/px, tiles of 224 px, no overlap"),
            ("Backbone", "efficientnet-lite0, 1280 wide"),
            ("Weights digest", "sha256:5be4c0b4ff0e8b9d7f2a06f1b6d5a31d3cb9f0f6a88a9b2f0c4d77a3b1e2c9d0"),
            ("Genes", "768 of 1,558 a fold, chosen inside the training fold by ANOVA F"),
        ),
        settings=(("method", "momkd"), ("preset", "official"), ("epochs", "100"), ("patience", "10"), ("seed", "0")),
        versions=(("wsipipe", "0.1.0"), ("torch", "2.5.1"), ("Python", "3.11.9")),
        predict_command="wsipipe predict slides/ --model work/models/her2-momkd",
    )


def prediction_report(n: int = 9) -> PredictionReport:
    rng = np.random.default_rng(4)
    slides, patients = [], []
    for i in range(n):
        probability = float(rng.random())
        trained = i % 4 == 1
        figures = {
            "probability": probability,
            "spread": None if trained else 0.0312 + 0.01 * i,
            "threshold": 0.4567,
            "positive": probability >= 0.4567,
            "folds": (2,) if trained else (0, 1, 2, 3, 4),
            "why": "the patient trained the others" if trained else "",
        }
        slides.append(
            SlidePrediction(
                slide=f"TCGA-A7-A13D-01Z-00-DX{i}.B1A2C3D4-E5F6",
                patient=f"TCGA-A7-A13{i}",
                n_tiles=1234 + 17 * i,
                heatmap=f"heatmaps/slide {i}#1.png",
                top_tiles=f"heatmaps/slide {i}-top.png" if i % 2 else None,
                geojson=f"heatmaps/slide {i}.geojson",
                **figures,  # type: ignore[arg-type]
            )
        )
        patients.append(PatientPrediction(patient=f"TCGA-A7-A13{i}", n_slides=1, **figures))  # type: ignore[arg-type]
    return PredictionReport(
        name="new-cases",
        model="her2-momkd (5 folds)",
        backbone="efficientnet-lite0",
        question=Question(label_column="HER2Calc", positive="positive", negative="negative"),
        n_folds=5,
        patients=tuple(patients),
        slides=tuple(slides),
        failed=(
            FailedSlide(
                slide="celiac_10x_nompp",
                reason="the slide does not say how large its pixels are",
                hint="give --mpp-override, or an mpp column in the cohort table",
            ),
            FailedSlide(
                slide="broken", reason="JPEG data cannot be decoded in tile (3, 7)", hint="scan the slide again"
            ),
        ),
        facts=(("Tiling", "0.5 µm/px, 224 px"), ("Weights digest", "sha256:5be4c0b4"), ("wsipipe", "0.1.0")),
    )


class Page(HTMLParser):
    """Text and attributes of a page; tags must nest and close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.chunks: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.chunks).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.chunks.append(data)


def rows_after(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table body after a heading, as text."""
    body = page[page.index(heading) :]
    body = body[body.index("<tbody>") : body.index("</table>")]
    return [
        [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.S)]
        for row in re.findall(r"<tr>(.*?)</tr>", body, re.S)
    ]


def test_training_page_shows_every_number_it_was_given() -> None:
    report = training_report()
    text = Page(training_page(report)).text
    m = report.metrics
    for estimate in (m.auc, m.auprc, m.balanced_accuracy, m.sensitivity, m.specificity, m.f1, m.brier):
        assert estimate.value is not None
        assert estimate.low is not None
        assert estimate.high is not None
        assert f"{estimate.value:.2f} {estimate.low:.2f} – {estimate.high:.2f}" in text
    for pairs in (report.facts, report.settings, report.versions):
        for name, value in pairs:
            assert f"{name} {value}" in text
    for patient in report.oof:
        assert patient.patient in text
        assert f"{patient.probability:.3f}" in text
    for reason, n in report.accounting.dropped:
        assert f"Dropped: {reason} − {n:,}" in text
    for told in (report.run, "HER2Calc", "81 patients", report.predict_command, "2,000 stratified bootstrap rounds"):
        assert told in text


def test_fold_table_is_the_folds() -> None:
    report = training_report()
    rows = rows_after(training_page(report), "<h2>Folds</h2>")
    for fold, row in zip(report.folds, rows, strict=False):
        assert fold.test_auc is not None
        assert row == [
            str(fold.fold),
            str(fold.n_train),
            str(fold.n_validation),
            str(fold.n_test),
            str(len(fold.history)),
            str(fold.best_epoch),
            f"{fold.validation_auc:.2f}",
            f"{fold.threshold:.3f}",
            f"{fold.test_auc:.2f}",
        ]
    aucs = [fold.test_auc for fold in report.folds if fold.test_auc is not None]
    assert rows[len(report.folds)][-1] == f"{np.mean(aucs):.2f} ± {np.std(aucs, ddof=1):.2f}"


def test_accounting_on_the_page_adds_up() -> None:
    rows = rows_after(training_page(training_report()), "<h2>Patients</h2>")
    numbers = [int(row[1].replace("−", "-").replace(" ", "").replace(",", "")) for row in rows]
    assert len(numbers) == 6
    assert sum(numbers[:-1]) == numbers[-1] == 81


def test_accounting_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(UsageError, match="do not make 100"):
        Accounting(in_table=100, used=90, dropped=(("no slide", 9),))
    report = training_report()
    with pytest.raises(UsageError, match="differ"):
        replace(report, oof=report.oof[1:])


def test_confusion_matrix_matches_the_calls() -> None:
    report = training_report()
    (_, tp, fn, p), (_, fp, tn, n) = rows_after(training_page(report), "Confusion")
    called = [(patient.positive, patient.called_positive) for patient in report.oof]
    assert [int(x) for x in (tp, fn, fp, tn)] == [
        called.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))
    ]
    assert int(p) + int(n) == len(report.oof)


def test_curves_are_drawn_for_every_fold() -> None:
    report = training_report()
    page = training_page(report)
    roc = page[page.index('aria-label="ROC curve"') :]
    roc = roc[: roc.index("</svg>")]
    assert roc.count('class="fold"') == len(report.folds)
    assert roc.count('class="pooled"') == 1
    assert page.count('aria-label="Training loss') == page.count('aria-label="Validation AUC') == len(report.folds)
    assert page.count('aria-label="Memory slots') == len(report.slots)
    bars = [int(n) for n in re.findall(r"<title>(\d+) (?:positive|negative), ", page)]
    assert sum(bars) == len(report.oof)


@pytest.mark.parametrize("kind", ["training", "prediction"])
def test_same_report_same_bytes(kind: str) -> None:
    if kind == "training":
        assert training_page(training_report()) == training_page(training_report())
    else:
        assert prediction_page(prediction_report()) == prediction_page(prediction_report())


def test_nothing_is_fetched_and_nothing_runs() -> None:
    for page in (training_page(training_report()), prediction_page(prediction_report())):
        assert "http:" not in page
        assert "https:" not in page
        assert "@import" not in page
        assert "url(" not in page
        for tag, attributes in Page(page).tags:
            assert tag not in {"script", "iframe", "object", "link", "base"}
            assert not any(name.startswith("on") for name in attributes)
            for name in ("src", "href"):
                assert name not in attributes or attributes[name].startswith(("./", "#"))


def test_hostile_names_stay_text() -> None:
    training = training_report()
    training = replace(
        training,
        run=HOSTILE,
        question=Question(label_column=HOSTILE, positive=HOSTILE, negative=HOSTILE),
        accounting=Accounting(in_table=82, used=81, dropped=((HOSTILE, 1),)),
        oof=(replace(training.oof[0], patient=HOSTILE), *training.oof[1:]),
        facts=((HOSTILE, HOSTILE),),
        settings=((HOSTILE, HOSTILE),),
        predict_command=HOSTILE,
        folds=tuple(
            replace(fold, history=tuple(replace(row, losses={HOSTILE: 1.0}) for row in fold.history))
            for fold in training.folds
        ),
    )
    prediction = prediction_report()
    prediction = replace(
        prediction,
        name=HOSTILE,
        model=HOSTILE,
        slides=tuple(
            replace(slide, slide=HOSTILE, patient=HOSTILE, why=HOSTILE, heatmap=f"heatmaps/{HOSTILE}.png")
            for slide in prediction.slides
        ),
        failed=(FailedSlide(slide=HOSTILE, reason=HOSTILE, hint=HOSTILE),),
    )
    for html in (training_page(training), prediction_page(prediction)):
        page = Page(html)
        assert "<script" not in html
        assert not any(tag == "script" for tag, _ in page.tags)
        assert HOSTILE in page.text


def test_prediction_page_shows_every_number_it_was_given() -> None:
    report = prediction_report()
    page = prediction_page(report)
    rows = rows_after(page, "<h2>Slides</h2>")
    assert len(rows) == len(report.slides)
    for slide, row in zip(report.slides, rows, strict=True):
        assert row[:6] == [
            slide.slide,
            slide.patient,
            f"{slide.n_tiles:,}",
            f"{slide.probability:.3f}",
            "–" if slide.spread is None else f"± {slide.spread:.3f}",
            "0.457",
        ]
        assert row[7] == ("positive" if slide.positive else "negative")
        assert row[8] == ("2 the patient trained the others" if slide.spread is None else "all")
    text = Page(page).text
    for slide in report.failed:
        assert f"{slide.slide} {slide.reason} {slide.hint}" in text
    assert "Research use only, not for diagnosis." in text
    assert "her2-momkd (5 folds)" in text
    assert "11 slides given 9 predicted" in text


def test_pictures_are_linked_by_quoted_relative_paths() -> None:
    page = Page(prediction_page(prediction_report()))
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert sources[0] == "./heatmaps/slide%200%231.png"
    assert len(sources) == 9
    targets = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    jumps = {a["href"][1:] for tag, a in page.tags if tag == "a" and a["href"].startswith("#")}
    assert jumps == targets


@pytest.mark.parametrize("path", ["/etc/x.png", "../x.png", "a/../../x.png"])
def test_pictures_elsewhere_are_refused(path: str) -> None:
    report = prediction_report(1)
    with pytest.raises(UsageError):
        prediction_page(replace(report, slides=(replace(report.slides[0], heatmap="a.png", geojson=path),)))


def test_empty_and_one_sided_reports_still_make_a_page() -> None:
    nothing = replace(prediction_report(), slides=(), patients=())
    assert "No slide could be predicted." in Page(prediction_page(nothing)).text

    report = training_report(n=12, folds=2)
    one_sided = tuple(replace(patient, positive=False, called_positive=False) for patient in report.oof)
    metrics = binary_metrics([0] * 12, [p.probability for p in one_sided], [0] * 12)
    folds = tuple(replace(f, test_auc=None, validation_auc=None, history=f.history[:1]) for f in report.folds)
    page = Page(training_page(replace(report, metrics=metrics, oof=one_sided, folds=folds, slots=())))
    assert "AUC –" in page.text
    assert "same label" in page.text
    assert "nan" not in page.text.lower().split()


def test_diverged_training_is_shown_not_hidden() -> None:
    chart = learning_chart("loss", [[(0, 1.0), (1, float("nan")), (2, 0.5), (3, 0.4)]], "loss", 0)
    assert "nan" not in chart
    assert chart.count("<polyline") == 2, "the best epoch and the run of two"
    assert chart.count("<circle") == 1, "the lone point"


@pytest.mark.parametrize(("last", "ticks"), [(6, "123456"), (27, "1 10 20"), (12, "1 5 10"), (9, "2468"), (1, "12")])
def test_the_axis_shows_where_epochs_begin(last: int, ticks: str) -> None:
    chart = learning_chart("loss", [[(epoch, 1.0) for epoch in range(1, last + 1)]], "loss", 1)
    shown = re.findall(r'class="tick middle"[^>]*>(\d+)<', chart)
    assert shown == (ticks.split() if " " in ticks else list(ticks))


def test_auc_is_said_in_words() -> None:
    report = training_report()
    auc = report.metrics.auc.value
    assert auc is not None
    pairs = [(p.probability, n.probability) for p in report.oof if p.positive for n in report.oof if not n.positive]
    assert auc == pytest.approx(np.mean([p > n for p, n in pairs]))
    assert (
        f"the positive one the higher probability {round(100 * auc)} times in 100" in Page(training_page(report)).text
    )


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.874, "87"), (1.0, "100"), (0.9951, "more than 99"), (0.0, "0"), (0.004, "fewer than 1"), (0.5, "50")],
)
def test_nearly_all_does_not_read_as_all(share: float, text: str) -> None:
    assert in_hundred(share) == text


def test_numbers_below_zero_have_a_minus_and_no_dash_between() -> None:
    assert figure(-0.4567) == "−0.46"
    assert figure(-0.001) == "0.00"
    assert signed(0.0712) == "+0.07"
    assert signed(-0.0712) == "−0.07"
    assert signed(0.0001) == signed(-0.0001) == "0.00"
    assert interval(Estimate(value=-0.5, low=-0.8, high=0.1)) == "−0.80 to 0.10"
    assert interval(Estimate(value=0.5, low=0.1, high=0.8)) == "0.10 – 0.80"
    assert p_value(0.0004) == "< 0.001"
    assert p_value(0.0123) == "0.012"
    assert p_value(0.123) == "0.12"
    assert [duration(seconds) for seconds in (None, 1.2345, 75, 7500)] == ["–", "1.23 s", "1 min", "2 h 5 min"]


def test_one_fold_has_no_deviation() -> None:
    assert mean_and_deviation([0.7, None]) == (0.7, None)
    assert mean_and_deviation([]) == (None, None)
    assert mean_and_deviation([0.6, 0.8]) == (pytest.approx(0.7), pytest.approx(0.2 / 2**0.5))
    report = training_report()
    folds = (report.folds[0], *(replace(fold, test_auc=None) for fold in report.folds[1:]))
    alone = figure(report.folds[0].test_auc)
    assert rows_after(training_page(replace(report, folds=folds)), "<h2>Folds</h2>")[-1][-1] == alone


def test_slot_entropy_has_the_colours_of_the_classes() -> None:
    report = training_report(n=30, folds=2)
    folds = tuple(
        replace(fold, history=tuple(replace(row, slot_entropy=(1.0, 2.0)) for row in fold.history))
        for fold in report.folds
    )
    page = training_page(replace(report, folds=folds))
    for name in ("negative", "positive"):
        assert page.count(f'<polyline class="series {name}"') == 2
        assert f'<span class="mark {name}">{name}</span>' in page


def test_a_question_names_all_values_of_a_side() -> None:
    asked = Question.of("HER2", ["3+", "2+ amplified"], ["0", "1+"])
    assert (asked.label_column, asked.positive, asked.negative) == ("HER2", "3+, 2+ amplified", "0, 1+")


def metrics_of(n_each: int, shift: float) -> tuple[str, ...]:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], n_each)
    p = 1 / (1 + np.exp(-(rng.normal(size=2 * n_each) + shift * y)))
    return cautions(binary_metrics(y, p, p >= 0.5))


def test_cautions_follow_the_evidence() -> None:
    assert metrics_of(400, 1.5) == ()
    assert any("includes 0.5" in line for line in metrics_of(40, 0))
    assert any("below 0.5" in line for line in metrics_of(100, -2))
    assert any("wide" in line for line in metrics_of(35, 0.7))
    few = metrics_of(8, 40)
    assert len(few) == 2, "told apart without fault: the interval is [1, 1]"
    assert "no width" in few[0]
    assert "Only 8 patients" in few[1]
    assert "same label" in cautions(binary_metrics([1, 1], [0.2, 0.3], [0, 0]))[0]


def test_effective_slots() -> None:
    assert SlotUsage(fold=0, positive=True, shares=(0.25,) * 4).effective == pytest.approx(4)
    assert SlotUsage(fold=0, positive=True, shares=(1.0, 0.0, 0.0)).effective == pytest.approx(1)


def test_place_chart_puts_the_dot_where_the_probability_is() -> None:
    chart = place_chart(0.25, 0.1, 0.5, positive=False)
    assert 'class="negative" cx="33.0"' in chart
    assert 'class="axis" x1="60.0"' in chart
    assert 'class="spread" x1="22.2" x2="43.8"' in chart
    assert "spread" not in place_chart(0.25, None, 0.5, positive=True)


@pytest.mark.parametrize(
    ("low", "high", "about", "ticks"),
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 0.61, 3, [0, 0.5, 1]),
        (0, 7, 3, [0, 5, 10]),
        (0, 0, 4, [0, 0.5, 1]),
        (-0.3, 0.8, 4, [-0.5, 0, 0.5, 1]),
    ],
)
def test_nice_ticks_surround_the_range(low: float, high: float, about: int, ticks: list[float]) -> None:
    assert nice_ticks(low, high, about) == pytest.approx(ticks)


def test_nice_ticks_inside_and_whole() -> None:
    assert nice_ticks(1, 27, 5, whole=True, inside=True) == [10, 20]
    assert nice_ticks(0, 2, 5, whole=True, inside=True) == [0, 1, 2]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9942, "0.99"),
        (0.9971, "0.997"),
        (0.99971, "0.9997"),
        (0.999999, "&gt; 0.9999"),
        (1.0, "1.00"),
        (0.004, "0.00"),
    ],
)
def test_a_figure_that_is_nearly_perfect_does_not_read_as_perfect(value: float, text: str) -> None:
    page = Environment(autoescape=True).from_string("{{ figure(value) }}").render(figure=figure, value=value)
    assert page == text
