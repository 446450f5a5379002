"""Training that goes on: folds side by side, killed in the midst of an epoch, and what a change trains again."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import told, wsipipe
from msgspec import structs
from own_process import SignalWhen, ran
from planted_workspace import TILES, Planted, digest_of_slide, record, write_rna, write_slide
from scipy.special import expit, logit
from trained_workspace import bundle_facts, bundle_files, same_weights, trained_workspace
from wsipipe.data.cohort.splits import Splits, read_splits, write_splits
from wsipipe.data.errors import CohortError
from wsipipe.data.manifest import InputRecord, Manifest
from wsipipe.models.training.fit import Epoch
from wsipipe.pipeline.run.decisions import History, decide
from wsipipe.stages.stage import Stage
from wsipipe.stages.tile.settings import TileSettings
from wsipipe.stages.train.cross_validate import read_oof
from wsipipe.stages.train.report_stage import ReportSettings, TrainingReportStage
from wsipipe.stages.train.stage import TrainStage


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return trained_workspace(tmp_path_factory.getbasetemp())


@pytest.fixture
def mine(trained: Planted, tmp_path: Path) -> Planted:
    return trained.copied(tmp_path / "planted")


def test_folds_side_by_side_are_the_same_folds(trained: Planted, mine: Planted) -> None:
    shutil.rmtree(mine.model / "fold-0")
    shutil.rmtree(mine.model / "fold-1")
    done = told("train", "-c", mine.settings, "--device", "cpu,cpu")
    assert done["train"]["done"] == 2
    assert done["cross_validate"]["before"] == 1
    for fold in ("fold-0", "fold-1"):
        assert bundle_files(mine.model / fold) == bundle_files(trained.model / fold)


def test_an_evaluation_recorded_under_its_former_name_is_made_again(trained: Planted, mine: Planted) -> None:
    """Cross-validation was called `evaluate`: its records are known, stale, and replaced without an error."""
    manifest = mine.model / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for line in lines:
        if line["stage"] == "cross_validate":
            line |= {"stage": "evaluate", "stage_version": 2, "fingerprint": "sha256:of-before"}
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def states() -> dict[str, str]:
        items = json.loads(wsipipe("status", "-w", mine.workspace, "--json").stdout)["items"]
        return {item["stage"]: item["state"] for item in items if item["folder"] == "models/er"}

    assert states() == {"split": "done", "train": "done", "cross_validate": "stale", "report": "stale"}
    done = told("train", "-c", mine.settings)
    assert [done[stage]["done"] for stage in ("split", "train", "cross_validate")] == [0, 0, 1]
    assert set(states().values()) == {"done"}
    assert (mine.model / "oof_predictions.csv").read_bytes() == (trained.model / "oof_predictions.csv").read_bytes()


def events(folder: Path) -> dict[str, list[int]]:
    """Curve → its steps, in the order in which they were written."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    curves = event_accumulator.EventAccumulator(str(folder)).Reload()
    return {tag: [event.step for event in curves.Scalars(tag)] for tag in curves.Tags()["scalars"]}


def test_killed_in_training_it_comes_to_the_same(mine: Planted) -> None:
    shutil.rmtree(mine.model)
    settings = ("--soft-targets", "--bags-per-step", "4", "--epochs", "6", "--patience", "6")
    train = ["train", "-c", mine.settings, *settings]
    curves = ["--tensorboard"] if _has_tensorboard() else []
    without_warning = SignalWhen(mine.model, "partial/*/state.pt")
    assert ran(*train, *curves, disturbed=(without_warning,)).code == -signal.SIGKILL
    assert list(mine.model.glob("partial/*/state.pt"))
    assert not (mine.model / "fold-0").exists()
    assert wsipipe(*train, *curves).exit_code == 0
    assert not (mine.model / "partial").exists()
    after = {fold: bundle_files(mine.model / fold) for fold in ("fold-0", "fold-1")}
    undisturbed = mine.trainer(
        mine.workspace / "models/undisturbed", soft_targets=True, bags_per_step=4, epochs=6, patience=6
    )
    mine.runner().run(undisturbed)
    assert {fold: bundle_files(undisturbed.folder / fold) for fold in after} == after
    for fold in after if curves else ():
        drawn = events(mine.model / "tensorboard" / fold)
        epochs = list(range(len(bundle_facts(mine.model, int(fold[-1]))["training"]["history"])))
        assert drawn["validation/auc"] == drawn["validation/rank correlation"] == drawn["loss/total"] == epochs
        assert len(list((mine.model / "tensorboard" / fold).iterdir())) == 1


