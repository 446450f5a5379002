"""The chain on 86 real TCGA-BRCA regions, from the settings file beside this test."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from own_process import ran

SETTINGS = Path(__file__).with_name("brca") / "wsipipe.toml"


def wsipipe(*arguments: object) -> dict[str, Any]:
    ended = ran(*arguments, "--json")
    assert ended.code == 0, ended.err
    answer: dict[str, Any] = json.loads(ended.out.splitlines()[-1])
    return answer


@pytest.fixture(scope="module")
def workspace(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chain for the recurrence score, with few epochs: what is tested is the chain, not the score."""
    workspace = tmp_path_factory.mktemp("brca") / "work"
    place = ("-c", SETTINGS, "-w", workspace)
    tiled = wsipipe("tile", *place)["stages"][0]
    assert (tiled["done"], tiled["empty"], tiled["failures"]) == (86, 0, [])
    extracted = wsipipe("extract", *place)["stages"][0]
    assert extracted["done"] == 86
    # 84 regions hold four tiles of 224 px; two are a little smaller than 448 px and hold one.
    assert extracted["units"] == 84 * 4 + 2
    wsipipe("genomics", *place)
    wsipipe("train", *place, "--name", "odx", "--epochs", 3)
    return workspace


def test_every_patient_is_used_or_dropped_with_a_reason(workspace: Path, shared: Path) -> None:
    patients = read_csv(workspace / "models/odx/patients.csv")
    clinical = read_csv(shared / "brca/clinical.csv")
    assert {row["patient_id"] for row in patients} == {row["patient_id"] for row in clinical}
    used = [row for row in patients if row["status"] == "used"]
    assert Counter(row["label"] for row in used) == {"0": 59, "1": 22}
    assert sum(len(row["slides"].split(";")) for row in used) == 86
    assert Counter(row["reason"] for row in patients if row["status"] == "dropped") == {"no slide on disk": 926}


def test_each_used_patient_is_tested_once_and_the_report_says_how_far_to_trust_it(workspace: Path) -> None:
    tested = [row["patient_id"] for row in read_csv(workspace / "models/odx/oof_predictions.csv")]
    used = [r["patient_id"] for r in read_csv(workspace / "models/odx/patients.csv") if r["status"] == "used"]
    assert sorted(tested) == sorted(used)
    metrics = json.loads((workspace / "models/odx/metrics.json").read_text())
    assert metrics["pooled"]["n_patients"] == 81
    assert metrics["pooled"]["auc"]["low"] < metrics["pooled"]["auc"]["value"] < metrics["pooled"]["auc"]["high"]
    assert "claim nothing" in (workspace / "models/odx/report.html").read_text()


@pytest.mark.parametrize("words", [("--method", "mean"), ("--method", "abmil", "--loss", "cox", "--bags-per-step", 8)])
def test_overall_survival_runs_through_and_is_counted(workspace: Path, words: tuple[object, ...]) -> None:
    """Eight of the patients died: what is tested is the chain and its counts, not the skill."""
    wsipipe(
        "train", "-c", SETTINGS, "-w", workspace, "--name", "os", "--no-use-rna", "--epochs", 2, "--replace", *words
    )
    patients = read_csv(workspace / "models/os/patients.csv")
    used = [row for row in patients if row["status"] == "used"]
    assert Counter(row["label"].split()[0] for row in used) == {"event": 8, "censored": 72}
    reasons = Counter(row["reason"] for row in patients if row["status"] == "dropped")
    assert reasons["no follow-up: censored at the time 0"] >= 1
    metrics = json.loads((workspace / "models/os/metrics.json").read_text())["pooled"]
    assert metrics["counts"] == {"with the event": 8, "censored": 72}
    assert {"C-index (Harrell)", "AUC at 24 months", "Brier score at 24 months"} <= metrics["figures"].keys()
    page = " ".join((workspace / "models/os/report.html").read_text().split())
    assert "8 of 80 patients (10 %) had the event; the median follow-up is" in page
    assert "Only 8 patients (with the event)" in page


RECEPTORS = """
[biomarkers.pr]
label_column = "pr_status_by_ihc"

[biomarkers.receptors]
targets = ["er", "pr", "her2"]
"""


def test_three_receptors_are_learned_together(workspace: Path, shared: Path, tmp_path: Path) -> None:
    """Most patients miss one of the labels: each target is judged on those who have its own."""
    settings = tmp_path / "wsipipe.toml"
    settings.write_text(SETTINGS.read_text().replace("../../../shared/data", str(shared)) + RECEPTORS)
    words = ("--name", "receptors", "--method", "mean", "--no-use-rna", "--epochs", 4)
    wsipipe("train", "-c", settings, "-w", workspace, *words)
    model = workspace / "models/receptors"
    slides = {row["patient_id"] for row in read_csv(model / "patients.csv") if row["slides"]}
    clinical = [row for row in read_csv(shared / "brca/clinical.csv") if row["patient_id"] in slides]
    metrics = json.loads((model / "metrics.json").read_text())["pooled"]
    for name, column in (("er", "ER_Status_By_IHC"), ("pr", "pr_status_by_ihc"), ("her2", "HER2Calc")):
        known = {
            r["patient_id"]: r[column].casefold() for r in clinical if r[column].casefold() in ("positive", "negative")
        }
        rows = read_csv(model / "targets" / name / "oof_predictions.csv")
        assert {row["patient_id"]: ("negative", "positive")[int(row["label"])] for row in rows} == known
        assert metrics["counts"][f"with {name}"] == len(known)
        mean = sum(float(row["probability"]) for row in rows) / len(rows)
        assert abs(mean - sum(row["label"] == "1" for row in rows) / len(rows)) < 0.15, name


def test_genomics_says_what_the_values_are(workspace: Path) -> None:
    record = json.loads((workspace / "genomics/manifest.jsonl").read_text().splitlines()[-1])
    assert (record["stats"]["patients"], record["stats"]["genes"]) == (931, 1558)
    assert any("z-score" in sentence for sentence in [*record["stats"]["facts"], *record["stats"]["warnings"]])


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
