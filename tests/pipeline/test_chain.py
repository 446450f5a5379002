"""The chain, run as a user runs it: twice, with a store deleted, killed and started again, with things changed."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from own_process import Ended, SignalWhen, ran
from wsipipe.data.manifest import Manifest
from wsipipe.data.units import Microns
from wsipipe.models.bundle import _digest, _text
from wsipipe.pipeline.demo.cohort import DemoCohort, make_cohort

TILES, FEATURES = "tiles/0.5mpp-224px", "features/0.5mpp-224px/efficientnet-lite0"
ENVIRONMENT = {"COLUMNS": "200"}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> DemoCohort:
    return make_cohort(tmp_path_factory.mktemp("cohort"), patients=12, side=Microns(450.0))


@pytest.fixture(scope="module")
def settings(cohort: DemoCohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("settings") / "wsipipe.toml"
    file.write_text(
        f"""
        [cohort]
        slides = ["{cohort.slides}"]
        table = "{cohort.table}"
        [extract]
        batch_size = 16
        device = "cpu"
        [genomics]
        matrix = "{cohort.expression}"
        [split]
        folds = 2
        [train]
        hidden = 16
        shared = 8
        slots = 2
        genes = 16
        epochs = 6
        [predict]
        slides = ["{cohort.new_slides}"]
        [biomarkers.her2]
        label_column = "{cohort.label_column}"
        positive = ["{cohort.positive}"]
        negative = ["{cohort.negative}"]
        """
    )
    return file


@pytest.fixture(scope="module")
def undisturbed(settings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which the chain ran through once."""
    workspace = tmp_path_factory.mktemp("undisturbed") / "work"
    result = wsipipe("run", "-c", settings, "-w", workspace, "--json")
    assert result.code == 1, result.err  # the planted failure
    return workspace


