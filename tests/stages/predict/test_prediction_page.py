"""The page of predictions: every number is there, names are escaped, nothing is fetched, same report same page."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from html_page import HOSTILE, Page, assert_alone, rows_after
from wsipipe.data.errors import UsageError
from wsipipe.models.tasks.prediction import PatientPrediction
from wsipipe.stages.pages.asked_question import Question
from wsipipe.stages.pages.report_page import FailedSlide, PredictionReport, SlidePrediction, prediction_page


def prediction_report(n: int = 9) -> PredictionReport:
    rng = np.random.default_rng(4)
    slides, patients = [], []
    for i in range(n):
        probability = float(rng.random())
        trained = i % 4 == 1
        prediction = PatientPrediction(
            patient_id=f"TCGA-A7-A13{i}",
            probability=probability,
            logit=float(np.log(probability / (1 - probability))),
            spread=None if trained else 0.0312 + 0.01 * i,
            threshold=0.4567,
            call=int(probability >= 0.4567),
            slides=1,
            folds=(2,) if trained else (0, 1, 2, 3, 4),
            why="the patient trained the others" if trained else "",
        )
        slides.append(
            SlidePrediction(
                slide=f"TCGA-A7-A13D-01Z-00-DX{i}.B1A2C3D4-E5F6",
                n_tiles=1234 + 17 * i,
                heatmap=f"heatmaps/slide {i}#1.png",
                top_tiles=f"heatmaps/slide {i}-top.png" if i % 2 else None,
                geojson=f"heatmaps/slide {i}.geojson",
                prediction=prediction,
            )
        )
        patients.append(prediction)
    return PredictionReport(
        prevalence=0.5,
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


def test_the_small_picture_is_explained_where_it_is_shown() -> None:
    page = prediction_page(prediction_report())
    [explained] = re.findall(r'<span class="of-place">(.*?)</span>', page)
    assert "In the small picture the dot is the probability" in explained
    hidden = [rule.split("{")[0] for rule in re.findall(r"[^{}]*{ display: none; }", page) if ".place" in rule]
    assert hidden
    assert all(".predictions .place" in rule and ".of-place" in rule for rule in hidden)


def test_prediction_page_shows_every_number_it_was_given() -> None:
    report = prediction_report()
    page = prediction_page(report)
    rows = rows_after(page, "<h2>Slides</h2>")
    assert len(rows) == len(report.slides)
    for slide, row in zip(report.slides, rows, strict=True):
        assert row[:6] == [
            slide.slide,
            slide.prediction.patient_id,
            f"{slide.n_tiles:,}",
            f"{slide.prediction.probability:.3f}",
            "–" if slide.prediction.spread is None else f"± {slide.prediction.spread:.3f}",
            "0.457",
        ]
        assert row[7] == ("positive" if slide.prediction.call else "negative")
        assert row[8] == ("2 the patient trained the others" if slide.prediction.spread is None else "all")
    text = Page(page).text
    for slide in report.failed:
        assert f"{slide.slide} {slide.reason} {slide.hint}" in text
    assert "Research use only, not for diagnosis." in text
    assert "her2-momkd (5 folds)" in text
    assert "11 slides given 9 predicted" in text


def test_same_report_same_bytes() -> None:
    assert prediction_page(prediction_report()) == prediction_page(prediction_report())


def test_nothing_is_fetched_and_nothing_runs() -> None:
    assert_alone(prediction_page(prediction_report()))


def test_hostile_names_stay_text() -> None:
    prediction = prediction_report()
    prediction = replace(
        prediction,
        name=HOSTILE,
        model=HOSTILE,
        slides=tuple(
            replace(
                slide,
                slide=HOSTILE,
                prediction=replace(slide.prediction, patient_id=HOSTILE, why=HOSTILE),
                heatmap=f"heatmaps/{HOSTILE}.png",
            )
            for slide in prediction.slides
        ),
        failed=(FailedSlide(slide=HOSTILE, reason=HOSTILE, hint=HOSTILE),),
    )
    html = prediction_page(prediction)
    page = Page(html)
    assert "<script" not in html
    assert not any(tag == "script" for tag, _ in page.tags)
    assert HOSTILE in page.text


def test_the_page_says_at_which_prevalence_its_probabilities_are() -> None:
    said = "Probabilities, thresholds, Brier score and calibration are at a prevalence of 50 %"
    assert prediction_page(prediction_report()).count(said) == 1


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


def test_an_empty_report_still_makes_a_page() -> None:
    nothing = replace(prediction_report(), slides=(), patients=())
    assert "No slide could be predicted." in Page(prediction_page(nothing)).text
