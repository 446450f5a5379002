"""The page of a training: every number is there, names are escaped, nothing is fetched, same report same page."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from html_page import HOSTILE, Page, assert_alone, rows_after
from wsipipe.data.errors import UsageError
from wsipipe.models.evaluation.metrics import binary_metrics, youden_threshold
from wsipipe.models.tasks.prediction import PatientPrediction
from wsipipe.stages.pages.asked_question import Question
from wsipipe.stages.pages.numbers import figure, mean_and_deviation
from wsipipe.stages.pages.report_page import Accounting, EpochRow, FoldSummary, SlotUsage, TrainingReport, training_page


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
            PatientPrediction(
                patient_id=f"TCGA-A2-A{i:03d}",
                label=int(positive[i]),
                probability=float(probability[i]),
                logit=float(np.log(probability[i] / (1 - probability[i]))),
                threshold=threshold,
                call=int(probability[i] >= threshold),
                slides=1,
                folds=(fold,),
            )
            for i in np.flatnonzero(test)
        ]
    metrics = binary_metrics([bool(p.label) for p in oof], [p.probability for p in oof], [p.call for p in oof])
    shares = rng.dirichlet(np.full(16, 0.8), size=4)
    return TrainingReport(
        prevalence=0.5,
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
        assert patient.patient_id in text
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
    called = [(bool(patient.label), bool(patient.call)) for patient in report.oof]
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


def test_same_report_same_bytes() -> None:
    assert training_page(training_report()) == training_page(training_report())


def test_nothing_is_fetched_and_nothing_runs() -> None:
    assert_alone(training_page(training_report()))


def test_hostile_names_stay_text() -> None:
    training = training_report()
    training = replace(
        training,
        run=HOSTILE,
        question=Question(label_column=HOSTILE, positive=HOSTILE, negative=HOSTILE),
        accounting=Accounting(in_table=82, used=81, dropped=((HOSTILE, 1),)),
        oof=(replace(training.oof[0], patient_id=HOSTILE), *training.oof[1:]),
        facts=((HOSTILE, HOSTILE),),
        settings=((HOSTILE, HOSTILE),),
        predict_command=HOSTILE,
        folds=tuple(
            replace(fold, history=tuple(replace(row, losses={HOSTILE: 1.0}) for row in fold.history))
            for fold in training.folds
        ),
    )
    html = training_page(training)
    page = Page(html)
    assert "<script" not in html
    assert not any(tag == "script" for tag, _ in page.tags)
    assert HOSTILE in page.text


def test_the_page_says_at_which_prevalence_its_probabilities_are() -> None:
    said = "Probabilities, thresholds, Brier score and calibration are at a prevalence of 50 %"
    assert training_page(training_report()).count(said) == 1


def test_a_one_sided_report_still_makes_a_page() -> None:
    report = training_report(n=12, folds=2)
    one_sided = tuple(replace(patient, label=0, threshold=1.1, call=0) for patient in report.oof)
    metrics = binary_metrics([0] * 12, [p.probability for p in one_sided], [0] * 12)
    folds = tuple(replace(f, test_auc=None, validation_auc=None, history=f.history[:1]) for f in report.folds)
    page = Page(training_page(replace(report, metrics=metrics, oof=one_sided, folds=folds, slots=())))
    assert "AUC –" in page.text
    assert "same label" in page.text
    assert "nan" not in page.text.lower().split()


def test_auc_is_said_in_words() -> None:
    report = training_report()
    auc = report.metrics.auc.value
    assert auc is not None
    pairs = [(p.probability, n.probability) for p in report.oof if p.label for n in report.oof if not n.label]
    assert auc == pytest.approx(np.mean([p > n for p, n in pairs]))
    assert (
        f"the positive one the higher probability {round(100 * auc)} times in 100" in Page(training_page(report)).text
    )


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
