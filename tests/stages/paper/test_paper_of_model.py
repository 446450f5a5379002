"""What a trained model leaves for a paper: cohort flow, table 1, operating points, methods, checklist, figures."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from command import wsipipe
from html_page import assert_alone
from planted_workspace import Planted, make_patients, plant
from wsipipe.pipeline.config import load_config

NOT_EVALUATED, EQUIVOCAL, NOT_IN_THE_TABLE = (3, 9), 20, 12
"""Patients whose label, or whose row, is not what it should be; those whose number 3 divides have two slides."""


def write_table(planted: Planted) -> None:
    rows = [["slide_id", "patient_id", "er", "age", "stage", "site", "remark"]]
    for i, patient in enumerate(planted.patients):
        label = {**dict.fromkeys(NOT_EVALUATED, "not evaluated"), EQUIVOCAL: "equivocal"}.get(i, patient.label)
        about = [
            "" if i % 10 == 0 else str(40 + i),
            "NA" if i % 7 == 0 else ["I", "II", "III"][i % 3],
            ["north", "south"][i % 2],
        ]
        rows += [[s, patient.id, label, *about, f"remark {i}"] for s in patient.slides if i != NOT_IN_THE_TABLE]
    rows += [[f"X{k}", f"Q{k}", "positive", "50", "II", "north", ""] for k in range(4)]  # without a slide here
    with (planted.folder / "cohort.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    planted = plant(tmp_path_factory.mktemp("paper"), make_patients(40, without_rna=6))
    planted.settings.write_text(planted.settings.read_text().replace("figures = false", 'audit = ["site"]'))
    write_table(planted)
    assert wsipipe("genomics", "-c", planted.settings).exit_code == 0
    assert wsipipe("train", "-c", planted.settings, "--method", "abmil").exit_code == 0
    return planted


def table(planted: Planted, name: str) -> list[dict[str, str]]:
    with (planted.model / f"tables/{name}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_flow_adds_up_and_names_everybody(project: Planted) -> None:
    rows = table(project, "cohort_flow")
    steps = {row["step"]: int(row["number"]) for row in rows if not row["dropped"]}
    lost = {(row["step"], row["dropped"]): int(row["number"]) for row in rows if row["dropped"]}
    assert steps["Slides of the cohort found"] == steps["With features"] == 52, "patient 12's two are in no table"
    assert lost["With features", "dropped: of a patient who is dropped"] == 5
    assert steps["Slides used"] == 47
    assert (steps["Patients in the cohort table"], steps["Patients used"]) == (43, 36)
    assert sum(n for (step, _), n in lost.items() if step == "Patients in the cohort table") == 7
    assert steps["of them with RNA"] == 36 - 5, "five of the first six are used"
    assert steps["tested in fold 0"] + steps["tested in fold 1"] == 36
    dropped = table(project, "dropped")
    assert {row["name"] for row in dropped if row["unit"] == "patients"} == {
        "P03",
        "P09",
        "P20",
        *(f"Q{k}" for k in range(4)),
    }
    assert not {row["name"] for row in dropped} & {"S12a", "S12b"}


def test_table_1_counts_what_is_missing_and_tests_nothing(project: Planted) -> None:
    rows = table(project, "table_1")
    [columns] = {tuple(row) for row in rows}
    assert columns == ("name", "value", "All (n = 36)", "positive (n = 18)", "negative (n = 18)")
    of = {(row["name"], row["value"]): row for row in rows}
    assert of["age", "median (quartiles)"]["All (n = 36)"].startswith("6")
    assert of["age", "missing"]["All (n = 36)"] == "3", "patients 0, 10, 30; 20 is dropped"
    known = 36 - int(of["stage", "missing"]["All (n = 36)"])
    stages = [int(of["stage", value]["All (n = 36)"].split()[0]) for value in ("I", "II", "III")]
    assert sum(stages) == known
    assert not [name for name, _ in of if name in ("remark", "er", "site")]
    page = (project.model / "report.html").read_text()
    assert "remark (36 different values)" in page
    sites = table(project, "sites")
    assert sum(int(row["Patients"]) for row in sites) == 36
    assert {row["Site"] for row in sites} == {"north", "south"}


def test_the_page_has_the_sections_and_stands_alone(project: Planted) -> None:
    page = (project.model / "report.html").read_text()
    assert_alone(page)
    for heading in ("Operating points", "Cohort flow", "Table 1", "Methods", "For a paper"):
        assert f"<h2>{heading}" in page
    assert "so these figures are optimistic" in page
    assert "TRIPOD+AI checklist" in page


def test_points_and_performance_are_written_with_their_intervals(project: Planted) -> None:
    points = table(project, "operating_points")
    assert [(row["calls"], row["level"]) for row in points] == [
        ("by the model", ""),
        ("specificity", "0.9"),
        ("specificity", "0.95"),
        ("sensitivity", "0.9"),
        ("sensitivity", "0.95"),
    ]
    for row in points[1:3]:
        assert float(row["specificity"]) >= float(row["level"])
    for row in points:
        assert float(row["sensitivity_low"]) < float(row["sensitivity_high"])
    performance = {row["figure"]: row for row in table(project, "performance")}
    assert float(performance["auc"]["low"]) <= float(performance["auc"]["value"]) <= float(performance["auc"]["high"])


def test_the_settings_are_those_of_the_model(project: Planted) -> None:
    file = project.model / "tables/settings.toml"
    again, given = load_config(file), load_config(project.settings)
    assert again.split == given.split
    assert again.biomarkers["er"].label_column == "er"
    assert again.train.result_settings() == given.train.result_settings() | {"method": "abmil"}
    text = file.read_text() + (project.model / "tables/methods.csv").read_text()
    assert str(project.folder) not in text, "no path of this machine"


def test_methods_say_when_where_and_with_what(project: Planted) -> None:
    rows = {row["name"]: row["value"] for row in table(project, "methods")}
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC to .*, 2 folds", rows["training"])
    assert rows["device"] == "cpu"
    assert rows["model digest"].startswith("sha256:")
    assert rows["cohort table"].startswith("cohort.csv, sha256:")
    assert rows["label"] == "er: positive; negative"


def test_the_checklist_has_all_items_and_leaves_to_the_authors_what_it_cannot_know(project: Planted) -> None:
    rows = table(project, "tripod_ai")
    numbers = [int(re.match(r"\d+", row["item"]).group()) for row in rows]  # type: ignore[union-attr]
    assert sorted(set(numbers)) == list(range(1, 28))
    assert len(rows) == 52
    assert sum(row["known"] != "for the authors" for row in rows) == 34, "as docs/paper.md says"
    known = {row["item"]: row["known"] for row in rows}
    for item in ("2", "5b", "8b", "17", "18a", "19", "25"):
        assert known[item] == "for the authors"
    assert "7 of 43 patients dropped" in known["20a"]
    assert "AUC" in known["23a"]
    assert "2 sites" in known["6a"]
    assert known["11"].endswith("no RNA was read in training"), "34 of its patients have RNA, and ABMIL reads none"


def test_figures_are_vectors_with_text_and_the_same_bytes_again(project: Planted, tmp_path: Path) -> None:
    copied = project.copied(tmp_path / "copy")
    figures = copied.model / "figures"
    names = {path.stem for path in figures.iterdir()}
    assert names == {
        "roc",
        "precision_recall",
        "calibration",
        "decision_curve",
        "confusion",
        "learning_curves",
        "cohort_flow",
        "audit",
    }
    before = {path.name: path.read_bytes() for path in figures.iterdir()}
    assert len(before) == 2 * len(names)
    svg = before["roc.svg"].decode()
    assert "Sensitivity" in svg, "text stays text"
    assert not re.search(r"20\d\d-\d\d-\d\d", svg)
    assert b"/Type /Font" in before["roc.pdf"]
    assert b"CreationDate" not in before["roc.pdf"]
    (figures / "roc.svg").unlink()
    assert wsipipe("train", "-c", copied.settings, "--method", "abmil").exit_code == 0
    assert {path.name: path.read_bytes() for path in figures.iterdir()} == before

    assert wsipipe("train", "-c", copied.settings, "--method", "abmil", "--no-figures").exit_code == 0
    assert not [*figures.iterdir()], "those of an earlier run are removed"
    assert "were not asked for" in (copied.model / "report.html").read_text()