def _has_tensorboard() -> bool:
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        return False
    return True


# What a change trains again, and what it leaves


def verdicts(stage: Stage[Any]) -> list[str]:
    """What the next run would do with each item."""
    history = History(stage.manifest, stage.name)
    return [decide(stage, item, history, retry_failed=False).verdict for item in stage.plan().items]


def test_another_prevalence_trains_nothing_again_and_moves_no_rank(mine: Planted) -> None:
    before = read_oof(mine.model / "oof_predictions.csv")
    bundles = [bundle_files(mine.model / f"fold-{fold}") for fold in (0, 1)]
    splits = read_splits(mine.model / "splits.csv")
    shares = [np.mean([splits.labels[p] for p in splits.patients(fold, "train")]) for fold in (0, 1)]
    assert [json.loads(files["bundle.json"])["prevalence"] for files in bundles] == shares
    assert {row.prevalence for row in before} == {np.mean(shares)}
    auc = json.loads((mine.model / "metrics.json").read_text())["pooled"]["auc"]
    done = told("train", "-c", mine.settings, "--prevalence", "0.1")
    assert (done["train"]["before"], done["cross_validate"]["done"], done["report"]["done"]) == (2, 1, 1)
    now = read_oof(mine.model / "oof_predictions.csv")
    assert [(row.call, row.logit) for row in now] == [(row.call, row.logit) for row in before]
    assert [row.probability for row in now] == pytest.approx([expit(row.logit + logit(0.1)) for row in now])
    metrics = json.loads((mine.model / "metrics.json").read_text())
    assert (metrics["prevalence"], metrics["pooled"]["auc"]) == (0.1, auc)
    assert "at a prevalence of 10 %" in (mine.model / "report.html").read_text()
    assert wsipipe("train", "-c", mine.settings, "--prevalence", "10").exit_code == 2


def test_the_report_counts_no_fold_of_an_earlier_split(mine: Planted) -> None:
    manifest = Manifest.of(mine.model)
    manifest.append(structs.replace(manifest.latest("train")["fold-1"], item="fold-2"))
    [page] = TrainingReportStage(ReportSettings(), mine.model, mine.workspace).plan().items
    assert {name for name in page.inputs if name.startswith("fold-")} == {"fold-0 bundle", "fold-1 bundle"}


def test_a_report_of_a_stale_cross_validation_says_why_there_is_none(mine: Planted) -> None:
    slide, bag = next(iter(mine.patients[0].slides.items()))
    write_slide(mine, slide, bag + 1)
    plan = TrainingReportStage(ReportSettings(), mine.model, mine.workspace).plan()
    assert not plan.items
    assert "stale in cross_validate, left out: cross-validation" in " ".join(plan.notes)


def test_nothing_is_trained_twice(mine: Planted) -> None:
    assert verdicts(mine.trainer()) == ["current", "current"]
    assert verdicts(mine.trainer(device="cuda", tensorboard=True)) == ["current", "current"]
    assert verdicts(mine.evaluator()) == ["current"]
    assert verdicts(mine.trainer(seed=1)) == verdicts(mine.trainer(genes=5)) == ["run", "run"]


def test_changed_features_train_the_folds_that_know_them(mine: Planted) -> None:
    patient = mine.patients[0]
    tested = read_splits(mine.model / "splits.csv").test_fold(patient.id)
    for slide, bag in patient.slides.items():
        write_slide(mine, slide, bag + 1)
    assert verdicts(mine.trainer()) == ["current" if fold == tested else "run" for fold in (0, 1)]
    assert verdicts(mine.evaluator()) == ["run"]
    [failure] = mine.runner().run(mine.evaluator()).failures  # before the fold is trained again
    assert "is stale: features of S00a changed" in failure.message


