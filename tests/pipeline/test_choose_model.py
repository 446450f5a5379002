"""`wsipipe predict` as it is typed: the only model is taken, several are listed, and features are enough."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command import told, wsipipe
from new_slides import Clinic
from typer.testing import Result
from wsipipe.models.evaluation.metrics import binary_metrics
from wsipipe.stages.train.cross_validate import write_metrics


class Hospital(Clinic):
    """A clinic whose models are those of its workspace."""

    def model_of_workspace(self, name: str) -> Path:
        return self.model(f"work/models/{name}")

    def typed(self, *words: object) -> Result:
        """`wsipipe predict`, and the workspace."""
        return wsipipe("predict", *words, "-w", self.workspace, "--device", "cpu")


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    hospital = Hospital(tmp_path)
    hospital.slide("a")
    return hospital


def in_line(result: Result) -> str:
    return " ".join(result.stderr.split())


def test_the_only_model_is_taken_and_named(hospital: Hospital) -> None:
    hospital.model_of_workspace("her2")
    result = hospital.typed(hospital.folder / "slides")
    assert result.exit_code == 0, result.output
    assert "model her2: predicts HER2: positive or negative; not evaluated; trained elsewhere" in in_line(result)
    assert list(hospital.rows()) == ["a"]


def test_of_several_all_are_listed_with_what_they_predict_and_how_well(hospital: Hospital) -> None:
    for name in ("her2", "other"):
        hospital.model_of_workspace(name)
    figures = binary_metrics([True, False] * 20, [number / 40 for number in range(40)], [1, 0] * 20, rounds=50)
    write_metrics(hospital.workspace / "models/other/metrics.json", figures, {0: figures}, 0.15)
    shutil.copytree(hospital.workspace / "models/her2", hospital.workspace / "models/torn")
    shutil.rmtree(hospital.workspace / "models/torn/fold-2")
    result = hospital.typed(hospital.folder / "slides")
    assert result.exit_code == 2
    said = in_line(result)
    assert "there are 2 models" in said
    assert "choose one: --model her2 or --model other" in said
    assert "model her2: predicts HER2: positive or negative; not evaluated" in said
    assert f"model other: predicts HER2: positive or negative; AUC {figures.auc.value:.3f} (95 % interval" in said
    assert "torn: cannot be used" in said
    assert not (hospital.workspace / "predictions").exists()
    assert hospital.typed(hospital.folder / "slides", "--model", "other").exit_code == 0
    assert list(hospital.rows(name="other")) == ["a"]


def test_without_a_model_it_says_where_one_comes_from(hospital: Hospital) -> None:
    result = hospital.typed(hospital.folder / "slides")
    assert result.exit_code == 2
    assert "there is no model in this workspace" in in_line(result)
    assert "wsipipe train makes one; --model names one that lies elsewhere" in in_line(result)


def test_features_are_enough_where_slides_are_archived(hospital: Hospital) -> None:
    hospital.model_of_workspace("her2")
    for name in ("b", "c"):
        hospital.slide(name)
    assert hospital.typed(hospital.folder / "slides").exit_code == 0
    before = hospital.rows()
    folder = hospital.workspace / "predictions/her2"
    pictures = {path: path.read_bytes() for path in folder.glob("*/*.png")}
    assert len(pictures) == 9, "attention, evidence and tiles of three slides"
    shutil.move(hospital.folder / "slides", hospital.folder / "archive")

    everything = (
        "predict",
        "--features",
        "0.5mpp-224px/efficientnet-lite0",
        "-w",
        hospital.workspace,
        "--device",
        "cpu",
    )
    stages = told(*everything)
    assert (stages["predict"]["done"], stages["predict"]["before"]) == (0, 3), "what was drawn stays"
    assert {path: path.read_bytes() for path in folder.glob("*/*.png")} == pictures
    assert "tile" not in stages

    table = hospital.table({"a": "P1", "b": "P1", "z": "P2"})
    result = wsipipe(*everything, "--name", "again", "--table", table)
    assert result.exit_code == 0, result.output
    assert "slides of the table without features, left out: 1 (z)" in in_line(result)
    rows = hospital.rows(name="again")
    assert sorted(rows) == ["a", "b"]
    for slide, row in rows.items():
        assert row["probability"] == before[slide]["probability"]
        assert "the slide's file is not there: predicted from its features, without pictures" in row["note"]
    again = hospital.workspace / "predictions/again"
    assert not [*again.glob("*/*.png"), *again.glob("scores/*"), *again.glob("geojson/*")]
    assert "without pictures" in hospital.page("again")
    assert hospital.rows("patient", "again")["P1"]["slide_id"] == ""

    shutil.move(hospital.folder / "archive", hospital.folder / "slides")
    assert told(*everything, "--name", "again", "--table", table)["predict"]["done"] == 2, "drawn now"
    assert len([*again.glob("*/*.png")]) == 6
    assert "without pictures" not in hospital.page("again")


def test_slides_and_features_are_not_both_given(hospital: Hospital) -> None:
    hospital.model_of_workspace("her2")
    assert hospital.typed(hospital.folder / "slides").exit_code == 0
    result = hospital.typed(hospital.folder / "slides", "--features", "0.5mpp-224px/efficientnet-lite0")
    assert result.exit_code == 2
    assert "slides are given, and features to be read in their place" in in_line(result)
    nobody = hospital.table({"z": "P"})
    result = hospital.typed("--features", "0.5mpp-224px/efficientnet-lite0", "--table", nobody)
    assert result.exit_code == 2
    assert "has features here" in in_line(result)


def test_the_closing_object_names_the_model_and_the_tables(hospital: Hospital) -> None:
    hospital.model_of_workspace("her2")
    result = wsipipe("predict", hospital.folder / "slides", "-w", hospital.workspace, "--device", "cpu", "--json")
    last = json.loads(result.stdout.splitlines()[-1])
    assert last["predictions"].endswith("predictions/her2/predictions.csv")
