"""A signature of the cohort's own RNA as the target, from the split to a model, its evaluation and its predictions."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import wsipipe
from msgspec import structs
from planted_workspace import GENES, TELLING, Patient, Planted, write_rna
from task_workspace import Asked, plant_task
from trained_workspace import bundle_files
from wsipipe.data.artifact import digest_of, size_of
from wsipipe.data.cohort.splits import Splits, read_splits
from wsipipe.data.errors import UsageError
from wsipipe.data.manifest import Manifest
from wsipipe.data.molecular.signature_target import NO_RNA, Signature, singscore
from wsipipe.data.molecular.store import read_expression
from wsipipe.models.bundle import read_facts
from wsipipe.pipeline.config import load_config
from wsipipe.stages.stage import Plan
from wsipipe.stages.train.settings import QuestionSettings
from wsipipe.stages.train.signature_labels import FoldTargets
from wsipipe.stages.train.split import read_patients
from wsipipe.stages.train.stage import TrainStage

SETS = "TELLING\t-\tGENE00\tGENE01\tGENE02\tGENE03\tABSENT\nSPARSE\t-\tGENE00\tNO1\tNO2\n"
WITHOUT_RNA = 3


def cohort(folder: Path, question: str, number: int = 30, seed: int = 4, first: int = 0) -> Planted:
    """Patients whose slides and genes follow one number; the last few have no RNA."""
    values = np.random.default_rng(seed).uniform(0, 4, number)
    asked = [Asked({"site": "one"}, float(value)) for value in values]
    planted = plant_task(folder, asked, 'gene_sets = "sets.gmt"\n' + question, epochs=4, seed=seed, first=first)
    (folder / "sets.gmt").write_text(SETS)
    write_rna(planted, planted.patients[:-WITHOUT_RNA])
    return planted


WORDS: Mapping[str, tuple[str, ...]] = {
    "singscore": ("--method", "mean"),
    "mean-z": ("--method", "mean", "--signature-score", "mean-z"),
    "median": ("--task", "binary", "--cut", "median", "--soft-targets", "--epochs", "2"),
}
"""Scores → what trains a model of them; the last by MoMKD with RNA as the teacher."""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return cohort(tmp_path_factory.mktemp("signature"), 'signature = "TELLING"')


@pytest.fixture(scope="module")
def models(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Planted, str]]:
    """A workspace with a model for each score, and what its training said."""
    made = {}
    for score, words in WORDS.items():
        copy = planted.copied(tmp_path_factory.mktemp(score) / "project")
        made[score] = copy, trained(copy, *words)
    return made


def trained(planted: Planted, *words: str) -> str:
    done = wsipipe("train", "-c", planted.settings, "--replace", "--name", "er", *words)
    assert done.exit_code == 0, done.output
    return str(done.output)


class FirstFold(TrainStage):
    """Trains fold 0 alone."""

    def plan(self) -> Plan:
        plan = super().plan()
        return replace(plan, items=plan.items[:1])


def first_fold(planted: Planted, score: str) -> dict[str, bytes]:
    """The bytes of fold 0, trained on the split and the targets that are there."""
    binary = {"soft_targets": True, "epochs": 1} if score == "median" else {"method": "mean"}
    asked = planted.config().question("er")
    if score == "median":
        asked = QuestionSettings(signature="TELLING", task="binary", cut="median")  # type: ignore[call-arg]
    stage = planted.trainer(planted.workspace / "leakage", kind=FirstFold, **binary)
    stage.biomarker = asked
    summary = planted.runner().run(stage)
    assert (summary.done, summary.failures) == (1, ()), summary
    return bundle_files(stage.folder / "fold-0")


def judged_by_label(planted: Planted) -> dict[str, dict[str, str]]:
    with (planted.model / "oof_predictions.csv").open(newline="") as stream:
        return {row["patient_id"]: row for row in csv.DictReader(stream)}


def table(planted: Planted):
    return read_expression(planted.workspace / "genomics/expression.zarr")


def targets(planted: Planted, classes: int = 0) -> FoldTargets:
    return FoldTargets.read(planted.model, classes)


def splits(planted: Planted, classes: int = 0) -> Splits:
    return read_splits(planted.model / "splits.csv", classes)


def test_a_set_becomes_the_target_in_one_command(models: dict[str, tuple[Planted, str]]) -> None:
    planted, said = models["singscore"]
    wanted = ("singscore of 4 of 5 genes", "TELLING that the matrix does not have: ABSENT", f"dropped, {NO_RNA}: 3")
    for words in wanted:
        assert words in said
    rna = table(planted)
    of_set = np.array([gene in ("GENE00", "GENE01", "GENE02", "GENE03") for gene in rna.genes])
    by_hand = dict(zip(rna.patients, singscore(rna.matrix, of_set).tolist(), strict=True))
    assert {p: float(row["label"]) for p, row in judged_by_label(planted).items()} == by_hand
    metrics = json.loads((planted.model / "metrics.json").read_text())["pooled"]
    assert metrics["figures"]["Spearman's ρ"]["value"] > 0.3
    facts = read_facts(planted.model / "fold-1")
    assert facts.signature is not None
    assert (facts.signature.score, facts.signature.absent) == ("singscore", ("ABSENT",))
    page = (planted.model / "report.html").read_text()
    assert "score from RNA (singscore of 4 of 5 genes: their mean rank" in page
    dropped = {row.patient_id: row.reason for row in read_patients(planted.model / "patients.csv", 0) if not row.used}
    assert dropped == dict.fromkeys((p.id for p in planted.patients[-WITHOUT_RNA:]), NO_RNA)


def test_mean_z_is_by_each_folds_training_patients(models: dict[str, tuple[Planted, str]]) -> None:
    planted, _ = models["mean-z"]
    rna, roles, of = table(planted), splits(planted), targets(planted)
    own = [rna.genes.index(f"GENE{n:02d}") for n in range(TELLING)]
    for fold in range(roles.folds):
        train = rna.rows(roles.patients(fold, "train"))[:, own].astype(np.float64)
        z = (rna.rows(list(roles.labels))[:, own] - train.mean(axis=0)) / train.std(axis=0)
        assert [labels[fold] for labels in of.of.values()] == pytest.approx(z.mean(axis=1).tolist())
        facts = read_facts(planted.model / f"fold-{fold}")
        assert facts.signature == of.signatures[fold]
        assert facts.task_state["centre"] == pytest.approx(0, abs=1e-6)
    # What a patient is judged by is the target of the fold that tests them.
    for patient, row in judged_by_label(planted).items():
        assert float(row["label"]) == of.of[patient][int(row["fold"])] == roles.labels[patient]
    assert of.of[next(iter(of.of))][0] != of.of[next(iter(of.of))][1]


@pytest.mark.parametrize("score", ["singscore", "mean-z", "median"])
def test_no_byte_of_a_fold_knows_the_rna_of_its_test_patients(
    models: dict[str, tuple[Planted, str]], tmp_path: Path, score: str
) -> None:
    """Neither its model nor anybody else's target; the roles stay, as the same change might deal others."""
    before = models[score][0]
    classes = 2 if score == "median" else 0
    roles, first = splits(before, classes), targets(before, classes)
    tested, train = roles.patients(0, "test"), roles.patients(0, "train")
    after = before.copied(tmp_path / "after")

    def other(one: Patient, chosen: Collection[str]) -> Patient:
        return replace(one, rna=one.rna[::-1].copy()) if one.id in chosen and one.rna is not None else one

    with_rna = before.patients[:-WITHOUT_RNA]
    write_rna(after, [other(one, tested) for one in with_rna])
    unfitted = first.signatures[0].model_copy(update={"mean": (), "scale": ()})
    again = unfitted.fitted(table(after), train)
    assert again == first.signatures[0] == read_facts(before.model / "fold-0").signature
    labels = again.labels(table(after), list(roles.labels))
    assert {p for p in labels if labels[p] != first.of[p][0]} <= {*tested}
    if score == "median":  # the labels are classes, and these need not change
        assert again.scores(table(after), tested) != again.scores(table(before), tested)
    else:
        assert {p for p in labels if labels[p] != first.of[p][0]} == {*tested}
    # A fold that is trained on this RNA, its targets and the same roles has the same bytes.
    FoldTargets(first.signatures, {p: (labels[p], *own[1:]) for p, own in first.of.items()}).write(after.model)  # type: ignore[dict-item]
    manifest = Manifest.of(after.model)
    split, path = manifest.latest("split")["splits"], after.model / "targets.csv"
    now = structs.replace(split.outputs["targets"], bytes=size_of(path), digest=digest_of(path))
    rna = Manifest.of(after.workspace / "genomics").latest("genomics")["expression"].outputs["expression"]
    expression = structs.replace(split.inputs["expression"], digest=rna.digest)
    outputs, inputs = {**split.outputs, "targets": now}, {**split.inputs, "expression": expression}
    manifest.append(structs.replace(split, outputs=outputs, inputs=inputs))
    assert first_fold(after, score) == first_fold(before, score)
    # The same changes to a training patient do show.
    if score != "singscore":
        write_rna(after, [other(one, train[:1]) for one in with_rna])
        assert unfitted.fitted(table(after), train) != again


