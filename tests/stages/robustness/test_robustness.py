"""The robustness report as a user asks for it, on a workspace whose features show one site."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from command import told, wsipipe
from planted_workspace import Planted, make_patients, plant
from wsipipe.pipeline.api import robustness
from wsipipe.pipeline.config import load_config

NAMES = ("0.5mpp-224px/efficientnet-lite0",)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Forty patients; those of site north have tiles with a feature of their own."""
    patients = make_patients()
    for number, patient in enumerate(patients):
        for bag in patient.slides.values():
            bag[:, -1] += 3 * (number // 2 % 2)
    made = plant(tmp_path_factory.mktemp("robust") / "planted", patients)
    table = made.folder / "cohort.csv"
    rows = list(csv.reader(table.read_text().splitlines()))
    site = {patient.id: ("south", "north")[n // 2 % 2] for n, patient in enumerate(patients)}
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*rows[0], "site", "scanner"])
        writer.writerows([*row, site[row[1]], "one"] for row in rows[1:])
    return made


@pytest.fixture
def mine(planted: Planted, tmp_path: Path) -> Planted:
    return planted.copied(tmp_path / "planted")


def test_features_that_show_the_site_are_found_out(mine: Planted) -> None:
    result = wsipipe("robustness", "-c", mine.settings, "--columns", "site", "--json")
    assert result.exit_code == 0, result.output
    paths = json.loads(result.stdout)["robustness"]["er"]
    [row] = csv.DictReader(Path(paths["csv"]).read_text().splitlines())
    assert (row["features"], row["column"], row["patients"]) == (NAMES[0], "site", "40")
    assert float(row["auc_of_column"]) > 0.95
    assert float(row["auc_of_label"]) > 0.7
    assert float(row["robustness_index"]) < float(row["index_at_random"])
    page = Path(paths["html"]).read_text()
    assert "Do these features show er, or where the slide is from?" in page
    assert NAMES[0] in page
    again = told("robustness", "-c", mine.settings, "--columns", "site")["robustness"]
    assert (again["done"], again["before"]) == (0, 1)
    [summary] = robustness(load_config(mine.settings, {"robustness": {"columns": ["site"]}}), features=NAMES)
    assert (summary.done, summary.before) == (0, 1)


def test_a_column_of_one_value_has_no_probe(mine: Planted) -> None:
    told("robustness", "-c", mine.settings, "--columns", "site,scanner")
    rows = list(csv.DictReader((mine.workspace / "robustness/er/robustness.csv").read_text().splitlines()))
    assert [(row["column"], row["auc_of_column"] != "") for row in rows] == [("site", True), ("scanner", False)]
    assert "no probe for it is possible" in (mine.workspace / "robustness/er/robustness.html").read_text()


REFUSED = {
    "features that are not there": (["--features", "0.5mpp-224px/uni"], "no features are called 0.5mpp-224px/uni"),
    "a column that is not there": (["--columns", "grade"], "grade"),
    "a question without classes": (["--name", "t", "--label-column", "er", "--task", "regression"], "is regression"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_asked(mine: Planted, case: str) -> None:
    words, message = REFUSED[case]
    result = wsipipe("robustness", "-c", mine.settings, *words)
    assert result.exit_code != 0
    assert message in " ".join(result.output.replace("│", " ").split())


def test_a_number_in_the_settings_does_not_stop_the_biomarkers_with_classes(mine: Planted) -> None:
    with mine.settings.open("a") as stream:
        stream.write('\n[biomarkers.age]\ntask = "regression"\nlabel_column = "age"\n')
    result = wsipipe("robustness", "-c", mine.settings, "--columns", "site", "--json")
    assert result.exit_code == 0, result.output
    assert list(json.loads(result.stdout)["robustness"]) == ["er"]
    assert "left out, since it asks for classes: age" in result.stderr
    assert wsipipe("robustness", "-c", mine.settings, "--name", "age").exit_code == 2, "asked by name it is refused"
