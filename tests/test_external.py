"""`wsipipe evaluate`: a model's word on another cohort is the bundles' own, honest, and fits nothing."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import told, wsipipe
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from wsipipe.data.artifact import digest_of, size_of
from wsipipe.data.errors import BundleError, CohortError, StoreError, UsageError
from wsipipe.data.features import FeatureFacts, read_bag, write_features
from wsipipe.data.manifest import InputRecord, Manifest, OutputRecord, Record
from wsipipe.models.bundle import BagRecipe, BundleFacts, Question, read_bundle, seen_hashes, write_bundle
from wsipipe.models.metrics import Metrics, binary_metrics
from wsipipe.models.momkd import MoMKD, MoMKDConfig
from wsipipe.pipeline.console import Console
from wsipipe.pipeline.runner import Runner
from wsipipe.pipeline.summary import Summary
from wsipipe.stages.external import ExternalStage, ReadSettings, ReadStage
from wsipipe.stages.external_cohort import SEEN_BY_ALL, ExternalSettings, ExternalTask
from wsipipe.stages.external_page import (
    ExternalReport,
    FoldAlone,
    JudgedPatient,
    calibration_in_words,
    external_cautions,
    external_page,
)
from wsipipe.stages.report_page import Accounting
from wsipipe.stages.report_page import Question as AskedQuestion
from wsipipe.stages.settings import ExtractSettings, TileSettings
from wsipipe.stages.split import read_patients
from wsipipe.stages.versions import VERSIONS

WIDTH = 8
TILES, FEATURES = "tiles/0.5mpp-224px", "features/0.5mpp-224px/efficientnet-lite0"
THRESHOLDS = (0.45, 0.53, 0.5)
COHORT = {f"P{n}": [f"S{n}"] for n in range(12)} | {"P1": ["S1", "S1b"], "P2": ["S2", "S2b", "S2c"]}
"""Patient → slides. Every patient with an odd number is positive."""


# ----- a model and a workspace, made by hand -----


def model_at(folder: Path, *, seen: Sequence[Sequence[str]] = ((), (), ()), seed: int = 0, **recipe: Any) -> Path:
    """Three folds of untrained networks. A name in ``seen`` that has a colon is a slide's digest."""
    for fold, threshold in enumerate(THRESHOLDS):
        torch.manual_seed(10 * seed + fold)
        sizes = {"hidden": 8, "shared": 4, "slots": 2, "head_hidden": 8}
        network = MoMKD(MoMKDConfig.model_validate({"in_features": WIDTH, **sizes})).eval()
        with torch.no_grad():
            network.head[-1].weight *= 20  # else all patients are near 0.5
        facts = BundleFacts(
            question=Question(name="her2", label_column="HER2", positive=["positive"], negative=["negative"]),
            fold=fold,
            folds=3,
            splits_digest="sha256:s",
            recipe=recipe_of(**recipe),
            method="momkd",
            network=network.config.model_dump(mode="json"),
            threshold=threshold,
            seen=seen_hashes([name for name in seen[fold] if ":" not in name], [n for n in seen[fold] if ":" in n]),
            patients={},
            genes=[],
            gene_panel={},
            training={"history": []},
            versions={"wsipipe": "0.1.0"},
        )
        write_bundle(folder / f"fold-{fold}", facts, network, {})
    return folder


def recipe_of(**changes: Any) -> BagRecipe:
    fields: dict[str, Any] = {
        "tile": TileSettings().result_settings(),
        "extract": ExtractSettings().result_settings(),
        "tile_px": 224,
        "backbone": "efficientnet-lite0",
        "pooling": "pooled",
        "weights_digest": "sha256:w",
        "width": WIDTH,
        "neighbours": 8,
    }
    return BagRecipe(**fields | changes)


def record(
    stage: str, slide: str, workspace: Path, output: tuple[str, Path], status: str = "done", **more: Any
) -> None:
    name, path = output
    settings = {"tile": TileSettings(), "extract": ExtractSettings()}[stage].result_settings()
    made = OutputRecord(path=path.relative_to(workspace).as_posix(), bytes=size_of(path), digest=digest_of(path))
    fields: dict[str, Any] = {
        "stage": stage,
        "stage_version": VERSIONS[stage],
        "item": slide,
        "status": status,
        "fingerprint": "sha256:f",
        "settings": settings,
        "inputs": {"slide": InputRecord(digest=f"sha256:{slide}")},
        "outputs": {name: made} if status == "done" else {},
        "start": datetime.now(UTC),
        "seconds": 0.0,
        "wsipipe": "0.1.0",
    }
    Manifest.of(path.parent).append(Record.model_validate(fields | more))