def test_two_classes_by_a_cut_with_rna_as_the_teacher(models: dict[str, tuple[Planted, str]], tmp_path: Path) -> None:
    planted, said = models["median"]
    assert "high at or above the median of each fold" in said
    of, roles = targets(planted, 2), splits(planted, 2)
    for fold, signature in enumerate(of.signatures):
        scores = signature.scores(table(planted), list(roles.labels))
        train = [score for p in roles.patients(fold, "train") if isinstance(score := scores[p], float)]
        assert signature.cut_at == pytest.approx(np.median(train))
        high = {p: int(isinstance(score, float) and score >= float(np.median(train))) for p, score in scores.items()}
        assert {p: labels[fold] for p, labels in of.of.items()} == high
    facts = read_facts(planted.model / "fold-0")
    assert (facts.question.positive, facts.question.negative, facts.question.cut) == (["high"], ["low"], "median")
    copy = planted.copied(tmp_path / "compared")
    words = ("--task", "binary", "--cut", "median", "--name", "er", "--epochs", "1", "--methods", "mean,omics")
    compared = wsipipe("compare", "-c", copy.settings, *words)
    assert compared.exit_code == 0, compared.output
    with (copy.workspace / "comparisons/er/comparison.csv").open(newline="") as stream:
        rows = {row["method"]: row for row in csv.DictReader(stream)}
    assert float(rows["omics"]["auc"]) > 0.7  # the target is made of this RNA
    assert "high by construction" in rows["omics"]["note"]


