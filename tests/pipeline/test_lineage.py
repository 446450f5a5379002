"""What does not count any more is passed on by nobody: lost, failed and changed inputs, seen from the end of the chain.

A small project with real slides is tiled, extracted, trained and predicted once; each test harms a copy.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import told, wsipipe
from msgspec import structs
from wsipipe.data.manifest import ErrorRecord, Manifest
from wsipipe.data.units import Mpp
from wsipipe.pipeline.console import Console
from wsipipe.pipeline.demo.slides import write_aperio
from wsipipe.pipeline.results import Summary
from wsipipe.pipeline.run.runner import Runner
from wsipipe.stages.predict.prediction_report import PredictionReportSettings, PredictionReportStage
from wsipipe.stages.predict.settings import PredictSettings
from wsipipe.stages.predict.stage import PredictionTask, PredictStage

TILES, FEATURES = Path("tiles/0.5mpp-224px"), Path("features/0.5mpp-224px/efficientnet-lite0")
PATIENTS = 12


def write_slide(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.normal((200, 110, 170), 30, size=(300, 300, 3)).clip(0, 255).astype(np.uint8)
    write_aperio(path, pixels, mpp=Mpp(0.5))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiled, extracted, trained, and two new slides predicted."""
    folder = tmp_path_factory.mktemp("lineage")
    for place in ("slides", "new"):
        (folder / place).mkdir()
    for number in range(PATIENTS):
        write_slide(folder / f"slides/s{number:02d}.svs", number)
    for number, name in enumerate(("n1", "n2")):
        write_slide(folder / f"new/{name}.svs", 100 + number)
    rows = [f"s{n:02d},p{n:02d},{('negative', 'positive')[n % 2]}" for n in range(PATIENTS)]
    (folder / "cohort.csv").write_text("\n".join(["slide_id,patient_id,her2", *rows]) + "\n")
    (folder / "wsipipe.toml").write_text(
        """
        [cohort]
        slides = ["slides"]
        table = "cohort.csv"
        [tile]
        workers = 1
        [extract]
        device = "cpu"
        [split]
        folds = 2
        validation_fraction = 0.4
        [train]
        hidden = 8
        shared = 4
        slots = 2
        epochs = 1
        device = "cpu"
        [predict]
        slides = ["new"]
        device = "cpu"
        [report]
        figures = false
        [biomarkers.her2]
        label_column = "her2"
        """
    )
    assert wsipipe("run", "-c", folder / "wsipipe.toml").exit_code == 0
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    """A copy that knows its own slides, as after the first run in another place."""
    folder = Path(shutil.copytree(made, tmp_path / "project", copy_function=shutil.copy2))
    for manifest in (folder / "work").rglob("manifest.jsonl"):
        manifest.write_text(manifest.read_text().replace(str(made), str(folder)))
    return folder


def status(project: Path, *stages: str) -> dict[tuple[str, str], dict[str, Any]]:
    result = wsipipe("status", "--json", "-c", project / "wsipipe.toml")
    assert result.exit_code == 0
    items = json.loads(result.stdout)["items"]
    return {(item["stage"], item["item"]): item for item in items if not stages or item["stage"] in stages}


def rows(project: Path) -> dict[str, dict[str, str]]:
    with (project / "work/predictions/her2/predictions.csv").open(newline="") as stream:
        return {row["slide_id"]: row for row in csv.DictReader(stream) if row["level"] == "slide"}


def predicted(project: Path, stages: Iterable[str]) -> list[Summary]:
    """Run the last stages alone, as after a run that was stopped before them."""
    workspace = project / "work"
    task = PredictionTask(
        model=workspace / "models/her2",
        tiles=workspace / TILES,
        features=workspace / FEATURES,
        slides={"n1": "n1", "n2": "n2"},
        unnamed={"n1", "n2"},
    )
    folder = workspace / "predictions/her2"
    all_stages = {
        "predict": PredictStage(PredictSettings(device="cpu"), folder, workspace, task),
        "prediction_report": PredictionReportStage(PredictionReportSettings(), folder, workspace, task),
    }
    runner = Runner(workspace, Console(json_only=True))
    return [runner.run(all_stages[name]) for name in stages]