def add_slide(workspace: Path, slide: str, *, extracted: str = "done", tiles: int = 12, **facts: Any) -> None:
    tile = workspace / TILES / f"{slide}.h5"
    tile.parent.mkdir(parents=True, exist_ok=True)
    tile.write_text(slide)
    record("tile", slide, workspace, ("tiles", tile))
    if extracted == "not yet":
        return
    draw = np.random.default_rng(list(slide.encode()))
    said: dict[str, Any] = {
        "slide_id": slide,
        "slide_digest": f"sha256:{slide}",
        "tiles_digest": digest_of(tile),
        "mpp": 0.5,
        "tile_px": 224,
        "tile_size_level0": 224.0,
        "backbone": "efficientnet-lite0",
        "architecture": "tf_efficientnet_lite0",
        "pooling": "pooled",
        "width": WIDTH,
        "weights_digest": "sha256:w",
        "precision": "fp32",
        "transform": {},
    }
    coords = np.stack([np.arange(tiles) % 4, np.arange(tiles) // 4], axis=1) * 224
    store = workspace / FEATURES / f"{slide}.zarr"
    features = draw.normal(draw.normal(size=WIDTH), 0.5, size=(tiles, WIDTH)).astype(np.float32)
    write_features(store, features, coords, FeatureFacts(**said | facts))
    record("extract", slide, workspace, ("features", store), status=extracted)


def table_at(path: Path, cohort: Mapping[str, Sequence[str]] = COHORT, **labels: str) -> Path:
    """The cohort's table; labels of patients that are given differ from what their number says."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["slide_id", "patient_id", "HER2"])
        for patient, slides in cohort.items():
            usual = "positive" if int(patient[1:]) % 2 else "negative"
            writer.writerows([[slide, patient, labels.get(patient, usual)] for slide in slides])
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    model_at(folder / "development/models/her2")
    for slides in COHORT.values():
        for slide in slides:
            add_slide(folder / "work", slide)
    table_at(folder / "external.csv")
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A model in ``development``, and another cohort's features in ``work`` with its table beside it."""
    return Path(shutil.copytree(made, tmp_path / "place"))


def evaluate(place: Path, *, replace: bool = False, **given: Any) -> tuple[Summary, Summary]:
    runner = Runner(place / "work", Console(json_only=True), replace=replace)
    model = place / "development/models/her2"
    task = ExternalTask(
        model=model,
        table=place / "external.csv",
        tiles=place / "work" / TILES,
        features=place / "work" / FEATURES,
        asked=ExternalSettings.of(model, bootstrap_rounds=50, **given),
    )
    folder = place / "work/evaluations/her2"
    read = runner.run(ReadStage(ReadSettings(device="cpu"), folder, place / "work", task))
    return read, runner.run(ExternalStage(folder, place / "work", task))


def predictions(place: Path) -> dict[str, dict[str, str]]:
    with (place / "work/evaluations/her2/predictions.csv").open(newline="") as stream:
        return {row["patient_id"]: row for row in csv.DictReader(stream)}


def metrics(place: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((place / "work/evaluations/her2/metrics.json").read_text())
    return content


def dropped(place: Path) -> dict[str, str]:
    rows = read_patients(place / "work/evaluations/her2/patients.csv")
    return {row.patient_id: row.reason for row in rows if not row.used}


def by_hand(place: Path, slide: str, fold: int) -> float:
    store = place / "work" / FEATURES / f"{slide}.zarr"
    bundle = read_bundle(place / f"development/models/her2/fold-{fold}", torch.device("cpu"))
    return bundle.read(read_bag(store), store).logit


# ----- numbers -----


def test_predictions_and_auc_are_what_the_bundles_say_read_by_hand(place: Path) -> None:
    read, judged = evaluate(place)
    assert (read.done, judged.done) == (15, 1)
    rows = predictions(place)
    assert list(rows) == sorted(COHORT)
    alone: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for patient, slides in COHORT.items():
        by_fold = [np.mean([by_hand(place, slide, fold) for slide in slides]) for fold in range(3)]
        for fold, logit in enumerate(by_fold):
            alone[fold].append(float(expit(logit)))
        row = rows[patient]
        assert float(row["logit"]) == pytest.approx(np.mean(by_fold))
        assert float(row["probability"]) == pytest.approx(expit(np.mean(by_fold)))
        assert float(row["spread"]) == pytest.approx(np.std(expit(by_fold), ddof=1))
        assert float(row["threshold"]) == pytest.approx(np.mean(THRESHOLDS))
        assert row["call"] == str(int(expit(np.mean(by_fold)) >= np.mean(THRESHOLDS)))
        assert (row["label"], row["slides"], row["folds"]) == (str(int(patient[1:]) % 2), str(len(slides)), "0;1;2")
    assert {row["call"] for row in rows.values()} == {"0", "1"}  # else the calls would test nothing

    labels = [int(patient[1:]) % 2 for patient in COHORT]
    found = metrics(place)
    probabilities = [float(rows[patient]["probability"]) for patient in COHORT]
    assert found["pooled"]["auc"]["value"] == pytest.approx(roc_auc_score(labels, probabilities))
    assert found["pooled"]["auc"]["low"] <= found["pooled"]["auc"]["value"] <= found["pooled"]["auc"]["high"]
    aucs = [roc_auc_score(labels, alone[fold]) for fold in range(3)]
    assert [fold["auc"]["value"] for fold in found["folds"]] == pytest.approx(aucs)
    assert (found["auc_mean"], found["auc_sd"]) == pytest.approx((np.mean(aucs), np.std(aucs, ddof=1)))
    for fold, threshold in enumerate(THRESHOLDS):
        called = sum(p >= threshold for p, y in zip(alone[fold], labels, strict=True) if y)
        assert found["folds"][fold]["true_positives"] == called
    assert dropped(place) == {}


def test_nothing_is_fitted_other_labels_change_no_prediction(place: Path) -> None:
    evaluate(place)
    before = predictions(place)
    table_at(place / "external.csv", P0="positive", P3="negative", P5="negative")
    read, judged = evaluate(place)
    assert (read.done, read.before, judged.done) == (0, 15, 1)
    after = predictions(place)
    assert after["P3"]["label"] == "0" != before["P3"]["label"]
    assert [{**row, "label": ""} for row in after.values()] == [{**row, "label": ""} for row in before.values()]


# ----- honesty -----


def test_a_fold_is_silent_on_patients_and_slides_that_it_knows(place: Path) -> None:
    shutil.rmtree(place / "development")
    model_at(
        place / "development/models/her2",
        seen=[["P4", "P7", "sha256:S6"], ["P7", "sha256:S2b", "sha256:S6"], ["P7", "sha256:S6"]],
    )
    _, judged = evaluate(place)
    rows = predictions(place)
    assert dropped(place) == {"P6": SEEN_BY_ALL, "P7": SEEN_BY_ALL}
    assert not (place / "work/evaluations/her2/readings/S7.json").exists()
    heard = {patient: row["folds"] for patient, row in rows.items() if row["folds"] != "0;1;2"}
    # One slide of P2 has the bytes of one of fold 1's: that fold knows the patient, and says nothing of the others.
    assert heard == {"P2": "0;2", "P4": "1;2"}
    by_fold = [np.mean([by_hand(place, slide, fold) for slide in COHORT["P2"]]) for fold in (0, 2)]
    assert float(rows["P2"]["logit"]) == pytest.approx(np.mean(by_fold))
    assert float(rows["P2"]["threshold"]) == pytest.approx(np.mean([THRESHOLDS[0], THRESHOLDS[2]]))
    assert [fold["n_patients"] for fold in metrics(place)["folds"]] == [9, 9, 10]
    assert "known to some folds, judged by the others: 2 patients" in judged.notes
    page = (place / "work/evaluations/her2/report.html").read_text()
    assert "judged by the others: 2. To that extent this is not another cohort" in page
    assert "by their id, but not by a slide: 2 patients" in page  # P4 and P7
    assert any("by id, but not by slide: P4, P7. Where another" in note for note in judged.notes)
    assert f"Dropped: {SEEN_BY_ALL}" in page


def test_of_one_fold_there_is_no_spread(place: Path) -> None:
    shutil.rmtree(place / "development")
    model_at(place / "development/models/her2", seen=[["P4"], [], ["P4"]])
    evaluate(place)
    row = predictions(place)["P4"]
    assert (row["folds"], row["spread"], row["threshold"]) == ("1", "", str(THRESHOLDS[1]))


def test_a_model_is_not_judged_on_its_own_patients(place: Path) -> None:
    shutil.rmtree(place / "development")
    model_at(place / "development/models/her2", seen=[list(COHORT)] * 3)
    with pytest.raises(CohortError, match=rf"no patient is left to judge: {SEEN_BY_ALL} \(12\)") as caught:
        evaluate(place)
    assert caught.value.path == str(place / "external.csv")
    assert "give their ids a prefix" in caught.value.hint


# ----- labels -----


def test_another_cohort_may_name_its_labels_otherwise(place: Path) -> None:
    evaluate(place)
    usual = predictions(place)
    text = (place / "external.csv").read_text()
    text = text.replace("HER2", "erbb2_ihc").replace("positive", "3+").replace("negative", "0")
    (place / "external.csv").write_text(text)
    with pytest.raises(CohortError, match="there is no column 'HER2'"):
        evaluate(place)
    with pytest.raises(CohortError, match="no row of column erbb2_ihc is negative"):
        evaluate(place, label_column="erbb2_ihc")
    with pytest.raises(UsageError, match=r"made with other settings .*label_column HER2 → erbb2_ihc"):
        evaluate(place, label_column="erbb2_ihc", positive=["3+"], negative=["0", "1+"])
    evaluate(place, label_column="erbb2_ihc", positive=["3+"], negative=["0", "1+"], replace=True)
    assert predictions(place) == usual
    assert "erbb2_ihc" in (place / "work/evaluations/her2/report.html").read_text()


def test_a_value_cannot_mean_both(place: Path) -> None:
    with pytest.raises(UsageError, match="negative cannot mean both") as caught:
        evaluate(place, positive=["negative"])
    assert "override both" in caught.value.hint


def test_conflicting_labels_are_refused_or_dropped(place: Path) -> None:
    with (place / "external.csv").open("a") as stream:
        stream.write("S1c,P1,negative\n")
    with pytest.raises(CohortError, match="P1 "):
        evaluate(place)
    evaluate(place, drop_conflicts=True)
    assert dropped(place) == {"P1": "labels conflict"}
    assert len(predictions(place)) == 11


@pytest.mark.parametrize("label", ["positive", "negative"])
def test_a_cohort_of_one_class_has_predictions_and_says_what_is_undefined(place: Path, label: str) -> None:
    table_at(place / "external.csv", P0="equivocal", P1="", **{f"P{n}": label for n in range(2, 12)})
    _, judged = evaluate(place)
    assert judged.done == 1
    assert {row["label"] for row in predictions(place).values()} == {str(int(label == "positive"))}
    assert dropped(place) == {"P0": "label equivocal (equivocal)", "P1": "label missing"}
    pooled = metrics(place)["pooled"]
    assert pooled["auc"] == {"value": None, "low": None, "high": None}
    assert pooled["brier"]["value"] is not None
    page = (place / "work/evaluations/her2/report.html").read_text()
    assert "All patients have the same label" in page
    assert "With patients of one class alone" in page


def test_a_class_that_is_only_written_otherwise_is_refused(place: Path) -> None:
    text = (place / "external.csv").read_text()
    (place / "external.csv").write_text(text.replace("positive", "pos"))
    with pytest.raises(CohortError, match="no row of column HER2 is positive") as caught:
        evaluate(place)
    assert "pos (" in caught.value.hint


# ----- slides -----


def test_every_patient_is_judged_or_dropped_with_a_reason(place: Path) -> None:
    work = place / "work"
    cohort = {**COHORT, **{f"P{n}": [f"S{n}"] for n in range(20, 25)}}
    table_at(place / "external.csv", cohort, P24="not done")
    add_slide(work, "S21", extracted="not yet")
    add_slide(work, "S22", extracted="failed")
    add_slide(work, "S23", extracted="empty")
    add_slide(work, "S24")
    add_slide(work, "elsewhere")
    _, judged = evaluate(place)
    assert dropped(place) == {
        "P20": "no slide on disk",
        "P21": "no features extracted yet",
        "P22": "slide failed in extract",
        "P23": "no tissue on the slide",
        "P24": "label not evaluated (not done)",
    }
    assert len(predictions(place)) == 12
    assert any("slides on disk that no row names: 1 (elsewhere)" in note for note in judged.notes)


def test_a_damaged_store_costs_its_slide_and_no_other(place: Path) -> None:
    for slide in ("S0", "S2b"):
        store = place / "work" / FEATURES / f"{slide}.zarr/zarr.json"
        store.write_bytes(b"{" + store.read_bytes()[1:-1] + b" ")  # as long as it was
    read, judged = evaluate(place)
    assert {failure.item for failure in read.failures} == {"S0", "S2b"}
    assert dropped(place) == {"P0": "the model could not read their slides"}
    assert len(predictions(place)) == 11
    assert predictions(place)["P2"]["slides"] == "2"
    assert any("2 failed in read" in note for note in judged.notes)


def test_without_features_there_is_nothing_to_judge(place: Path) -> None:
    shutil.rmtree(place / "work/features")
    with pytest.raises(CohortError, match="no slide here has features") as caught:
        evaluate(place)
    assert "wsipipe extract" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"backbone": "uni2-h"}, "backbone is efficientnet-lite0, not uni2-h"),
        ({"weights_digest": "sha256:x"}, "weights_digest is sha256:w, not sha256:x"),
        ({"tile_px": 256}, "tile_px is 224, not 256"),
        ({"tile": TileSettings(mpp=1, tile_px=256).result_settings()}, "mpp is 0.5, not 1; tile_px is 224, not 256"),
    ],
)
def test_features_of_another_kind_are_refused_before_any_is_read(
    place: Path, change: dict[str, Any], said: str
) -> None:
    shutil.rmtree(place / "development")
    model_at(place / "development/models/her2", **change)
    with pytest.raises(BundleError) as caught:
        evaluate(place)
    assert said in caught.value.what
    assert caught.value.hint
    assert not (place / "work/evaluations/her2/readings").exists()


