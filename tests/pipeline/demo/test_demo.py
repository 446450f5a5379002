"""The README's first promise: the demo runs by itself, is learnt, and a second run computes nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from own_process import ran
from wsipipe.data.errors import UsageError
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.units import Level0Px, LevelPx, Microns
from wsipipe.pipeline.config import load_config
from wsipipe.pipeline.demo.chain import write_settings
from wsipipe.pipeline.demo.cohort import DemoCohort, make_cohort
from wsipipe.pipeline.demo.slides import write_aperio


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the demo's patients, on slides of an eighth of their area."""
    folder = tmp_path_factory.mktemp("demo")
    make_cohort(folder / "cohort", side=Microns(345.0))
    return folder


def demo(folder: Path) -> tuple[dict[str, Any], str]:
    ended = ran("demo", folder, "--json")
    assert ended.code == 0, ended.err
    return json.loads(ended.out.splitlines()[-1]), ended.err


@pytest.fixture(scope="module")
def first(folder: Path) -> tuple[dict[str, Any], str]:
    return demo(folder)


def test_the_held_out_patients_are_told_apart(first: tuple[dict[str, Any], str]) -> None:
    result, _ = first
    assert result["auc"] > 0.8
    assert result["n_patients"] >= 30
    assert Path(result["report"]).is_file()
    assert Path(result["workspace"]).is_dir()
    assert len(list(Path(result["heatmaps"]).glob("*.png"))) == 4


def test_the_new_slides_are_called_right(first: tuple[dict[str, Any], str], folder: Path) -> None:
    truth = {row["slide_id"]: row for row in read_csv(folder / "cohort" / "new_slides_truth.csv")}
    rows = [row for row in read_csv(Path(first[0]["predictions"])) if row["level"] == "slide"]
    probability = {row["slide_id"]: float(row["probability"]) for row in rows}
    positive = [probability[s] for s, row in truth.items() if row["HER2"] == "positive"]
    negative = [probability[s] for s, row in truth.items() if row["HER2"] == "negative"]
    assert len(positive) == len(negative) == 2
    assert min(positive) > max(negative)


def test_the_new_slides_are_called_and_the_breast_of_another_laboratory_is_not(
    first: tuple[dict[str, Any], str], folder: Path, shared: Path
) -> None:
    """A part of a real slide: the model gives it a probability as sure as those of its own slides, and no call."""
    rows = [row for row in read_csv(Path(first[0]["predictions"])) if row["level"] == "slide"]
    # The model of these small slides cannot always leave one class; but no slide is strange to it.
    assert {row["uncertain"].partition(" at ")[0] for row in rows} <= {"", "negative and positive are both possible"}
    assert {"positive", "negative"} & {row["call"] for row in rows}
    with open_slide(shared / "slides/ilc_breast_20x_region.svs") as whole:
        pixels = whole.read(0, Level0Px(10304), Level0Px(11872), LevelPx(1400), LevelPx(1400))
        mpp = whole.believed_mpp()
    assert mpp is not None
    write_aperio(folder / "ilc.svs", pixels, mpp=mpp)
    work = first[0]["workspace"]
    ended = ran("predict", folder / "ilc.svs", "-w", work, "--name", "foreign", "--device", "cpu")
    assert ended.code == 0, ended.err
    [row] = [row for row in read_csv(Path(work) / "predictions/foreign/predictions.csv") if row["level"] == "slide"]
    assert row["call"] == "uncertain"
    assert "unlike the training slides: its mean feature lies" in row["uncertain"]
    assert 0 < float(row["probability"]) < 1


def test_only_the_planted_failure_occurred_and_is_explained(first: tuple[dict[str, Any], str]) -> None:
    result, messages = first
    failures = [failure for stage in result["stages"] for failure in stage["failures"]]
    assert [failure["item"] for failure in failures] == [result["planted_failure"]]
    assert failures[0]["hint"]
    assert "Traceback" not in messages


def test_a_second_run_computes_nothing_and_gives_the_same(first: tuple[dict[str, Any], str], folder: Path) -> None:
    again, _ = demo(folder)
    assert again["recomputed"] == 0
    for name in ("auc", "auc_low", "auc_high", "n_patients", "report"):
        assert again[name] == first[0][name]


def test_its_settings_file_goes_on_with_it(first: tuple[dict[str, Any], str], folder: Path) -> None:
    ended = ran("run", "-c", folder / "wsipipe.toml", "--json")
    assert ended.code == 1  # for the slide that is broken on purpose
    result = json.loads(ended.out.splitlines()[-1])
    assert sum(stage["done"] + stage["empty"] for stage in result["stages"]) == 0
    assert sum(stage["before"] for stage in result["stages"]) > 90
    assert [failure["item"] for stage in result["stages"] for failure in stage["failures"]] == [
        first[0]["planted_failure"]
    ]


def test_settings_that_somebody_changed_are_neither_used_nor_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "wsipipe.toml"
    file.write_text('workspace = "mine"\n')
    cohort = DemoCohort(
        **{name: tmp_path / name for name in ("slides", "table", "expression", "new_slides", "new_slides_truth")},
        **dict.fromkeys(("label_column", "positive", "negative", "broken_slide"), "x"),
    )
    with pytest.raises(UsageError, match="other settings"):
        write_settings(file, cohort)
    assert file.read_text() == 'workspace = "mine"\n'


def test_every_path_and_word_of_the_cohort_comes_back_from_its_settings(tmp_path: Path) -> None:
    home = tmp_path / 'Ärzte "A" \\ b'
    home.mkdir()
    paths = {name: home / f"{name} é" for name in ("slides", "table", "expression", "new_slides", "new_slides_truth")}
    cohort = DemoCohort(**paths, label_column='H"ER2', positive="ja \\ +", negative="−", broken_slide="x")
    write_settings(home / "wsipipe.toml", cohort)
    write_settings(home / "wsipipe.toml", cohort)  # its own are used again
    config = load_config(home / "wsipipe.toml")
    assert config.cohort.slides == [cohort.slides]
    assert (config.cohort.table, config.genomics.matrix) == (cohort.table, cohort.expression)
    her2 = config.biomarkers["her2"]
    assert (her2.label_column, her2.positive, her2.negative) == ('H"ER2', ["ja \\ +"], ["−"])


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
