"""Stage ``omics``: the label predicted from RNA alone, on the same folds, as an upper limit of what RNA can contribute.

The RNA teacher that makes soft targets (:mod:`wsipipe.models.training.rna_teacher`) is fitted on each fold's training
patients and predicts those test patients that have RNA. It uses no slides, and makes no model for ``predict``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from ...data.manifest import Manifest
from ...models.tasks.binary import BINARY, class_of
from ...models.tasks.prediction import PatientPrediction
from ...models.training.rna_teacher import RnaTeacher, measured
from ..registry import VERSIONS
from ..stage import Input, Item, Outcome, OutputInput, Plan, Progress, Stage, ValueInput
from ..train.cross_validate import CrossValidateSettings, write_evaluation
from ..train.molecular_data import MolecularData, molecular_inputs
from ..train.settings import TrainSettings
from ..train.split import SplitOutput, split_output


class OmicsCeilingStage(Stage[TrainSettings]):
    """One item, ``cross-validation``; of the settings only those of genes and the seed are used.

    :param splits: folder of the split.
    :param stores: stores of RNA and further molecular blocks.
    :param prevalence: the one that probabilities are shown at; default: the training patients'.
    """

    name = "omics"
    version = VERSIONS["omics"]
    items = "models"

    def __init__(
        self,
        settings: TrainSettings,
        folder: Path,
        workspace: Path,
        *,
        splits: Path,
        stores: Sequence[Path],
        prevalence: float | None = None,
    ) -> None:
        super().__init__(settings, folder, workspace)
        self.splits, self.stores, self.prevalence = splits, stores, prevalence

    def plan(self) -> Plan:
        split = split_output(Manifest.of(self.splits), self.workspace)
        inputs: dict[str, Input] = {
            "splits": OutputInput(split.record),
            **split.inputs,
            **molecular_inputs(self.stores, self.settings.gene_list, self.workspace),
        }
        if self.prevalence is not None:
            inputs["prevalence"] = ValueInput(self.prevalence)
        return Plan([Item("cross-validation", inputs, split)])

    def process(self, item: Item, progress: Progress) -> Outcome:
        split: SplitOutput = item.payload
        molecular = MolecularData.read(self.stores, self.settings.gene_list)
        assert molecular is not None  # the stage is made with stores
        prevalence = _training_prevalence(split) if self.prevalence is None else self.prevalence
        folds = range(split.splits.folds)
        rows = [row for fold in folds for row in self._fold(split, fold, molecular, prevalence)]
        return write_evaluation(self.folder, rows, CrossValidateSettings(), BINARY)

    def _fold(
        self, split: SplitOutput, fold: int, molecular: MolecularData, prevalence: float
    ) -> list[PatientPrediction]:
        table, settings, splits = molecular.table, self.settings, split.splits
        train, validation, test = (measured(table, splits.patients(fold, r)) for r in ("train", "validation", "test"))
        selection = molecular.selection(settings)
        teacher = RnaTeacher(settings.genes, selection, molecular.gene_list, seed=settings.seed + fold)
        teacher.fit(table.rows(train), table.genes, [class_of(split.label(p, fold)) for p in train])

        def logits(patients: Sequence[str]) -> list[float]:
            return teacher.predict(table.rows(patients), table.genes).tolist() if patients else []

        threshold, _ = BINARY.threshold([split.label(p, fold) for p in validation], logits(validation))
        thresholds, rows = {fold: threshold}, []
        for patient, logit in zip(test, logits(test), strict=True):
            row = PatientPrediction.of(
                patient,
                [{fold: logit}],
                thresholds,
                BINARY,
                prevalence=prevalence,
                label=split.label(patient, fold),
            )
            rows.append(replace(row, slides=0))
        return rows


def _training_prevalence(split: SplitOutput) -> float:
    """The mean over the folds of the share of positives: that of the slide models, with or without RNA."""
    labels = [[label for label, _ in split.part(fold, "train").values()] for fold in range(split.splits.folds)]
    return fmean(BINARY.prevalence(of_fold) for of_fold in labels)