def failed_again(project: Path, folder: Path, stage: str) -> None:
    """The last attempt at a slide failed before its file could even be identified."""
    manifest = Manifest.of(project / "work" / folder)
    error = ErrorRecord(type="SlideError", message="cannot be read: gone", hint="mount it", retry=True)
    record = manifest.latest(stage)["n1"]
    manifest.append(structs.replace(record, status="failed", inputs={}, outputs={}, error=error))


def harm(project: Path, what: str) -> None:
    workspace = project / "work"
    match what:
        case "tiles gone":
            (workspace / TILES / "n1.h5").unlink()
        case "features gone":
            shutil.rmtree(workspace / FEATURES / "n1.zarr")
        case "tile failed":
            failed_again(project, TILES, "tile")
        case "extract failed":
            failed_again(project, FEATURES, "extract")
        case "slide changed":
            write_slide(project / "new/n1.svs", 7)
        case "tiles changed":
            write_slide(project / "new/n1.svs", 7)
            assert wsipipe("tile", project / "new", "-w", workspace).exit_code == 0
        case "records gone":
            (workspace / TILES / "manifest.jsonl").unlink()


HARMS = ("tiles gone", "features gone", "tile failed", "extract failed", "slide changed", "tiles changed")


@pytest.mark.parametrize("what", HARMS)
@pytest.mark.parametrize("stages", [("predict", "prediction_report"), ("prediction_report",)], ids=["both", "report"])
def test_a_prediction_is_passed_on_only_while_its_tiles_and_features_count(
    project: Path, what: str, stages: tuple[str, ...]
) -> None:
    assert {slide: row["status"] for slide, row in rows(project).items()} == {"n1": "done", "n2": "done"}
    harm(project, what)
    *_, summary = predicted(project, stages)
    assert not summary.failures
    assert {slide: row["status"] for slide, row in rows(project).items()} == {"n1": "failed", "n2": "done"}
    assert rows(project)["n1"]["note"].startswith(("tile: ", "extract: "))


def test_a_slide_that_breaks_later_fails_alone_and_predict_says_so(project: Path) -> None:
    (project / "new/n1.svs").write_bytes(b"II*\0 no slide any more")
    result = wsipipe("predict", project / "new", "-c", project / "wsipipe.toml", "-m", project / "work/models/her2")
    assert result.exit_code == 1, result.output
    assert {slide: row["status"] for slide, row in rows(project).items()} == {"n1": "failed", "n2": "done"}


def test_what_is_made_again_with_equal_bytes_counts_again_and_nothing_after_it_is_redone(project: Path) -> None:
    for what in ("tiles gone", "features gone"):
        harm(project, what)
    stages = told("run", "-c", project / "wsipipe.toml")
    assert (stages["predict"]["done"], stages["predict"]["before"]) == (0, 2)
    assert (stages["prediction_report"]["done"], stages["prediction_report"]["before"]) == (0, 1)
    assert {item["state"] for item in status(project).values()} == {"done"}


def test_an_input_archived_after_use_still_counts_from_end_to_end(project: Path) -> None:
    shutil.rmtree(project / "slides")
    shutil.rmtree(project / "new")
    assert {item["state"] for item in status(project).values()} == {"done"}
    assert not predicted(project, ["predict", "prediction_report"])[0].failures
    assert {row["status"] for row in rows(project).values()} == {"done"}


@pytest.mark.parametrize("what", ["slide changed", "tile failed", "tiles gone"])
def test_training_and_export_leave_out_what_does_not_count(project: Path, what: str) -> None:
    """Of the training slides one is harmed: its patient drops out, counted with a reason."""
    name = "s03"
    for folder in ("new", "slides"):
        (project / folder / ("n1.svs" if folder == "new" else f"{name}.svs")).unlink()
    config = project / "wsipipe.toml"
    workspace = project / "work"
    if what == "slide changed":
        write_slide(project / f"slides/{name}.svs", 77)
    elif what == "tiles gone":
        (workspace / TILES / f"{name}.h5").unlink()
    else:
        manifest = Manifest.of(workspace / TILES)
        error = ErrorRecord(type="SlideError", message="cannot be read", hint="", retry=True)
        record = manifest.latest("tile")[name]
        manifest.append(structs.replace(record, status="failed", inputs={}, outputs={}, error=error))
    exported = told("export", "clam", "-c", config, "--features", "0.5mpp-224px/efficientnet-lite0")
    assert exported["export"]["done"] == PATIENTS + 2 - 1
    assert any("left out" in note and name in note for note in exported["export"]["notes"])
    assert told("train", "-c", config)["split"]["done"] == 1
    with (workspace / "models/her2/patients.csv").open(newline="") as stream:
        reasons = {row["patient_id"]: row["reason"] for row in csv.DictReader(stream) if row["status"] != "used"}
    assert reasons.keys() == {"p03"}
    assert "tile" in reasons["p03"]