def test_slides_prepared_otherwise_are_read_and_it_is_said(place: Path) -> None:
    shutil.rmtree(place / "development")
    model_at(place / "development/models/her2", tile=TileSettings(min_tissue=0.25).result_settings())
    evaluate(place)
    page = (place / "work/evaluations/her2/report.html").read_text()
    assert "not prepared as the model&#39;s own were: min_tissue 0.5, not 0.25." in page


# ----- again -----


def test_a_second_run_does_nothing_and_another_model_does_all_again(place: Path) -> None:
    evaluate(place)
    folder = place / "work/evaluations/her2"
    files = {path: path.read_bytes() for path in folder.rglob("[!.]*.*") if path.name != "manifest.jsonl"}
    assert len([path for path in files if path.parent == folder]) == 4
    read, judged = evaluate(place)
    assert (read.done, read.before, judged.done, judged.before) == (0, 15, 0, 1)
    (folder / "predictions.csv").unlink()
    read, judged = evaluate(place)
    assert (read.done, judged.done) == (0, 1)
    assert {path: path.read_bytes() for path in files} == files  # the same numbers give the same bytes, the page's too
    shutil.rmtree(place / "development")
    model_at(place / "development/models/her2", seed=1)
    read, judged = evaluate(place)
    assert (read.done, judged.done) == (15, 1)
    assert (folder / "predictions.csv").read_bytes() != files[folder / "predictions.csv"]


