"""The audit of a trained model, from the command line to its files: a planted confounder is found."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import told, wsipipe
from planted_workspace import WIDTH, Patient, Planted, plant
from wsipipe.data.artifact import digest_of
from wsipipe.data.errors import UsageError
from wsipipe.models.model_question import TargetQuestion
from wsipipe.models.tasks.binary import BINARY
from wsipipe.models.tasks.prediction import PatientPrediction
from wsipipe.stages.train.audit import AUDIT_COLUMNS, Audited, _folds

PATIENTS = 90


def graded_patients() -> tuple[list[Patient], dict[str, int]]:
    """Patients whose grade goes with the label, and whose slides show the grade and nothing else; grades by patient."""
    draw = np.random.default_rng(3)
    patients, grades = [], {}
    for n in range(PATIENTS):
        grade = int(draw.integers(1, 4))
        positive = bool(draw.random() < (0.1, 0.5, 0.9)[grade - 1])
        bag = draw.normal(0, 1, (8, WIDTH)).astype(np.float32)
        bag[:, :4] += 1.0 * (grade - 2)
        patients.append(Patient(f"P{n:03d}", ("negative", "positive")[positive], {f"S{n:03d}": bag}, None))
        grades[f"P{n:03d}"] = grade
    return patients, grades


def write_table(planted: Planted, **columns: Mapping[str, object]) -> None:
    with (planted.folder / "cohort.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["slide_id", "patient_id", "er", *columns])
        for p in planted.patients:
            writer.writerows([s, p.id, p.label, *(column[p.id] for column in columns.values())] for s in p.slides)


def found(planted: Planted) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((planted.model / "audit.json").read_text())
    return content["mean"]


def train(planted: Planted, *words: str, code: int = 0) -> dict[str, Any]:
    return told("train", "-c", planted.settings, "--method", "mean", *words, code=code)


@pytest.fixture(scope="module")
def shows_grade(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    patients, grades = graded_patients()
    planted = plant(tmp_path_factory.mktemp("grade") / "project", patients)
    write_table(planted, grade=grades, centre={p.id: f"C{n % 3}" for n, p in enumerate(patients)})
    train(planted, "--audit", "grade")
    return planted


def test_a_slide_that_shows_grade_alone_is_found_out(shows_grade: Planted) -> None:
    audit = found(shows_grade)
    [grade] = audit["columns"]
    assert audit["score"]["low"] > 0.6
    assert grade["pooled"]["within"]["low"] < 0.5 < grade["pooled"]["within"]["high"]
    assert audit["alone"]["columns"]["value"] > 0.65
    assert audit["alone"]["p_value"] > 0.05
    assert grade["pooled"]["p_value"] > 0.05
    assert [group["stratum"] for group in grade["subgroups"]] == ["1", "2", "3"]
    page = (shows_grade.model / "report.html").read_text()
    assert "goes along with grade" in page
    assert "It is not shown that the slide adds anything to it" in page


def test_a_column_that_goes_with_nothing_is_cleared(shows_grade: Planted, tmp_path: Path) -> None:
    mine = shows_grade.copied(tmp_path / "copy")
    train(mine, "--audit", "SITE")  # the table calls its column centre
    audit = found(mine)
    [site] = audit["columns"]
    assert (site["column"], [group["stratum"] for group in site["subgroups"]]) == ("site", ["C0", "C1", "C2"])
    assert site["pooled"]["within"]["low"] > 0.6
    assert audit["alone"]["p_value"] < 0.001
    page = (mine.model / "report.html").read_text()
    assert "little or nothing of what it reads goes along with site" in page
    assert "The slide adds to it" in page


def test_another_audit_makes_the_page_again_and_trains_nothing(shows_grade: Planted, tmp_path: Path) -> None:
    mine = shows_grade.copied(tmp_path / "copy")
    bundles = [digest_of(mine.model / f"fold-{fold}") for fold in (0, 1)]
    assert {name: s["before"] for name, s in train(mine, "--audit", "grade").items()}["report"] == 1
    done = train(mine, "--audit", "grade", "--audit", "site")
    assert (done["train"]["before"], done["cross_validate"]["before"], done["report"]["done"]) == (2, 1, 1)
    assert [column["column"] for column in found(mine)["columns"]] == ["grade", "site"]
    done = train(mine)
    assert (done["train"]["before"], done["report"]["done"]) == (2, 1)
    assert "Audit" not in (mine.model / "report.html").read_text()
    assert [digest_of(mine.model / f"fold-{fold}") for fold in (0, 1)] == bundles


def test_another_grade_in_the_table_makes_the_audit_again(shows_grade: Planted, tmp_path: Path) -> None:
    mine = shows_grade.copied(tmp_path / "copy")
    before = found(mine)
    grades = graded_patients()[1]
    write_table(mine, grade=grades | dict.fromkeys(list(grades)[:5], "unknown"))
    done = train(mine, "--audit", "grade")
    assert (done["train"]["before"], done["report"]["done"]) == (2, 1)
    [grade] = found(mine)["columns"]
    assert [(g["stratum"], g["n_patients"]) for g in grade["subgroups"]][-1] == ("missing", 5)
    assert grade["pooled"]["n_patients"] == before["columns"][0]["pooled"]["n_patients"] - 5


def test_the_table_says_the_same_as_the_json(shows_grade: Planted) -> None:
    with (shows_grade.model / "audit.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    audit = found(shows_grade)
    assert tuple(rows[0]) == AUDIT_COLUMNS
    by_part = {(row["part"], row["stratum"], row["figure"]): row for row in rows}
    assert float(by_part["all patients", "", "AUC"]["value"]) == audit["score"]["value"]
    for group in audit["columns"][0]["subgroups"]:
        row = by_part["subgroup", group["stratum"], "AUC"]
        assert (int(row["patients"]), int(row["positive"])) == (group["n_patients"], group["n_positive"])
        assert row["value"] == ("" if group["auc"]["value"] is None else str(group["auc"]["value"]))
    assert min(min(g["n_positive"], g["n_patients"] - g["n_positive"]) for g in audit["columns"][0]["subgroups"]) < 10
    test = by_part["gain", "", "likelihood ratio, 1 degree of freedom"]
    assert float(test["p_value"]) == audit["alone"]["p_value"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("tumour_grade", "there is no column 'tumour_grade'"),
        ("er", "column er is the label itself"),
        ("patient_id", "column patient_id names slides or patients"),
    ],
)
def test_what_cannot_be_audited_is_refused_before_anything_is_trained(
    shows_grade: Planted, tmp_path: Path, asked: str, message: str
) -> None:
    mine = shows_grade.copied(tmp_path / "copy")
    result = wsipipe("train", "-c", mine.settings, "--method", "mean", "--audit", asked, "--seed", "5")
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())
    if asked == "tumour_grade":
        assert "The table has: slide_id, patient_id, path, mpp, site, er, grade" in " ".join(result.output.split())
    assert (mine.model / "report.html").read_bytes() == (shows_grade.model / "report.html").read_bytes()


def test_a_comparison_audits_every_method(shows_grade: Planted, tmp_path: Path) -> None:
    mine = shows_grade.copied(tmp_path / "copy")
    told("compare", "-c", mine.settings, "--methods", "mean", "--audit", "grade", "--epochs", "1")
    folder = mine.workspace / "comparisons/er"
    audits = json.loads((folder / "audit.json").read_text())
    assert set(audits) == {"momkd", "mean"}
    assert audits["mean"] == found(mine)
    page = (folder / "comparison.html").read_text()
    assert "Audit of MoMKD" in page
    assert "Within grade" in page


def test_an_evaluation_audits_its_own_cohort(shows_grade: Planted, tmp_path: Path) -> None:
    mine = shows_grade.copied(tmp_path / "copy")
    place = ("-c", mine.settings, "--model", mine.model, "--training-patients")
    result = wsipipe("evaluate", *place, "--audit", "tumour_grade")
    assert result.exit_code == 1
    assert "there is no column 'tumour_grade'" in " ".join(result.output.split())
    assert wsipipe("evaluate", *place, "--audit", "grade").exit_code == 0
    folder = mine.workspace / "evaluations/er"
    assert "goes along with grade" in (folder / "report.html").read_text()
    audit = json.loads((folder / "audit.json").read_text())["mean"]
    # Each patient is read by the one fold that was neither trained nor validated on them, as in cross-validation.
    assert audit["columns"] == found(mine)["columns"]
    assert audit["alone"] == found(mine)["alone"]


def test_patients_of_a_cohort_without_folds_are_dealt_into_some() -> None:
    def row(n: int, folds: tuple[int, ...]) -> PatientPrediction:
        return PatientPrediction(
            patient_id=f"P{n:02d}",
            label=n % 2,
            probability=0.5,
            logit=0.0,
            threshold=0.5,
            call=1,
            slides=1,
            folds=folds,
        )

    assert _folds([row(n, (n % 3,)) for n in range(40)]) == [n % 3 for n in range(40)]
    dealt = _folds([row(n, (0, 1, 2)) for n in range(40)])
    assert Counter((fold, n % 2) for n, fold in enumerate(dealt)) == {(f, y): 4 for f in range(5) for y in (0, 1)}
    assert _folds([row(n, (0, 1)) for n in range(12)]) == [0] * 12  # too few for a regression


def test_several_targets_and_a_part_of_the_label_are_refused(shows_grade: Planted) -> None:
    table = shows_grade.folder / "cohort.csv"
    several = TargetQuestion(label_column="a, b", positive=[], negative=[], task="multitask", targets=["a", "b"])
    with pytest.raises(UsageError, match="is of one label, and this model has several targets: a, b"):
        Audited.of(["grade"], table, several)
    columns = {"label_column": "er", "time_column": "er", "event_column": "GRADE"}
    survival = TargetQuestion(positive=[], negative=[], task="survival", **columns)
    with pytest.raises(UsageError, match="column grade is part of the label"):
        Audited.of(["grade"], table, survival)
    assert Audited.of([""], None, several).audit([], BINARY) is None


def test_an_audit_that_is_switched_off_leaves_no_files(shows_grade: Planted, tmp_path: Path) -> None:
    mine = shows_grade.copied(tmp_path / "copy")
    files = [mine.model / "audit.json", mine.model / "audit.csv"]
    assert all(file.exists() for file in files)
    train(mine)
    assert not any(file.exists() for file in files)
    assert wsipipe("verify", "-c", mine.settings).exit_code == 0
    train(mine, "--audit", "grade")
    assert all(file.exists() for file in files)