def test_the_page_of_tiled_slides_shows_those_that_count(project: Path) -> None:
    write_slide(project / "slides/s03.svs", 77)
    (project / "work" / TILES / "s04.h5").unlink()
    done = told("tile", project / "new", "-c", project / "wsipipe.toml")
    assert done["index"]["notes"] == ["2 stale or lost in tile, left out: s03, s04"]
    page = (project / "work" / TILES / "qc/index.html").read_text()
    assert ("s02" in page, "s03" in page, "s04" in page) == (True, False, False)


def test_the_report_counts_the_folds_of_the_present_split_alone(project: Path) -> None:
    """And so do evaluation and prediction."""
    config, model = project / "wsipipe.toml", project / "work/models/her2"
    assert wsipipe("train", "-c", config, "--folds", 3, "--replace").exit_code == 0
    assert wsipipe("train", "-c", config, "--folds", 2, "--replace").exit_code == 0
    assert (model / "fold-2").is_dir()  # wsipipe removes nothing unasked
    report = Manifest.of(model).latest("report")["report.html"]
    assert {name for name in report.inputs if name.startswith("fold-")} == {"fold-0 bundle", "fold-1 bundle"}
    states = {item: state["state"] for (stage, item), state in status(project, "train", "report").items()}
    assert states == {"fold-0": "done", "fold-1": "done", "fold-2": "stale", "report.html": "done"}


def test_predictions_and_evaluations_of_a_model_that_is_gone_or_changed_are_stale(project: Path) -> None:
    config, model = project / "wsipipe.toml", project / "work/models/her2"
    outside = Path(shutil.copytree(model, project / "elsewhere/her2"))
    assert (
        wsipipe("evaluate", "-c", config, "--model", outside, "--name", "other", "--training-patients").exit_code == 0
    )
    assert {item["state"] for item in status(project).values()} == {"done"}

    shutil.rmtree(outside)
    items = status(project)
    for stage in ("read_slides", "external_evaluate"):
        [state] = {(i["state"], i["why"]) for (of, _), i in items.items() if of == stage}
        assert state[0] == "stale"
        assert "the model is gone" in state[1]
    assert items["predict", "n1"]["state"] == "done"

    assert wsipipe("train", "-c", config, "--learning-rate", 0.01, "--replace").exit_code == 0
    items = status(project)
    assert items["predict", "n1"]["state"] == items["prediction_report", "predictions"]["state"] == "stale"
    assert "the model changed (models/her2)" in items["predict", "n1"]["why"]
    assert wsipipe("predict", project / "new", "-c", config, "--model", model).exit_code == 0
    assert status(project)["predict", "n1"]["state"] == "done"
    shutil.rmtree(model)
    assert "the model is gone" in status(project)["predict", "n1"]["why"]


def test_a_model_whose_cohort_has_changed_may_be_used_and_it_is_said(project: Path) -> None:
    table = project / "cohort.csv"
    table.write_text(table.read_text().replace("p03,positive", "p03,negative"))
    notes = predicted(project, ["predict"])[0].notes
    assert any("the model her2 is itself stale" in note and "table changed" in note for note in notes)
    assert {row["status"] for row in rows(project).values()} == {"done"}
    item = status(project)["predict", "n1"]
    assert (item["state"], "is itself stale" in item["why"]) == ("stale", True)


def test_a_comparison_whose_methods_are_stale_is_stale(project: Path) -> None:
    config = project / "wsipipe.toml"
    assert wsipipe("compare", "-c", config, "--methods", "momkd", "--methods", "mean").exit_code == 0
    assert status(project)["compare", "comparison"]["state"] == "done"
    write_slide(project / "slides/s00.svs", 55)
    item = status(project)["compare", "comparison"]
    assert item["state"] == "stale"
    assert "will be made again" in item["why"]
    assert "slide changed (s00.svs)" in item["why"]


