"""`wsipipe evaluate` on what a workspace really holds: slides missing, damaged, of another kind; runs that go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command import told, wsipipe
from external_workspace import (
    COHORT,
    add_slide,
    dropped,
    evaluate,
    external_workspace,
    model_at,
    predictions,
    table_at,
)
from planted_workspace import FEATURES, WEIGHTS
from typer.testing import Result
from wsipipe.data.errors import BundleError, CohortError, StoreError
from wsipipe.stages.tile.settings import TileSettings


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return external_workspace(tmp_path_factory.mktemp("made"))


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy to play with."""
    return Path(shutil.copytree(made, tmp_path / "place"))


# Slides


def test_every_patient_is_judged_or_dropped_with_a_reason(place: Path) -> None:
    cohort = {**COHORT, **{f"P{n}": [f"S{n}"] for n in range(20, 25)}}
    table_at(place / "external.csv", cohort, P24="not done")
    add_slide(place, "S21", extracted=None)
    add_slide(place, "S22", extracted="failed")
    add_slide(place, "S23", extracted="empty")
    add_slide(place, "S24")
    add_slide(place, "elsewhere")
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
    assert any("2 failed in read_slides" in note for note in judged.notes)


def test_without_features_there_is_nothing_to_judge(place: Path) -> None:
    shutil.rmtree(place / "work/features")
    with pytest.raises(CohortError, match="no slide here has features") as caught:
        evaluate(place)
    assert "wsipipe extract" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"backbone": "uni2-h"}, "backbone is efficientnet-lite0, not uni2-h"),
        ({"weights_digest": "sha256:x"}, f"weights_digest is {WEIGHTS}, not sha256:x"),
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


def test_features_of_another_kind_are_refused_though_the_first_store_is_damaged(place: Path) -> None:
    model_at(place / "development/models/her2", backbone="uni2-h")
    store = place / "work" / FEATURES / "S0.zarr/zarr.json"
    store.write_bytes(b" " * store.stat().st_size)
    with pytest.raises(BundleError, match="backbone is efficientnet-lite0, not uni2-h"):
        evaluate(place)


def test_frozen_slides_are_judged_if_asked_for(place: Path) -> None:
    frozen = "TCGA-A1-A0SB-01A-01-TS1"
    add_slide(place, frozen)
    table_at(place / "external.csv", {**COHORT, "P12": [frozen]})
    evaluate(place)
    assert dropped(place) == {"P12": "frozen slides only"}
    evaluate(place, tcga_slides="all", replace=True)
    assert dropped(place) == {}


def test_slides_prepared_otherwise_are_read_and_it_is_said(place: Path) -> None:
    shutil.rmtree(place / "development")
    model_at(place / "development/models/her2", tile=TileSettings(min_tissue=0.25).result_settings())
    evaluate(place)
    page = (place / "work/evaluations/her2/report.html").read_text()
    assert "prepared differently from the model&#39;s own: min_tissue 0.5, not 0.25." in page


# Again


def test_a_second_run_does_nothing_and_another_model_does_all_again(place: Path) -> None:
    evaluate(place)
    folder = place / "work/evaluations/her2"
    files = {
        path: path.read_bytes()
        for path in folder.rglob("[!.]*.*")
        if path.name not in ("manifest.jsonl", "events.jsonl")
    }
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


def test_other_features_are_judged_again(place: Path) -> None:
    evaluate(place)
    before = predictions(place)
    add_slide(place, "S3", seed=1)
    read, judged = evaluate(place)
    assert (read.done, judged.done) == (1, 1)
    assert predictions(place)["P3"]["logit"] != before["P3"]["logit"]


def test_a_slide_is_read_by_the_folds_that_its_patient_allows_now(place: Path) -> None:
    shutil.rmtree(place / "development")
    model_at(place / "development/models/her2", seen=[["P4"], [], []])
    evaluate(place, training_patients=True)
    assert predictions(place)["P4"]["folds"] == "1;2"
    table_at(place / "external.csv", {("P40" if p == "P4" else p): slides for p, slides in COHORT.items()})
    read, _ = evaluate(place)
    assert read.done == 1
    assert predictions(place)["P40"]["folds"] == "0;1;2"


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