def test_what_cross_validation_gave_stands_beside_it(place: Path) -> None:
    evaluate(place)
    page = place / "work/evaluations/her2/report.html"
    assert "cross-validation gave" not in page.read_text()
    there = place / "development/models/her2/metrics.json"
    there.write_text(json.dumps({"pooled": {"auc": {"value": 0.871, "low": 0.8, "high": 0.93}}}))
    read, judged = evaluate(place)
    assert (read.done, judged.done) == (0, 1)
    assert "<b>0.87</b> (0.80 – 0.93)." in page.read_text()
    there.write_text("{}")
    with pytest.raises(StoreError, match="holds no metrics"):
        evaluate(place)


# ----- the page -----


def report_of(labels: Sequence[int], probabilities: Sequence[float], **changes: Any) -> ExternalReport:
    calls = [int(p >= 0.5) for p in probabilities]
    found: Metrics = binary_metrics(labels, probabilities, calls, rounds=50)
    fields: dict[str, Any] = {
        "name": "her2",
        "model": "her2",
        "question": AskedQuestion(label_column="HER2", positive="positive", negative="negative"),
        "accounting": Accounting(in_table=len(labels), used=len(labels), dropped=()),
        "metrics": found,
        "folds": (FoldAlone(fold=0, threshold=0.5, metrics=found),),
        "n_folds": 1,
        "cross_validated": None,
        "patients": tuple(
            JudgedPatient(
                patient=f"P{i}",
                positive=bool(y),
                called_positive=bool(call),
                probability=p,
                spread=None,
                threshold=0.5,
                slides=1,
                folds=(0,),
            )
            for i, (y, p, call) in enumerate(zip(labels, probabilities, calls, strict=True))
        ),
        "known_by_id": 0,
        "differences": (),
        "facts": (("slides", str(len(labels))),),
    }
    return ExternalReport(**fields | changes)