@pytest.fixture
def workspace(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of it to play with."""
    return Path(shutil.copytree(undisturbed, tmp_path / "work"))


def wsipipe(*arguments: object) -> Ended:
    return ran(*arguments, environment=ENVIRONMENT)


def run(settings: Path, workspace: Path) -> dict[str, tuple[int, int]]:
    """Run the chain; of each stage (the first of its name counts) what was done now and what before."""
    result = wsipipe("run", "-c", settings, "-w", workspace, "--json")
    assert result.code == 1, result.err
    stages = json.loads(result.out.splitlines()[-1])["stages"]
    return {stage["stage"]: (stage["done"], stage["before"]) for stage in reversed(stages)}


def results(workspace: Path) -> dict[str, bytes]:
    names = ["models/her2/oof_predictions.csv", "models/her2/metrics.json", "predictions/her2/predictions.csv"]
    folds = [f"models/her2/fold-{fold}/model.safetensors" for fold in (0, 1)]
    found = {name: (workspace / name).read_bytes() for name in [*names, *folds]}
    dated = found.pop("predictions/her2/predictions.csv").decode().splitlines()  # the date of a slide is its last cell
    return found | {"predictions": "\n".join(row.rpartition(",")[0] for row in dated).encode()}


def test_everything_is_there(undisturbed: Path, cohort: DemoCohort) -> None:
    for name in ("models/her2/report.html", "predictions/her2/report.html", "genomics/expression.zarr"):
        assert (undisturbed / name).exists(), name
    slides = sorted(path.stem for path in cohort.new_slides.iterdir())
    for folder, suffix in (("heatmaps", "png"), ("geojson", "geojson"), ("tiles", "png")):
        assert sorted(p.name for p in (undisturbed / "predictions/her2" / folder).iterdir()) == [
            f"{slide}.{suffix}" for slide in slides
        ]
    assert not (undisturbed / "models/her2/partial").exists()


def test_every_patient_and_slide_is_accounted_for(undisturbed: Path, cohort: DemoCohort) -> None:
    patients = read_csv(undisturbed / "models/her2/patients.csv")
    in_table = {row["patient_id"] for row in read_csv(cohort.table)}
    assert {row["patient_id"] for row in patients} == in_table
    assert all(row["reason"] for row in patients if row["status"] == "dropped")
    tested = [row["patient_id"] for row in read_csv(undisturbed / "models/her2/oof_predictions.csv")]
    assert sorted(tested) == sorted(row["patient_id"] for row in patients if row["status"] == "used")
    rows = read_csv(undisturbed / "predictions/her2/predictions.csv")
    assert sorted(r["slide_id"] for r in rows if r["level"] == "slide") == sorted(
        p.stem for p in cohort.new_slides.iterdir()
    )


def test_a_second_run_computes_nothing(settings: Path, workspace: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in workspace.rglob("manifest.jsonl")}
    assert {n: d for n, d in run(settings, workspace).items() if d[0]} == {}
    assert before == {path: path.stat().st_mtime_ns for path in workspace.rglob("manifest.jsonl")}


def test_a_deleted_store_is_made_again_and_nothing_else(settings: Path, workspace: Path) -> None:
    slide = next(item for item in Manifest(workspace / FEATURES / "manifest.jsonl").latest("extract"))
    before = results(workspace)
    shutil.rmtree(workspace / FEATURES / f"{slide}.zarr")
    status = json.loads(wsipipe("status", "-w", workspace, "--json").out)
    lost = [(item["stage"], item["item"]) for item in status["items"] if item["state"] == "lost"]
    assert lost == [("extract", slide)]
    done = {stage: now for stage, (now, _) in run(settings, workspace).items() if now}
    assert done == {"extract": 1}
    assert results(workspace) == before


def test_a_moved_workspace_stays_valid(settings: Path, workspace: Path) -> None:
    moved = workspace.rename(workspace.with_name("elsewhere"))
    assert all(done == 0 for done, _ in run(settings, moved).values())


def killed(settings: Path, workspace: Path, pattern: str) -> None:
    """Run the chain, and kill it without warning as soon as there is a file of a pattern."""
    words = ("run", "-c", settings, "-w", workspace)
    ended = ran(*words, disturbed=(SignalWhen(workspace, pattern),), environment=ENVIRONMENT)
    assert ended.code == -signal.SIGKILL, ended.err


def test_killed_in_extraction_and_in_training_it_comes_to_the_same(
    settings: Path, undisturbed: Path, tmp_path: Path
) -> None:
    workspace = tmp_path / "work"
    features = workspace / FEATURES / "manifest.jsonl"
    killed(settings, workspace, f"{FEATURES}/manifest.jsonl")
    done = len(Manifest(features).latest("extract"))
    assert 0 < done < len(Manifest(undisturbed / FEATURES / "manifest.jsonl").latest("extract"))
    killed(settings, workspace, "models/her2/partial/*/state.pt")
    assert len(Manifest(features).latest("extract")) > done
    assert not (workspace / "models/her2/fold-1").exists()
    run(settings, workspace)
    assert results(workspace) == results(undisturbed)


def test_other_settings_do_not_overwrite(workspace: Path, cohort: DemoCohort) -> None:
    asked = ["tile", cohort.slides, "-w", workspace, "--min-tissue", "0.9", "--json"]
    refused = wsipipe(*asked)
    assert refused.code == 2
    assert "min_tissue 0.5 → 0.9" in refused.err
    assert "--replace" in refused.err
    replaced = wsipipe(*asked, "--replace")
    assert json.loads(replaced.out)["stages"][0]["done"] > 0
    status = json.loads(wsipipe("status", "-w", workspace, "--json").out)
    stale = {item["stage"] for item in status["items"] if item["state"] == "stale"}
    assert "extract" in stale


def test_more_than_rna_teaches_and_a_list_of_genes_is_taken(
    workspace: Path, settings: Path, cohort: DemoCohort, tmp_path: Path
) -> None:
    rna = pd.read_csv(cohort.expression, index_col=0)
    calls = np.random.default_rng(0).integers(-2, 3, size=(30, rna.shape[1]))
    cnv, genes = tmp_path / "cnv.csv", tmp_path / "genes.txt"
    pd.DataFrame(calls, [f"GENE{n}" for n in range(30)], rna.columns).to_csv(cnv, index_label="gene")
    chosen = sorted(map(str, rna.index))[:8]
    genes.write_text("\n".join(chosen) + "\nNOT_THERE\n")
    train = ["train", "-c", settings, "-w", workspace, "--blocks", "rna", "--blocks", "cnv", "--epochs", 1, "--json"]
    result = wsipipe(*train, "--replace")
    assert result.code == 1
    assert "--cnv FILE" in result.err
    made = wsipipe("genomics", "-c", settings, "-w", workspace, "--cnv", cnv, "--json")
    assert json.loads(made.out)["stages"][0]["done"] == 1, made.err  # RNA is as it was
    assert "gistic" in made.err
    refused = wsipipe(*train)
    assert (refused.code, "blocks" in refused.err) == (2, True)
    assert wsipipe(*train, "--replace").code == 0
    taught = json.loads((workspace / "models/her2/fold-0/bundle.json").read_text())["genes"]
    assert sum(gene.startswith("cnv:") for gene in taught) == 16
    assert len(taught) == 32
    assert wsipipe(*train, "--gene-list", genes, "--replace").code == 0
    listed = json.loads((workspace / "models/her2/fold-0/bundle.json").read_text())["genes"]
    assert sorted(listed) == chosen


def test_another_slide_does_not_take_a_name(workspace: Path, cohort: DemoCohort, tmp_path: Path) -> None:
    ours, other = sorted(cohort.slides.glob("*.svs"))[:2]
    impostor = tmp_path / ours.name
    shutil.copyfile(other, impostor)
    for _ in range(2):  # it is not let in for having been refused before
        result = wsipipe("tile", impostor, "-w", workspace)
        assert result.code == 1
        assert "already belongs to another slide" in result.out
        assert str(ours) in result.out


def test_a_patient_who_trained_the_model_is_read_only_by_the_fold_that_did_not_see_them(
    workspace: Path, cohort: DemoCohort
) -> None:
    trained = next(r for r in read_csv(workspace / "models/her2/oof_predictions.csv") if r["slides"] == "1")
    patients = {row["patient_id"]: row for row in read_csv(workspace / "models/her2/patients.csv")}
    slide = next(p for p in cohort.slides.iterdir() if p.stem == patients[trained["patient_id"]]["slides"])
    result = wsipipe("predict", slide, "--model", workspace / "models/her2", "-w", workspace, "--name", "again")
    assert result.code == 0, result.err
    row = next(r for r in read_csv(workspace / "predictions/again/predictions.csv") if r["level"] == "slide")
    assert row["folds"] == trained["fold"]
    assert "fold 0 of 2 trained" in row["note"] or "fold 1 of 2 trained" in row["note"]
    assert float(row["probability"]) == pytest.approx(float(trained["probability"]), abs=1e-6)


def test_a_model_refuses_features_of_other_weights(workspace: Path, cohort: DemoCohort) -> None:
    for bundle in (workspace / "models/her2").glob("fold-*/bundle.json"):
        facts = json.loads(bundle.read_text())
        digests = facts.pop("digests")
        facts["recipe"]["weights_digest"] = "sha256:" + "0" * 64
        digests["bundle.json"] = _digest(_text(facts))  # as it was written, by another wsipipe
        bundle.write_bytes(_text({**facts, "digests": digests}))
    result = wsipipe("predict", cohort.new_slides, "--model", workspace / "models/her2", "-w", workspace, "--name", "x")
    assert result.code == 1
    assert "weights_digest" in result.out


def test_a_slide_without_prediction_is_in_the_table_too(workspace: Path, cohort: DemoCohort, tmp_path: Path) -> None:
    new = tmp_path / "new"
    shutil.copytree(cohort.new_slides, new)
    (new / "empty.svs").touch()
    result = wsipipe("predict", new, "--model", workspace / "models/her2", "-w", workspace)
    assert result.code == 1
    rows = {row["slide_id"]: row for row in read_csv(workspace / "predictions/her2/predictions.csv")}
    assert rows["empty"]["status"] == "failed"
    assert "empty" in rows["empty"]["note"]


def read_csv(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_matrix_that_cannot_be_read_stops_the_chain(undisturbed: Path, settings: Path, tmp_path: Path) -> None:
    """Without what is to teach, nothing is trained or predicted, and the models that are there stay."""
    workspace = Path(shutil.copytree(undisturbed, tmp_path / "work"))
    (tmp_path / "bad.csv").write_text("gene,P00,P01\nGENE00,high,low\nGENE01,low,high\n")
    lines = settings.read_text().splitlines()
    matrix = next(index for index, line in enumerate(lines) if "matrix =" in line)
    lines[matrix] = f'matrix = "{tmp_path / "bad.csv"}"'
    (tmp_path / "wsipipe.toml").write_text("\n".join(lines))
    before = (workspace / "models/her2/manifest.jsonl").read_bytes()
    result = wsipipe("run", "-c", tmp_path / "wsipipe.toml", "-w", workspace, "--json")
    assert result.code == 1
    told = json.loads(result.out)
    assert told["models"] == {}
    assert [stage["stage"] for stage in told["stages"]][-1] == "genomics"
    assert "not trained" in result.err
    assert (workspace / "models/her2/manifest.jsonl").read_bytes() == before
