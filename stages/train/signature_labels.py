"""Labels of a signature: scores from the cohort's RNA, with the statistics of each fold's training patients.

targets.csv       the label of every patient in every fold
signatures.json   the signature of every fold: its genes and what it has taken from its training patients

A score that needs no statistics is the same in all folds. The folds themselves are stratified by scores with the
statistics of all patients that are used, as they are by the labels of all of them in other questions.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Self

from pydantic import ValidationError

from ...data.artifact import whole
from ...data.cohort.labels import PatientLabels
from ...data.cohort.outcomes import Label, label_of
from ...data.cohort.splits import Splits
from ...data.errors import CohortError, StoreError
from ...data.files.own_tables import read_own_rows
from ...data.files.safe_cells import SafeWriter
from ...data.json_text import fault, read_json
from ...data.manifest import OutputRecord
from ...data.matrices.expression_units import STORED_AS
from ...data.molecular.gene_sets import read_gmt
from ...data.molecular.signature_target import Signature
from ...data.molecular.store import ExpressionTable, read_expression
from ...data.wording import some
from ..lineage import Lineage
from .molecular_data import record_of
from .settings import BiomarkerSettings

TARGETS, SIGNATURES = "targets.csv", "signatures.json"


@dataclass(frozen=True)
class CohortSignature:
    """A signature and the expression that its scores are made of.

    :param record: the record of the expression store.
    """

    signature: Signature
    table: ExpressionTable
    record: OutputRecord

    @classmethod
    def read(cls, question: BiomarkerSettings, store: Path, gene_sets: Path | None, workspace: Path) -> Self:
        """Read the expression, and find the signature's genes in it.

        :param store: the expression store.
        :param gene_sets: the .gmt file with its genes.
        :raises CohortError: there is no expression, or it is out of date.
        :raises ExpressionError: the signature cannot be scored.
        """
        table, record = expression_of(question.signature, store, workspace)
        sets = read_gmt(gene_sets) if gene_sets is not None else None
        score = question.signature_score
        return cls(Signature.of(question.signature, table, sets, score=score, cut=question.cut), table, record)

    def labels(self, patients: Collection[str]) -> dict[str, Label | str]:
        """Label patients with the statistics of all of them, for stratification; or say why there is none."""
        return self.signature.fitted(self.table, patients).labels(self.table, patients)

    def stratified(self, labels: PatientLabels) -> PatientLabels:
        """The labels with the statistics of the patients that are used, in place of all of the table."""
        own = self.labels(labels.labels)
        return replace(labels, labels={p: labels.labels[p] if isinstance(y, str) else y for p, y in own.items()})

    def by_fold(self, splits: Splits) -> FoldTargets:
        """Fit the signature on the training patients of each fold, and score everybody by each.

        :raises CohortError: a patient has no score in one of the folds.
        """
        signatures: list[Signature] = []
        columns: list[dict[str, Label | str]] = []
        for fold in range(splits.folds):
            fitted = self.signature.fitted(self.table, splits.patients(fold, "train"))
            labels = fitted.labels(self.table, list(splits.labels))
            lost = [patient for patient, label in labels.items() if isinstance(label, str)]
            if lost:
                what = f"fold {fold}: {len(lost)} patients lack the genes that vary among its training patients"
                raise CohortError(f"{what}: {some(lost)}", path=self.table.source, hint="use fewer folds")
            signatures.append(fitted)
            columns.append(labels)
        of = {patient: tuple(own[patient] for own in columns) for patient in splits.labels}
        return FoldTargets(tuple(signatures), of)  # type: ignore[arg-type]  # none is a reason, as checked above

    def notes(self) -> list[str]:
        """What the target is, which genes were not found, and what its values cannot show."""
        signature = self.signature
        notes = [f"target: {signature.name}, {signature.words}"]
        if signature.absent:
            notes.append(f"genes of {signature.name} that the matrix does not have: {some(signature.absent, 12)}")
        if signature.unit == STORED_AS["zscore"]:
            notes.append(
                "warning: the matrix holds z-scores: somebody standardised every gene over the whole cohort, patients "
                "of the tests included, and no fold can undo that"
            )
        return notes


@dataclass(frozen=True)
class FoldTargets:
    """The signature of each fold, and every patient's label in each."""

    signatures: tuple[Signature, ...]
    of: Mapping[str, tuple[Label, ...]]

    def when_tested(self, splits: Splits) -> Splits:
        """The splits with every patient's label in the fold that tests them."""
        labels = {patient: self.of[patient][splits.test_fold(patient)] for patient in splits.labels}
        return Splits(labels, splits.roles)

    def write(self, folder: Path) -> dict[str, Path]:
        """Write both files; returns their paths by name."""
        folds = len(self.signatures)
        with whole(folder / TARGETS) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
            writer = SafeWriter(stream)
            writer.writerow(["patient_id", *(f"fold_{fold}" for fold in range(folds))])
            writer.writerows([patient, *labels] for patient, labels in self.of.items())
        content = [signature.model_dump(mode="json") for signature in self.signatures]
        with whole(folder / SIGNATURES) as scratch:
            scratch.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        return {"targets": folder / TARGETS, "signatures": folder / SIGNATURES}

    @classmethod
    def read(cls, folder: Path, classes: int) -> Self:
        """Read what :meth:`write` wrote.

        :param classes: how many classes the labels have; 0 if they are numbers.
        :raises StoreError: it is damaged.
        """
        signatures = read_signatures(folder)
        columns = [f"fold_{fold}" for fold in range(len(signatures))]

        def labels(row: Mapping[str, str]) -> tuple[str, tuple[Label, ...]]:
            own = [label_of(row[column], classes) for column in columns]
            if None in own:
                raise ValueError(f"no label for each fold of {row['patient_id'][:40]!r}")
            return row["patient_id"], tuple(label for label in own if label is not None)

        return cls(signatures, dict(read_own_rows(folder / TARGETS, ["patient_id", *columns], labels)))