def test_a_lost_slide_trains_the_folds_that_knew_it(mine: Planted) -> None:
    patient = next(p for p in mine.patients if len(p.slides) == 2)
    (mine.store(next(iter(patient.slides))) / "zarr.json").unlink()
    with pytest.raises(CohortError, match=r"1 of the split's [0-9]+ slides no longer have features: S00a"):
        mine.trainer().plan()
    with pytest.raises(CohortError, match=r"1 of the split's [0-9]+ slides no longer have features: S00a"):
        mine.evaluator().plan()
    before = (mine.model / "splits.csv").read_bytes()
    assert mine.runner().run(mine.splitter()).done == 1
    assert (mine.model / "splits.csv").read_bytes() == before
    tested = read_splits(mine.model / "splits.csv").test_fold(patient.id)
    assert verdicts(mine.trainer()) == ["current" if fold == tested else "run" for fold in (0, 1)]
    assert verdicts(mine.evaluator()) == ["run"]


def test_slides_that_were_made_with_different_settings_cannot_train_together(mine: Planted) -> None:
    """As after `wsipipe tile --replace` and `wsipipe extract` that were both stopped half-way."""
    tiles = {"tiles": mine.workspace / TILES / "S02a.h5"}
    made_from = {"slide": InputRecord(digest=digest_of_slide("S02a"))}
    record(mine, "tile", "S02a", TileSettings(min_tissue=0.9), made_from, tiles, {"tiles": 1})
    with pytest.raises(CohortError, match="S00a and S02a were made with different settings") as caught:
        mine.trainer().plan()
    assert "to the end" in caught.value.hint


def test_a_changed_label_trains_all_folds(mine: Planted) -> None:
    table = mine.folder / "cohort.csv"
    table.write_text(table.read_text().replace("P01,positive", "P01,negative"))
    mine.runner().run(mine.splitter())
    assert verdicts(mine.trainer()) == ["run", "run"]


def test_the_same_patients_in_other_parts_train_all_folds(mine: Planted) -> None:
    runner = mine.runner()
    runner.replace = True
    assert runner.run(mine.splitter(validation_fraction=0.2)).done == 1
    assert verdicts(mine.trainer()) == ["run", "run"]


def test_slides_that_change_hands_train_the_folds_that_know_them(mine: Planted) -> None:
    """The same patients with the same labels, the same slides: but not the same slides of the same patients."""
    splits = read_splits(mine.model / "splits.csv")
    fold = 0
    one, other = [
        patient
        for patient in mine.patients
        if len(patient.slides) == 2 and patient.label == "positive" and splits.test_fold(patient.id) == fold
    ][:2]
    swap = {list(one.slides)[1]: other.id, list(other.slides)[1]: one.id}
    table = mine.folder / "cohort.csv"
    rows = [line.split(",") for line in table.read_text().split()]
    table.write_text("".join(f"{slide},{swap.get(slide, patient)},{label}\n" for slide, patient, label in rows))
    assert mine.runner().run(mine.splitter()).done == 1
    assert read_splits(mine.model / "splits.csv") == splits
    assert verdicts(mine.trainer()) == ["current", "run"]


def test_changed_rna_trains_what_learns_from_it(mine: Planted) -> None:
    (mine.folder / "genes.txt").write_text("\n".join(f"GENE{n:02d}" for n in range(6)))
    settings: list[dict[str, object]] = [
        {"method": "abmil"},
        {"method": "abmil", "soft_targets": True},
        {"use_rna": False},
        {"gene_list": mine.folder / "genes.txt"},
    ]
    stages = [mine.trainer(mine.workspace / f"models/{n}", epochs=1, **given) for n, given in enumerate(settings)]
    for stage in stages:
        assert not mine.runner().run(stage).failures
    assert [verdicts(stage)[0] for stage in stages] == ["current"] * 4
    evaluator = mine.evaluator(stages[1].folder, bootstrap_rounds=10)
    mine.runner().run(evaluator)
    assert verdicts(evaluator) == ["current"]
    (mine.folder / "genes.txt").write_text("GENE00\nGENE01")
    assert [verdicts(stage)[0] for stage in stages] == ["current", "current", "current", "run"]
    write_rna(mine, [replace(p, rna=None if p.rna is None else p.rna + 1) for p in mine.patients])
    assert [verdicts(stage)[0] for stage in stages] == ["current", "run", "current", "run"]
    assert verdicts(mine.trainer()) == ["run", "run"]
    mine.runner().run(stages[1])
    assert verdicts(evaluator) == ["run"]  # the bundles are others


