"""Batches of slides add up in a folder of predictions; what does not count any more is marked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command import wsipipe
from new_slides import Clinic
from scipy.special import expit, logit
from wsipipe.data.manifest import Manifest
from wsipipe.models.tasks.prediction import threshold_at


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    clinic = Clinic(tmp_path)
    clinic.model()
    return clinic


def test_a_second_batch_leaves_the_first_in_the_table(clinic: Clinic) -> None:
    table = clinic.table({"a": "P1", "b": "P2", "c": "P2"})
    broken = clinic.slide("broken")
    broken.write_bytes(b"")
    assert clinic.predict(clinic.slide("a"), clinic.slide("b"), broken, "--table", table).exit_code == 1
    first, patients = clinic.rows(), clinic.rows("patient")
    assert clinic.predict(clinic.slide("c"), "--table", table).exit_code == 0
    rows = clinic.rows()
    assert [rows[slide] for slide in ("a", "b", "broken")] == [first[slide] for slide in ("a", "b", "broken")]
    assert {slide: row["status"] for slide, row in rows.items()} == dict.fromkeys("abc", "done") | {"broken": "failed"}
    assert clinic.rows("patient")["P1"] == patients["P1"]
    assert clinic.rows("patient")["P2"] != patients["P2"], "the mean of two slides now"
    assert {row["model"] for row in rows.values() if row["status"] == "done"} == {rows["a"]["model"]}
    assert rows["a"]["model"].startswith("sha256:")
    record = Manifest.of(clinic.workspace / "predictions/her2").latest("predict")["a"]
    assert rows["a"]["date"] == record.start.date().isoformat()
    assert {row["prevalence"] for row in rows.values()} == {"0.5", ""}
    page = clinic.page()
    assert all(slide in page for slide in rows)
    assert clinic.predict(clinic.slide("a"), "--table", table).exit_code == 0
    assert clinic.rows() == rows, "nothing is to be done, and nothing is lost"


def test_another_prevalence_shows_the_same_reading_otherwise(clinic: Clinic) -> None:
    a = clinic.slide("a")
    assert clinic.predict(a).exit_code == 0
    before, heatmap = clinic.rows()["a"], clinic.workspace / "predictions/her2/heatmaps/a.png"
    picture = heatmap.read_bytes()
    assert clinic.predict(a, "--prevalence", "0.1").exit_code == 0
    row = clinic.rows()["a"]
    assert float(row["probability"]) == pytest.approx(expit(logit(float(before["probability"])) + logit(0.1)), abs=2e-6)
    assert (row["prevalence"], row["call"], row["status"]) == ("0.1", before["call"], "done")
    assert float(row["threshold"]) == pytest.approx(threshold_at(float(before["threshold"]), 0.1), abs=2e-6)
    assert heatmap.read_bytes() != picture, "its caption has the probability"
    assert "at a prevalence of 10 %" in clinic.page()
    assert clinic.predict(a, "--prevalence", "0").exit_code == 2


def test_a_model_trained_again_makes_the_first_batch_stale(clinic: Clinic) -> None:
    a, b = clinic.slide("a"), clinic.slide("b")
    assert clinic.predict(a, b).exit_code == 0
    before = clinic.rows()
    shutil.rmtree(clinic.folder / "her2")
    clinic.model(seed=1)
    result = clinic.predict(b)
    assert result.exit_code == 0
    assert "stale, left out of all figures: a" in " ".join(result.stderr.split())
    rows = clinic.rows()
    assert rows["a"] == before["a"] | {"status": "stale", "note": rows["a"]["note"]}
    assert "another model, or by this one before it was trained again" in rows["a"]["note"]
    assert rows["b"]["status"] == "done"
    assert rows["b"]["model"] != rows["a"]["model"]
    assert rows["b"]["probability"] != before["b"]["probability"]
    assert list(clinic.rows("patient")) == ["b"]
    assert "Stale predictions, left out" in clinic.page()


def test_a_slide_that_changed_is_stale_until_it_is_predicted_again(clinic: Clinic) -> None:
    a, b = clinic.slide("a"), clinic.slide("b")
    assert clinic.predict(a, b).exit_code == 0
    clinic.slide("a", seed=5)
    assert clinic.predict(b).exit_code == 0  # nothing new of b; a is looked at too
    assert clinic.rows()["a"]["status"] == "stale"
    assert "slide changed (a.svs)" in clinic.rows()["a"]["note"]
    assert list(clinic.rows("patient")) == ["b"]
    states = {
        (item["stage"], item["item"]): item["state"]
        for item in json.loads(wsipipe("status", "-w", clinic.workspace, "--json").stdout)["items"]
    }
    assert (states["predict", "a"], states["predict", "b"]) == ("stale", "done")
    assert states["prediction_report", "predictions"] == "done", "it says itself what is stale"
    assert clinic.predict(a).exit_code == 0
    assert clinic.rows()["a"]["status"] == "done"


def test_a_slide_whose_features_are_gone_is_stale(clinic: Clinic) -> None:
    assert clinic.predict(clinic.slide("a"), clinic.slide("b")).exit_code == 0
    shutil.rmtree(clinic.workspace / "features/0.5mpp-224px/efficientnet-lite0/a.zarr")
    assert clinic.predict(clinic.slide("b")).exit_code == 0
    assert clinic.rows()["a"]["status"] == "stale"
    assert "a.zarr is missing" in clinic.rows()["a"]["note"]


def test_another_model_of_the_same_folder_name_is_refused(clinic: Clinic) -> None:
    a, b = clinic.slide("a"), clinic.slide("b")
    assert clinic.predict(a).exit_code == 0
    before = clinic.rows()
    other = clinic.model("elsewhere/her2", seed=1)
    for slide in (a, b):  # a slide of the first batch, and one that would stand beside it
        result = clinic.predict(slide, model=other)
        assert result.exit_code == 2
        said = " ".join(result.stderr.split())
        assert f"is of the model {(clinic.folder / 'her2').resolve()}" in said
        assert "--name" in said
        assert "--replace" in said
    assert clinic.rows() == before
    assert clinic.predict(b, "--name", "second", model=other).exit_code == 0
    assert clinic.predict(b, "--replace", model=other).exit_code == 0
    assert {slide: row["status"] for slide, row in clinic.rows().items()} == {"a": "stale", "b": "done"}
    moved = shutil.copytree(other, clinic.folder / "copied/her2")
    assert clinic.predict(b, model=moved).exit_code == 0, "the same model at another place"


@pytest.mark.parametrize(
    "name", ["", ".", "../..", "../../x", "..", "a/b", "a+/../b", ".hidden", "/tmp/x", "a\\b", "her 2", "x\0"]
)
def test_a_name_that_leads_elsewhere_is_refused(clinic: Clinic, name: str) -> None:
    table = clinic.table({"a": "P1"})
    everything = set(clinic.folder.rglob("*")), set(clinic.folder.parent.iterdir())
    for command in (
        ("predict", clinic.slide("a"), "--model", clinic.folder / "her2"),
        ("evaluate", "--model", clinic.folder / "her2", "--table", table),
        ("train", "--table", table, "--label-column", "er"),
        ("compare", "--table", table, "--label-column", "er"),
        (
            "import-checkpoint", clinic.folder / "her2/fold-0/bundle.json", "--label-column", "er",
            "--backbone", "efficientnet-lite0", "--mpp", "0.5", "--tile-px", "224",
        ),
    ):  # fmt: skip
        result = wsipipe(*command, "--name", name, "-w", clinic.workspace)
        assert result.exit_code == 2, (command, result.output)
        assert "cannot be" in result.stderr, (command, result.stderr)
    now = set(clinic.folder.rglob("*")), set(clinic.folder.parent.iterdir())
    assert {path for path in now[0] - everything[0] if clinic.folder / "slides" not in [path, *path.parents]} <= {
        clinic.workspace
    }
    assert now[1] == everything[1]


def test_a_model_whose_folder_is_no_name_needs_one(clinic: Clinic) -> None:
    odd = clinic.model("her2 (v2)")
    result = clinic.predict(clinic.slide("a"), model=odd)
    assert result.exit_code == 2
    assert "--name" in result.stderr
    assert clinic.predict(clinic.slide("a"), "--name", "v2", model=odd).exit_code == 0


def test_a_coarse_slide_has_the_way_out_that_is_named(clinic: Clinic) -> None:
    fine, coarse = clinic.slide("fine"), clinic.slide("coarse", mpp=0.526036)
    assert clinic.predict(fine, coarse).exit_code == 1
    row = clinic.rows()["coarse"]
    assert row["status"] == "failed"
    assert "--allow-upsample" in row["note"]
    before = clinic.rows()["fine"]
    result = clinic.predict(fine, coarse, "--allow-upsample")
    assert result.exit_code == 0, result.output
    rows = clinic.rows()
    assert rows["fine"] == before
    assert "enlarged from 0.526036 to 0.5 µm per pixel" in rows["coarse"]["note"]
    assert "enlarged from 0.526036 to 0.5" in clinic.page()
    assert "enlarged" not in rows["fine"]["note"]
    assert clinic.predict(fine, coarse, clinic.slide("more")).exit_code == 0, "it was allowed, and stays so"
    assert set(clinic.rows()) == {"fine", "coarse", "more"}


def test_flags_that_hints_name_are_there() -> None:
    said = wsipipe("predict", "--help").stdout
    for flag in ("--allow-upsample", "--mpp-override", "--timeout", "--tile-timeout", "--max-bad-tiles"):
        assert flag in said


def test_a_folder_of_before_this_was_recorded_is_read(clinic: Clinic) -> None:
    """Records under former names of the stages and without what is noted now: made again, without error, and once."""
    a, b = clinic.slide("a"), clinic.slide("b")
    assert clinic.predict(a, b).exit_code == 0
    manifest = clinic.workspace / "predictions/her2/manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for line in lines:
        if line["stage"] == "prediction_report":
            line |= {"stage": "summary", "stage_version": 2, "stats": {}}
        else:
            line |= {"stage_version": 1, "stats": {"tiles": 1, "folds": 3}}
        line["fingerprint"] = "sha256:of-before"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert clinic.predict(a).exit_code == 0
    rows = clinic.rows()
    assert (rows["a"]["status"], rows["b"]["status"]) == ("done", "stale")
    items = json.loads(wsipipe("status", "-w", clinic.workspace, "--json").stdout)["items"]
    stages = [(item["stage"], item["item"]) for item in items if item["folder"] == "predictions/her2"]
    assert sorted(stages) == [("predict", "a"), ("predict", "b"), ("prediction_report", "predictions")]