def drawn(patients: int, *, slope: float = 1.0, shift: float = 0.0) -> tuple[list[int], list[float]]:
    """Patients whose true log-odds are intercept and slope times what is predicted."""
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 2, patients)
    return (draw.random(patients) < expit(slope * logits + shift)).astype(int).tolist(), expit(logits).tolist()


def test_calibration_is_told_in_words() -> None:
    good = calibration_in_words(report_of(*drawn(2000)))
    assert "no difference beyond chance" in good[0]
    assert "interval holds 1" in good[1]
    assert "too high for this cohort" in calibration_in_words(report_of(*drawn(2000, shift=-1)))[0]
    assert "too low for this cohort" in calibration_in_words(report_of(*drawn(2000, shift=1)))[0]
    assert "below 1" in calibration_in_words(report_of(*drawn(2000, slope=0.4)))[1]
    assert "above 1" in calibration_in_words(report_of(*drawn(2000, slope=2)))[1]
    assert "below 0" in calibration_in_words(report_of(*drawn(2000, slope=-1)))[1]
    assert "cannot be estimated" in calibration_in_words(report_of([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]))[1]
    assert "no interval" in calibration_in_words(report_of([0, 1, 0, 0], [0.1, 0.5, 0.8, 0.6]))[1]


def test_the_page_needs_nothing_else_and_trusts_nobody() -> None:
    labels, probabilities = drawn(200)
    report = report_of(labels, probabilities, name="<script>", differences=("overlap 0, not 112",))
    page = external_page(report)
    assert page == external_page(report)
    assert "<script" not in page
    assert "http" not in page
    for told_there in ("Slope", "Intercept", "Expected calibration error", "overlap 0, not 112", "200 patients"):
        assert told_there in page
    assert page.count('<svg class="place"') == 200