def test_other_pictures_are_drawn_unasked_and_the_prediction_stays(project: Path) -> None:
    folder = project / "work/predictions/her2"
    before = [(folder / name).read_bytes() for name in ("slides/n1.json", "predictions.csv")]
    again = ("predict", project / "new", "-c", project / "wsipipe.toml", "--model", project / "work/models/her2")
    done = told(*again, "--top-tiles", 0)
    assert (done["predict"]["done"], done["prediction_report"]["done"]) == (2, 0)
    assert "top_tiles" not in Manifest.of(folder).latest("predict")["n1"].outputs
    assert [(folder / name).read_bytes() for name in ("slides/n1.json", "predictions.csv")] == before
    assert told(*again, "--top-tiles", 0)["predict"]["before"] == 2


def test_records_of_the_version_before_count(project: Path) -> None:
    """It kept another fingerprint, no path of the model, and nothing of what the settings came to."""
    for file in (project / "work").rglob("manifest.jsonl"):
        records = [json.loads(line) for line in file.read_text().splitlines()]
        for record in records:
            record["fingerprint"] = "sha256:of another rule"
            record["settings"].pop("resolved", None)
            if "model" in record["inputs"]:
                record["inputs"]["model"] = {"digest": record["inputs"]["model"]["digest"]}
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert {item["state"] for item in status(project).values()} == {"done"}
    stages = told("run", "-c", project / "wsipipe.toml")
    assert {name: stage["done"] for name, stage in stages.items()} == dict.fromkeys(stages, 0)
    assert Manifest.of(project / "work/predictions/her2").latest("predict")["n1"].inputs["model"].path == "models/her2"


def test_features_of_another_arithmetic_or_another_card_are_not_mixed(project: Path) -> None:
    """As an older wsipipe left them: on a GPU, or before the table of backbones was mended."""
    manifest, config = Manifest.of(project / "work" / FEATURES), project / "wsipipe.toml"
    assert told("extract", "-c", config, "--precision", "fp32")["extract"]["done"] == 0  # what auto is on a CPU
    assert wsipipe("extract", "-c", config, "--precision", "bf16").exit_code == 2
    assert wsipipe("extract", "-c", config, "--precision", "bf16", "--replace").exit_code == 0
    for record in manifest.latest("extract").values():
        old = {name: value for name, value in record.settings.items() if name != "resolved"}
        manifest.append(structs.replace(record, settings=old | {"precision": "auto"}))
    result = wsipipe("extract", "-c", config)
    assert (result.exit_code, "precision bf16 → fp32" in result.output) == (2, True)
    assert told("extract", "-c", config, "--replace")["extract"]["done"] == PATIENTS + 2
    lines = manifest.path.read_text()
    manifest.path.write_text(lines.replace('"mean":[0.5,0.5,0.5]', '"mean":[0.4,0.5,0.5]'))
    assert manifest.path.read_text() != lines
    result = wsipipe("extract", "-c", config)
    assert (result.exit_code, "transform" in result.output) == (2, True)
    manifest.path.write_text(lines.replace('"interpolation":"bicubic"', '"interpolation":"bilinear"'))
    assert manifest.path.read_text() != lines
    result = wsipipe("extract", "-c", config)
    assert (result.exit_code, "transform" in result.output) == (2, True)


def test_training_refuses_features_of_two_arithmetics(project: Path) -> None:
    manifest = Manifest.of(project / "work" / FEATURES)
    record = manifest.latest("extract")["s05"]
    resolved = {**record.settings["resolved"], "precision": "bf16"}
    manifest.append(structs.replace(record, settings={**record.settings, "resolved": resolved}))
    result = wsipipe("train", "-c", project / "wsipipe.toml")
    assert result.exit_code == 1
    assert "made with different settings (precision fp32 → bf16)" in result.output


def test_a_slide_that_changed_with_the_same_tiles_is_not_what_its_features_are_of(project: Path) -> None:
    """The tiles may come out with equal bytes, when other tools have placed them, say."""
    manifest = Manifest.of(project / "work" / TILES)
    record = manifest.latest("tile")["s03"]
    other = structs.replace(record.inputs["slide"], digest="sha256:another")
    (project / "slides/s03.svs").unlink()
    manifest.append(structs.replace(record, inputs={**record.inputs, "slide": other}))
    item = status(project)["extract", "s03"]
    assert (item["state"], item["why"]) == ("stale", "slide changed")