def test_a_changed_matrix_makes_everything_anew_and_the_same_one_nothing(
    models: dict[str, tuple[Planted, str]], tmp_path: Path
) -> None:
    copy = models["singscore"][0].copied(tmp_path / "again")
    before = (copy.model / "fold-0/bundle.json").stat().st_mtime_ns
    trained(copy, *WORDS["singscore"])
    assert (copy.model / "fold-0/bundle.json").stat().st_mtime_ns == before
    turned = [replace(p, rna=p.rna[::-1].copy()) for p in copy.patients[:-WITHOUT_RNA] if p.rna is not None]
    write_rna(copy, turned)
    trained(copy, *WORDS["singscore"])
    assert (copy.model / "fold-0/bundle.json").stat().st_mtime_ns != before


@pytest.mark.parametrize("score", ["mean-z", "median"])
def test_another_cohort_is_judged_by_its_own_rna(
    models: dict[str, tuple[Planted, str]], tmp_path: Path, score: str
) -> None:
    copy = models[score][0]
    other = cohort(tmp_path / "there", 'signature = "TELLING"', 14, seed=9, first=500)
    given = ("--model", copy.model, "--table", other.folder / "cohort.csv", "-w", other.workspace, "--device", "cpu")
    judged = wsipipe("evaluate", *given)
    assert judged.exit_code == 0, judged.output
    assert f"dropped, {NO_RNA}: {WITHOUT_RNA}" in judged.output
    with (other.workspace / "evaluations/er/predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 14 - WITHOUT_RNA
    folds = [own for fold in (0, 1) if (own := read_facts(copy.model / f"fold-{fold}").signature) is not None]
    for row in rows:
        scores = [own.scores(table(other), [row["patient_id"]])[row["patient_id"]] for own in folds]
        numbers = [float(one) for one in scores]
        if score == "median":
            above = [number - float(own.cut_at or 0) for number, own in zip(numbers, folds, strict=True)]
            assert int(row["label"]) == int(np.mean(above) >= 0)
        else:
            assert float(row["label"]) == pytest.approx(np.mean(numbers))
    labelled = wsipipe("evaluate", *given, "--replace", "--label-column", "site")
    assert labelled.exit_code == 2
    assert "scored from this cohort's RNA" in " ".join(labelled.output.split())


def test_without_rna_another_cohort_can_only_be_predicted(
    models: dict[str, tuple[Planted, str]], tmp_path: Path
) -> None:
    none = plant_task(tmp_path / "none", [Asked({"x": "1"}, 1.0)] * 4, 'label_column = "x"', first=900, rna=False)
    model = models["singscore"][0].model
    given = ("--model", model, "--table", none.folder / "cohort.csv", "-w", none.workspace, "--device", "cpu")
    without = wsipipe("evaluate", *given)
    assert without.exit_code == 1
    said = " ".join(without.output.split())
    assert "scored from RNA, and this workspace has none" in said
    assert "wsipipe predict needs no RNA" in said


def test_one_gene_by_flags_alone(planted: Planted, tmp_path: Path) -> None:
    copy = planted.copied(tmp_path / "gene")
    words = ("--signature", "gene:GENE02", "--table", copy.folder / "cohort.csv", "--method", "mean", "--folds", "2")
    done = wsipipe("train", "-w", copy.workspace, *words, "--device", "cpu")
    assert done.exit_code == 0, done.output
    model = copy.workspace / "models/gene-gene02"
    rna = table(copy)
    column = rna.matrix[:, rna.genes.index("GENE02")].astype(np.float64)
    roles = read_splits(model / "splits.csv", 0)
    assert roles.labels == dict(zip(rna.patients, column.tolist(), strict=True))


BAD: Mapping[str, tuple[list[str], str]] = {
    "no such set": (["--signature", "NONE"], "no gene set is called NONE"),
    "too few genes": (["--signature", "SPARSE"], "1 of its 3 genes are in the matrix; absent: NO1, NO2"),
    "recurrence score": (["--signature", "recurrence-score"], "absent: GRB7"),
    "no such gene": (["--signature", "gene:MKI67"], "the matrix has no gene MKI67"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_scored_is_refused_with_the_reason(planted: Planted, case: str) -> None:
    words, why = BAD[case]
    settings = ["--table", planted.folder / "cohort.csv", "--gene-sets", planted.folder / "sets.gmt"]
    refused = wsipipe("train", "-w", planted.workspace, *settings, "--name", "bad", "--method", "mean", *words)
    assert refused.exit_code == 1, refused.output
    assert why in " ".join(refused.output.split())


@pytest.mark.parametrize(
    ("genomics", "signature", "why"),
    [
        ("", "gene:A", "scored from RNA, and no matrix is given"),
        ('matrix = "rna.csv"', "S", "no gene sets are given"),
        ('matrix = "rna.csv"\ngene_sets = "sets.gmt"', "S", "no gene set is called S"),
        ('matrix = "rna.csv"\ngene_sets = "none.gmt"', "S", "none.gmt"),
    ],
)
def test_a_run_refuses_before_it_reads_a_slide(tmp_path: Path, genomics: str, signature: str, why: str) -> None:
    (tmp_path / "sets.gmt").write_text(SETS)
    settings = tmp_path / "wsipipe.toml"
    settings.write_text(f'[genomics]\n{genomics}\n[biomarkers.er]\nsignature = "{signature}"\n')
    refused = wsipipe("run", "-c", settings)
    assert refused.exit_code in (1, 2)
    assert why in " ".join(refused.output.split())


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"signature": "S", "label_column": "er"}, "not both"),
        ({"signature": "S", "task": "ordinal", "classes": ["a", "b"]}, "a signature is a number"),
        ({"signature": "S", "task": "binary"}, "needs a cut"),
        ({"signature": "S", "cut": "median"}, "cut is for task binary"),
        ({"signature": "S", "task": "binary", "cut": "upper third"}, "a cut is median or a number"),
        ({"label_column": "er", "cut": "median"}, "cut belongs to a signature"),
        ({"label_column": "er", "signature_score": "mean-z"}, "signature_score belongs to a signature"),
    ],
)
def test_settings_that_do_not_fit_are_refused(given: dict[str, object], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        load_config(None, {"biomarkers": {"er": given}})


def test_a_cut_may_be_a_number_and_the_target_names_itself() -> None:
    [asked] = load_config(
        None, {"biomarkers": {"er": {"signature": "S", "task": "binary", "cut": 0.25}}}
    ).biomarkers.values()
    assert (asked.cut, asked.label_column, asked.positive) == ("0.25", "S", ["high"])
    [asked] = load_config(None, {"biomarkers": {"er": {"signature": "S"}}}).biomarkers.values()
    assert asked.task == "regression"


def test_a_bundle_with_a_broken_signature_is_refused() -> None:
    whole = Signature(name="S", score="mean-z", unit="u", genes=("A", "B"), mean=(1.0, 2.0), scale=(1.0, 1.0))
    for changed in ({"mean": (1.0,)}, {"genes": ("B", "A")}, {"genes": ()}, {"scale": (float("nan"), 1.0)}):
        with pytest.raises(ValueError, match=r"genes|finite"):
            Signature.model_validate(whole.model_dump() | changed)


def test_there_are_as_many_genes_as_the_tests_think() -> None:
    assert (GENES, TELLING) == (24, 4)