def test_a_large_cohort_judged_by_all_folds_needs_no_caution() -> None:
    assert external_cautions(report_of(*drawn(600))) == ()
    with pytest.raises(UsageError, match="differ"):
        report_of(*drawn(20), patients=())


# ----- the command: `wsipipe evaluate --model MODEL --table TABLE -w WORK` -----


def test_the_command(place: Path) -> None:
    model = place / "development/models/her2"
    asked = ("evaluate", "--model", model, "--table", place / "external.csv", "-w", place / "work", "--device", "cpu")
    result = wsipipe(*asked)
    assert result.exit_code == 0, result.output
    assert "her2: AUC 0." in result.stdout
    assert len(predictions(place)) == 12
    again = told(*asked)
    assert (again["read"]["before"], again["external"]["before"]) == (15, 1)
    states = json.loads(wsipipe("status", "-w", place / "work", "--json").stdout)["items"]
    assert {item["state"] for item in states if item["folder"].startswith("evaluations")} == {"done"}
    named = wsipipe(*asked, "--name", "other", "--positive", "positive", "--features", FEATURES.split("/", 1)[1])
    assert named.exit_code == 0, named.output
    assert (place / "work/evaluations/other/predictions.csv").is_file()


def test_the_command_when_nothing_can_be_read(place: Path) -> None:
    model, table, work = place / "development/models/her2", place / "external.csv", place / "work"
    for store in (work / FEATURES).glob("*.zarr/zarr.json"):
        store.write_bytes(b" " * store.stat().st_size)
    result = wsipipe("evaluate", "--model", model, "--table", table, "-w", work)
    assert result.exit_code == 1
    assert "her2: read failed, no metrics" in result.stdout


def test_the_command_says_what_is_missing(place: Path) -> None:
    model, table, work = place / "development/models/her2", place / "external.csv", place / "work"
    for words, said in (
        (("--model", model, "-w", work), "no cohort table is given"),
        (("--model", place / "nowhere", "--table", table, "-w", work), "there is no model here"),
        (("--model", model, "--table", table, "-w", place / "empty"), "wsipipe tile --mpp 0.5 --tile-px 224"),
        (("--model", model, "--table", table, "-w", work, "--features", "x/y"), "no features are called x/y"),
    ):
        result = wsipipe("evaluate", *words)
        assert result.exit_code in (1, 2)
        assert said in " ".join(result.output.split())