def read_signatures(folder: Path) -> tuple[Signature, ...]:
    """Read the signature of each fold of a split.

    :raises StoreError: they are damaged.
    """
    path, again = folder / SIGNATURES, "remove it, and run the same command again"
    content = read_json(path, StoreError, what="signatures of folds", hint=again)
    try:
        return tuple(Signature.model_validate(one) for one in content)
    except (TypeError, ValidationError) as error:
        why = fault(error) if isinstance(error, ValidationError) else "no list"
        raise StoreError(f"holds no signatures of folds: {why}", path=path, hint=again) from error


@dataclass(frozen=True)
class TargetsElsewhere:
    """Targets of another cohort's patients: its own RNA, scored with the statistics of each fold of a model.

    :param scores: fold → patient → score, or why there is none.
    """

    signatures: Mapping[int, Signature]
    scores: Mapping[int, Mapping[str, float | str]]
    record: OutputRecord

    @classmethod
    def of(cls, signatures: Mapping[int, Signature], store: Path, workspace: Path, patients: Sequence[str]) -> Self:
        """Score patients by the signatures of a model's folds.

        :raises CohortError: there is no expression, or it is out of date.
        :raises ExpressionError: this expression does not allow the same score.
        """
        name = next(iter(signatures.values())).name
        table, record = expression_of(name, store, workspace, "wsipipe predict needs no RNA")
        here = {fold: signature.found_in(table) for fold, signature in signatures.items()}
        return cls(here, {fold: own.scores(table, patients) for fold, own in here.items()}, record)

    def label(self, patient: str, folds: Collection[int]) -> Label | str:
        """The patient's label by these folds together: the mean score, or whether it lies above the cuts on average."""
        scores = {fold: self.scores[fold][patient] for fold in folds}
        numbers = {fold: score for fold, score in scores.items() if isinstance(score, float)}
        reasons = [score for score in scores.values() if isinstance(score, str)]
        if reasons:
            return reasons[0]
        cuts = {fold: self.signatures[fold].cut_at for fold in folds}
        above = [numbers[fold] - cut for fold, cut in cuts.items() if cut is not None]
        return int(fmean(above) >= 0) if above else fmean(numbers.values())

    def labels(self, patients: Sequence[str]) -> dict[str, Label | str]:
        """The labels by all folds together."""
        return {patient: self.label(patient, tuple(self.signatures)) for patient in patients}


def expression_of(name: str, store: Path, workspace: Path, otherwise: str = "") -> tuple[ExpressionTable, OutputRecord]:
    """Read the expression that a signature is scored from, with its record.

    :param otherwise: a further way out, for the hint.
    :raises CohortError: there is none, or it is out of date.
    """
    if not store.exists():
        what = f"{name} is scored from RNA, and this workspace has none"
        hint = "run wsipipe genomics MATRIX first" + (f"; {otherwise}" if otherwise else "")
        raise CohortError(what, path=store, hint=hint)
    record = record_of(store, "rna", Lineage(workspace))
    return read_expression(store), record