def test_rna_of_a_matrix_that_has_changed_since_teaches_nobody(mine: Planted) -> None:
    matrix = mine.folder / "rna.csv"
    write_rna(mine, mine.patients)  # the copy's own
    matrix.write_text(matrix.read_text().replace("GENE00", "ESR1"))
    with pytest.raises(CohortError, match=r"the store is stale: matrix changed \(rna.csv\)") as caught:
        mine.trainer().plan()
    assert "wsipipe genomics" in caught.value.hint
    assert [item.id for item in mine.trainer(use_rna=False, method="abmil").plan().items] == ["fold-0", "fold-1"]


class Stopped(TrainStage):
    """Each fold is stopped by a full disk when its first epoch is kept."""

    @contextmanager
    def _curves(self, fold: str) -> Iterator[Callable[[Epoch], None]]:
        def stop(epoch: Epoch) -> None:
            raise OSError(28, "No space left on device")

        yield stop


def test_what_other_settings_left_unfinished_is_not_gone_on_with(mine: Planted) -> None:
    folder = mine.workspace / "models/stopped"
    assert len(mine.runner().run(mine.trainer(folder, kind=Stopped, method="abmil")).failures) == 2
    assert len(list(folder.glob("partial/*/state.pt"))) == 2
    undisturbed = mine.trainer(mine.workspace / "models/undisturbed", method="abmil", seed=1)
    for stage in (undisturbed, mine.trainer(folder, method="abmil", seed=1)):
        assert mine.runner().run(stage).done == 2
    for fold in ("fold-0", "fold-1"):
        assert same_weights(folder / fold, undisturbed.folder / fold)


def test_a_damaged_store_costs_the_folds_that_read_it_and_no_other(mine: Planted) -> None:
    patient = mine.patients[1]
    tested = read_splits(mine.model / "splits.csv").test_fold(patient.id)
    shutil.rmtree(mine.model / "fold-0")
    shutil.rmtree(mine.model / "fold-1")
    file = mine.store("S01a") / "zarr.json"
    whole = file.read_bytes()
    file.write_bytes(b"{" + whole[1:-1] + b" ")  # as long as it was
    result = wsipipe("train", "-c", mine.settings)
    assert result.exit_code == 1
    assert "S01a.zarr" in result.output
    assert (mine.model / f"fold-{tested}").is_dir()
    assert not (mine.model / f"fold-{1 - tested}").exists()
    with pytest.raises(CohortError, match=f"folds {1 - tested} are not trained"):
        mine.evaluator().plan()
    file.write_bytes(whole)
    done = told("train", "-c", mine.settings, "--retry-failed")
    assert (done["train"]["done"], done["train"]["before"]) == (1, 1)


def test_a_split_edited_by_hand_tests_nobody_on_whom_a_fold_was_trained(mine: Planted) -> None:
    splits = read_splits(mine.model / "splits.csv")
    one, other = (next(p for p in splits.patients(fold, "test") if splits.labels[p]) for fold in (0, 1))
    roles = {**splits.roles, one: splits.roles[one][::-1], other: splits.roles[other][::-1]}
    write_splits(mine.model / "splits.csv", Splits(splits.labels, roles))
    (mine.model / "metrics.json").unlink()
    summary = mine.runner().run(mine.evaluator())
    assert "was trained on its own test patient" in summary.failures[0].message
    assert "by hand" in summary.failures[0].hint