# The command: `wsipipe evaluate --model MODEL --table TABLE -w WORK`


def test_the_command(place: Path) -> None:
    model = place / "development/models/her2"
    asked = ("evaluate", "--model", model, "--table", place / "external.csv", "-w", place / "work", "--device", "cpu")
    result = wsipipe(*asked)
    assert result.exit_code == 0, result.output
    assert "her2: AUC 0." in result.stdout
    assert len(predictions(place)) == 12
    again = told(*asked)
    assert (again["read_slides"]["before"], again["external_evaluate"]["before"]) == (15, 1)
    states = json.loads(wsipipe("status", "-w", place / "work", "--json").stdout)["items"]
    assert {item["state"] for item in states if item["folder"].startswith("evaluations")} == {"done"}
    named = wsipipe(*asked, "--name", "other", "--positive", "positive", "--features", FEATURES.relative_to("features"))
    assert named.exit_code == 0, named.output
    assert (place / "work/evaluations/other/predictions.csv").is_file()


def test_another_model_or_table_does_not_take_the_place_of_what_is_there(place: Path) -> None:
    model, table, work = place / "development/models/her2", place / "external.csv", place / "work"

    def asked(model: Path, table: Path, *words: str) -> Result:
        return wsipipe("evaluate", "--model", model, "--table", table, "-w", work, "--device", "cpu", *words)

    assert asked(model, table).exit_code == 0
    before = (work / "evaluations/her2/predictions.csv").read_bytes()
    other_model = model_at(place / "elsewhere/her2", seed=1)
    other_table = table_at(place / "second.csv", {"P0": ["S0"], "P1": ["S1"]})
    for refused, what in (((other_model, table), "the model"), ((model, other_table), "the table")):
        result = asked(*refused)
        assert result.exit_code == 2
        assert f"what is here is of {what}" in " ".join(result.stderr.split())
        assert "another --name" in " ".join(result.stderr.split())
    assert (work / "evaluations/her2/predictions.csv").read_bytes() == before
    assert asked(model, other_table, "--name", "second").exit_code == 0
    assert (work / "evaluations/her2/predictions.csv").read_bytes() == before
    copied = Path(shutil.copyfile(table, place / "copied.csv"))
    assert asked(model, copied).exit_code == 0, "the same table at another place"
    assert asked(other_model, other_table, "--replace").exit_code == 0
    assert len(predictions(place)) == 2


def test_an_evaluation_recorded_under_former_names_is_made_again(place: Path) -> None:
    model, table, work = place / "development/models/her2", place / "external.csv", place / "work"
    asked = ("evaluate", "--model", model, "--table", table, "-w", work, "--device", "cpu")
    assert wsipipe(*asked).exit_code == 0
    manifest = work / "evaluations/her2/manifest.jsonl"
    former = {"read_slides": ("read", 1), "external_evaluate": ("external", 3)}
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for line in lines:
        line["stage"], line["stage_version"] = former[line["stage"]]
        line["fingerprint"] = "sha256:of-before"
        line["stats"].pop("model", None)
        line["settings"].pop("other_patients", None)
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def states() -> set[tuple[str, str]]:
        items = json.loads(wsipipe("status", "-w", work, "--json").stdout)["items"]
        return {(item["stage"], item["state"]) for item in items if item["folder"].startswith("evaluations")}

    assert states() == {("read_slides", "stale"), ("external_evaluate", "stale")}
    assert wsipipe(*asked).exit_code == 0
    assert states() == {("read_slides", "done"), ("external_evaluate", "done")}


def test_the_command_when_nothing_can_be_read(place: Path) -> None:
    model, table, work = place / "development/models/her2", place / "external.csv", place / "work"
    for store in (work / FEATURES).glob("*.zarr/zarr.json"):
        store.write_bytes(b" " * store.stat().st_size)
    result = wsipipe("evaluate", "--model", model, "--table", table, "-w", work)
    assert result.exit_code == 1
    assert "her2: read_slides failed, no metrics" in result.stdout


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
