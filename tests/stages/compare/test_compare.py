"""`wsipipe compare` as a user runs it: what is compared, what is tabled, and that nothing is trained twice."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import wsipipe
from msgspec import structs
from PIL import Image
from planted_workspace import FEATURES, Planted, make_patients, plant, write_rna
from scipy.special import expit
from threadpoolctl import threadpool_limits
from typer.testing import Result
from wsipipe.data.cohort.splits import make_splits, read_splits
from wsipipe.data.manifest import Manifest
from wsipipe.data.molecular.store import read_expression
from wsipipe.models.bundle import folds_of, read_facts
from wsipipe.models.evaluation.metrics import youden_threshold
from wsipipe.models.evaluation.paired_tests import delong, holm
from wsipipe.models.tasks.prediction import PatientPrediction, threshold_at
from wsipipe.models.training.methods import METHODS, OF_TILES
from wsipipe.models.training.rna_teacher import RnaTeacher
from wsipipe.stages.train.cross_validate import read_oof

CONTROLS = ["momkd-no-rna", "momkd-shuffled-rna", "momkd-fixed-memory", "evidence-no-rna"]
PATIENTS, WITHOUT_RNA = 28, 4
EVERYTHING = [name + soft for name in (*OF_TILES, *CONTROLS) for soft in ("", "+soft")] + ["omics"]


def compare(planted: Planted, *words: object, code: int = 0) -> Result:
    result = wsipipe("compare", "-c", planted.settings, *words)
    assert result.exit_code == code, result.output
    return result


def table(planted: Planted) -> dict[str, dict[str, str]]:
    with (planted.workspace / "comparisons/er/comparison.csv").open() as stream:
        return {row["method"]: row for row in csv.DictReader(stream)}


def folder_of(planted: Planted, method: str) -> Path:
    return planted.model if method == "momkd" else planted.workspace / "comparisons/er" / method


def state(folder: Path) -> dict[Path, tuple[int, int]]:
    """Every file with its size and time; records may be written again when folders are named anew."""
    apart = ("manifest.jsonl", "events.jsonl", ".lock")
    stats = {p: p.stat() for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in apart}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


def oof(planted: Planted, method: str) -> list[PatientPrediction]:
    return read_oof(folder_of(planted, method) / "oof_predictions.csv")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The teacher that is fitted here by hand, as those of training."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """A workspace in which a model is trained, and then everything compared."""
    planted = plant(tmp_path_factory.mktemp("compared"), make_patients(PATIENTS, without_rna=WITHOUT_RNA), epochs=1)
    assert wsipipe("train", "-c", planted.settings).exit_code == 0
    before = state(planted.model)
    result = compare(planted, "--json")
    (planted.folder / "told.json").write_text(result.stdout)
    assert state(planted.model) == before, "comparing has written over the model"
    return planted


@pytest.fixture
def mine(compared: Planted, tmp_path: Path) -> Planted:
    """A copy to play with."""
    return replace(compared, folder=Path(shutil.copytree(compared.folder, tmp_path / "compared")))


def test_everything_is_compared_and_momkd_is_not_trained_again(compared: Planted) -> None:
    assert list(table(compared)) == EVERYTHING
    told: dict[str, Any] = json.loads((compared.folder / "told.json").read_text().splitlines()[-1])
    [trained] = [stage for stage in told["stages"] if stage["stage"] == "train"]
    assert (trained["done"], trained["before"]) == (2 * (len(EVERYTHING) - 2), 2)
    assert not (compared.workspace / "comparisons/er/momkd").exists()
    for kind in ("csv", "html", "png"):
        assert Path(told["comparisons"]["er"][kind]).is_file()


def test_a_second_comparison_does_nothing(mine: Planted) -> None:
    before = state(mine.workspace)
    result = compare(mine, "--json")
    assert all(stage["done"] == 0 for stage in json.loads(result.stdout)["stages"])
    assert state(mine.workspace) == before


def test_the_variants_are_what_their_names_say(compared: Planted) -> None:
    digests = set()
    for name in EVERYTHING[:-1]:
        facts = read_facts(folder_of(compared, name) / "fold-1")
        digests.add(facts.splits_digest)
        settings = facts.training["settings"]
        method = name.removesuffix("+soft")
        assert facts.method == settings["method"] == (method.split("-")[0] if method in CONTROLS else method)
        assert bool(facts.training["soft_targets"]) is settings["soft_targets"] is name.endswith("+soft")
        taught = method in ("momkd", "evidence", "matching", "momkd-shuffled-rna", "momkd-fixed-memory")
        assert bool(facts.genes) is taught
        assert settings["shuffle_rna"] is (method == "momkd-shuffled-rna")
        if facts.method == "momkd":
            assert settings["memory"] == ("fixed" if method == "momkd-fixed-memory" else "gradient")
        assert facts.question.name == "er"
    assert len(digests) == 1
    [splits] = (compared.workspace / "comparisons").rglob("splits.csv")
    assert splits.read_bytes() == (compared.model / "splits.csv").read_bytes()


def test_the_table_says_what_each_evaluation_says(compared: Planted) -> None:
    labels = read_splits(compared.model / "splits.csv").labels
    for name, row in table(compared).items():
        metrics = json.loads((folder_of(compared, name) / "metrics.json").read_text())
        for figure in ("auc", "auprc", "balanced_accuracy", "f1", "sensitivity", "specificity", "brier"):
            for column, part in ((figure, "value"), (f"{figure}_low", "low"), (f"{figure}_high", "high")):
                told = metrics["pooled"][figure][part]
                assert number(row[column]) == pytest.approx(told, rel=1e-6, abs=1e-9), (name, column)
        for fold in metrics["folds"]:
            assert number(row[f"auc_fold_{fold['fold']}"]) == pytest.approx(fold["auc"]["value"])
        assert number(row["auc_fold_mean"]) == pytest.approx(metrics["auc_mean"])
        assert number(row["auc_fold_sd"]) == pytest.approx(metrics["auc_sd"])
        rows = oof(compared, name)
        assert {r.patient_id: r.label for r in rows}.items() <= labels.items()
        assert len(rows) == (PATIENTS - WITHOUT_RNA if name == "omics" else PATIENTS)


def number(text: str) -> float | None:
    return float(text) if text else None


def test_differences_are_those_of_the_same_patients(compared: Planted) -> None:
    reference = {row.patient_id: row for row in oof(compared, "momkd")}
    rows = table(compared)
    p_values = []
    for name in EVERYTHING[1:]:
        own = oof(compared, name)
        labels, scores = [row.label for row in own], [row.probability for row in own]
        paired = delong(labels, scores, [reference[row.patient_id].probability for row in own])
        assert paired is not None
        row = rows[name]
        found = [number(row[column]) for column in ("difference", "difference_low", "difference_high", "p_value")]
        wanted = [paired.difference, paired.low, paired.high, paired.p_value]
        assert [value is None for value in found] == [value is None for value in wanted]
        known = [(a, b) for a, b in zip(found, wanted, strict=True) if a is not None and b is not None]
        assert [a for a, _ in known] == pytest.approx([b for _, b in known], abs=1e-9)
        p_values.append(paired.p_value)
    corrected = [number(rows[name]["p_value_holm"]) for name in EVERYTHING[1:]]
    for found_p, wanted_p in zip(corrected, holm(p_values), strict=True):
        assert found_p == (None if wanted_p is None else pytest.approx(wanted_p))
    assert all(rows["momkd"][column] == "" for column in ("difference", "p_value", "p_value_holm"))


def test_the_page_and_the_figure_show_every_method(compared: Planted) -> None:
    folder = compared.workspace / "comparisons/er"
    page = (folder / "comparison.html").read_text()
    assert all(f"{method.title}" in page for method in map(METHODS.__getitem__, OF_TILES))
    assert "soft targets" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    with Image.open(folder / "comparison.png") as picture:
        assert min(picture.size) > 300
        assert np.ptp(np.asarray(picture.convert("L"))) > 100


def test_the_ceiling_is_the_teacher_fitted_by_hand(compared: Planted) -> None:
    expression = read_expression(compared.workspace / "genomics/expression.zarr")
    splits = read_splits(compared.model / "splits.csv")
    rows = {row.patient_id: row for row in oof(compared, "omics")}
    assert set(rows) == {patient.id for patient in compared.patients if patient.rna is not None}
    for fold in (0, 1):
        train, validation, test = (
            [p for p in splits.patients(fold, role) if p in expression] for role in ("train", "validation", "test")
        )
        teacher = RnaTeacher(12, seed=fold)
        teacher.fit(expression.rows(train), expression.genes, [splits.labels[p] for p in train])
        logits = teacher.predict(expression.rows(test), expression.genes)
        assert [rows[p].logit for p in test] == pytest.approx(logits.tolist())
        assert {rows[p].fold for p in test} == {fold}
        probabilities = expit(teacher.predict(expression.rows(validation), expression.genes))
        threshold = youden_threshold([splits.labels[p] for p in validation], probabilities)
        assert threshold is not None
        positive = [np.mean([splits.labels[p] for p in splits.patients(f, "train")]) for f in (0, 1)]
        assert [rows[p].prevalence for p in test] == pytest.approx([np.mean(positive)] * len(test)), (
            "as of the slide models"
        )
        assert {rows[p].threshold for p in test} == {threshold_at(threshold, rows[test[0]].prevalence)}
    assert {row.slides for row in rows.values()} == {0}
    assert json.loads((folder_of(compared, "omics") / "metrics.json").read_text())["pooled"]["auc"]["value"] > 0.75


def test_the_ceiling_is_made_again_of_other_rna(mine: Planted) -> None:
    """The split is the same: who has RNA has not changed, only its values."""
    before, splits = oof(mine, "omics"), (mine.model / "splits.csv").read_bytes()
    write_rna(mine, make_patients(PATIENTS, without_rna=WITHOUT_RNA, seed=5))
    compare(mine, "--methods", "omics")
    assert (mine.model / "splits.csv").read_bytes() == splits
    now = oof(mine, "omics")
    assert [row.patient_id for row in now] == [row.patient_id for row in before]
    assert all(row.logit != old.logit for row, old in zip(now, before, strict=True))


def test_methods_by_name_and_names_that_are_none(mine: Planted) -> None:
    said = compare(mine, "--methods", "abmil+soft", "--methods", "abmil", "--methods", "abmil").output
    folds = len(folds_of(mine.model))
    first = (
        f"er: 3 methods on {folds} folds each, {3 * folds} fits but for those that are there: momkd, abmil+soft, abmil"
    )
    assert first in " ".join(said.split())
    assert list(table(mine)) == ["momkd", "abmil+soft", "abmil"]
    for wrong in ("abmli", "abmil+hard", "omics+soft", "momkd-no-rna-soft"):
        refused = compare(mine, "--methods", wrong, code=2)
        assert repr(wrong) in refused.output
        assert all(name in refused.output.replace("\n", " ") for name in EVERYTHING)
    assert list(table(mine)) == ["momkd", "abmil+soft", "abmil"]


def test_folds_of_an_earlier_split_cost_no_time(mine: Planted) -> None:
    trained = Manifest.of(mine.model).latest("train")
    Manifest.of(mine.model).append(structs.replace(trained["fold-1"], item="fold-2", seconds=1e6))
    (mine.workspace / "comparisons/er/comparison.csv").unlink()
    compare(mine, "--methods", "mean")
    assert number(table(mine)["momkd"]["seconds"]) == sum(trained[fold].seconds for fold in ("fold-0", "fold-1"))


@pytest.fixture(scope="module")
def without_rna(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    patients = [replace(patient, rna=None) for patient in make_patients(24)]
    return plant(tmp_path_factory.mktemp("without"), patients, epochs=1)


def test_without_rna_what_needs_it_is_left_out_or_refused(without_rna: Planted) -> None:
    compare(without_rna)
    assert list(table(without_rna)) == [*OF_TILES, "momkd-fixed-memory"]
    for name in ("abmil+soft", "omics", "momkd-shuffled-rna"):
        refused = compare(without_rna, "--methods", name, code=2)
        assert f"{name} needs RNA" in refused.output
        assert "wsipipe genomics" in refused.output


def too_little_rna(planted: Planted) -> None:
    """The teacher of soft targets has too few positive patients; all else can be trained."""
    everyone = planted.patients
    splits = make_splits({p.id: int(p.label == "positive") for p in everyone}, 2, 0, 0.4)
    one_a_fold = [next(p for p in splits.patients(fold, "train") if splits.labels[p]) for fold in (0, 1)]
    few = [p if p.label == "negative" or p.id in one_a_fold else replace(p, rna=None) for p in everyone]
    write_rna(planted, few)


def poisoned(planted: Planted) -> None:
    """Where one method keeps its unfinished work, a file is in the way."""
    place = folder_of(planted, "abmil+soft")
    place.mkdir(parents=True)
    (place / "partial").write_text("in the way")


@pytest.mark.parametrize("fault", [too_little_rna, poisoned], ids=lambda fault: fault.__name__)
def test_a_method_that_fails_leaves_the_others_tabled(fault: Callable[[Planted], None], mine: Planted) -> None:
    planted = mine
    shutil.rmtree(planted.workspace / "comparisons")
    shutil.rmtree(planted.model)
    fault(planted)
    words = ["--methods", "abmil+soft", "--methods", "mean", "--methods", "abmil"]
    result = compare(planted, *words, code=1)
    assert "failed in train: abmil+soft fold-0" in result.output
    assert list(table(planted)) == ["momkd", "mean", "abmil"]
    assert "abmil+soft" not in (planted.workspace / "comparisons/er/comparison.html").read_text()


def test_a_result_of_before_does_not_stand_for_a_method_that_fails_now(mine: Planted) -> None:
    """The features have changed; what ABMIL reached with the old ones must not stand beside MoMKD with the new."""
    changed = make_patients(PATIENTS, without_rna=WITHOUT_RNA, seed=5)
    for patient in changed:
        assert patient.slides.keys() == next(p for p in mine.patients if p.id == patient.id).slides.keys()
    plant(mine.folder, changed, epochs=1)
    (folder_of(mine, "abmil") / "partial").write_text("in the way")
    old = oof(mine, "abmil")
    compare(mine, "--methods", "abmil", "--methods", "mean", code=1)
    assert oof(mine, "abmil") == old
    assert list(table(mine)) == ["momkd", "mean"]


def test_a_model_of_another_method_is_taken_as_it_is(mine: Planted) -> None:
    """What `wsipipe train` made is compared, whichever method it is; MoMKD then lies with the comparison."""
    shutil.rmtree(mine.workspace / "comparisons")
    shutil.rmtree(mine.model)
    with_abmil = ["-c", mine.settings, "--method", "abmil"]
    assert wsipipe("train", *with_abmil).exit_code == 0
    before = state(mine.model)
    compare(mine, "--methods", "abmil")
    assert state(mine.model) == before
    assert list(table(mine)) == ["momkd", "abmil"]
    assert not (mine.workspace / "comparisons/er/abmil").exists()
    assert read_facts(mine.workspace / "comparisons/er/momkd/fold-0").method == "momkd"
    assert Manifest.of(mine.workspace / "comparisons/er/momkd").latest("train").keys() == {"fold-0", "fold-1"}


def test_a_model_of_other_features_is_left_alone(without_rna: Planted, tmp_path: Path) -> None:
    """Comparing on another backbone's features must not make the trained model one of those."""
    mine = replace(without_rna, folder=Path(shutil.copytree(without_rna.folder, tmp_path / "planted")))
    shutil.rmtree(mine.workspace / "comparisons", ignore_errors=True)  # another test's, of these features
    assert wsipipe("train", "-c", mine.settings, "--method", "mean").exit_code == 0
    before = state(mine.model)
    ours = mine.workspace / FEATURES
    other = Path(shutil.copytree(ours, ours.with_name("other")))
    manifest = (other / "manifest.jsonl").read_text()
    (other / "manifest.jsonl").write_text(manifest.replace(f"{FEATURES.name}/", "other/"))
    for n, record in enumerate(Manifest.of(other).latest("extract").values()):
        output = structs.replace(record.outputs["features"], digest=f"sha256:{n:064x}")
        Manifest.of(other).append(structs.replace(record, outputs={"features": output}))
    compare(mine, "--features", f"{other.parent.name}/other", "--methods", "mean")
    assert state(mine.model) == before


def test_a_second_comparison_leaves_the_unfinished_bundles_of_the_first_alone(tmp_path: Path) -> None:
    planted = plant(tmp_path, make_patients(12, without_rna=12), epochs=1)
    folder = folder_of(planted, "momkd-no-rna").with_name("momkd")
    with Manifest.of(folder).lock():  # as the first comparison holds it while it trains
        half = folder / ".partial-fold-0/model.safetensors"
        half.parent.mkdir()
        half.write_text("half")
        result = compare(planted, code=2)
        assert "another run is writing here" in result.stderr
        assert half.read_text() == "half"
    assert (planted.workspace / "comparisons/er/splits.csv").is_file()
