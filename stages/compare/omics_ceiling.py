"""omics: what RNA itself says of the patients, by the same folds: the ceiling of what it can teach.

The same teacher that makes soft targets (:mod:`wsipipe.models.training.rna_teacher`), fitted on each fold's training
patients and asked about its test patients that have RNA. It reads no slide, and gives no model to predict with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...data.cohort.splits import Splits
from ...data.manifest import Manifest
from ...models.evaluation.prediction import PatientPrediction
from ...models.training.rna_teacher import RnaTeacher, measured
from ..stage import Input, Item, Outcome, OutputInput, Plan, Progress, Stage
from ..train.cross_validate import CrossValidateSettings, write_evaluation
from ..train.fold import fold_threshold
from ..train.settings import TrainSettings
from ..train.split import split_output
from ..train.teaching import Teaching, molecular_inputs
from ..versions import VERSIONS


class OmicsCeilingStage(Stage[TrainSettings]):
    """One item, ``cross-validation``; only the settings of genes and the seed count.

    :param splits: folder of the split.
    :param stores: of RNA and further blocks.
    """

    name = "omics"
    version = VERSIONS["omics"]
    items = "models"

    def __init__(
        self, settings: TrainSettings, folder: Path, workspace: Path, *, splits: Path, stores: Sequence[Path]
    ) -> None:
        super().__init__(settings, folder, workspace)
        self.splits, self.stores = splits, stores

    def plan(self) -> Plan:
        split = split_output(Manifest.of(self.splits), self.workspace)
        inputs: dict[str, Input] = {
            "splits": OutputInput(split.record),
            **molecular_inputs(self.stores, self.settings.gene_list),
        }
        return Plan([Item("cross-validation", inputs, split.splits)])

    def process(self, item: Item, progress: Progress) -> Outcome:
        splits: Splits = item.payload
        teaching = Teaching.read(self.stores, self.settings.gene_list)
        assert teaching is not None  # the stage is made with stores
        rows = [row for fold in range(splits.folds) for row in self._fold(splits, fold, teaching)]
        return write_evaluation(self.folder, rows, CrossValidateSettings())

    def _fold(self, splits: Splits, fold: int, teaching: Teaching) -> list[PatientPrediction]:
        table, settings = teaching.table, self.settings
        train, validation, test = (measured(table, splits.patients(fold, r)) for r in ("train", "validation", "test"))
        selection = teaching.selection(settings)
        teacher = RnaTeacher(settings.genes, selection, teaching.gene_list, seed=settings.seed + fold)
        teacher.fit(table.rows(train), table.genes, [splits.labels[p] for p in train])

        def logits(patients: Sequence[str]) -> list[float]:
            return teacher.predict(table.rows(patients), table.genes).tolist() if patients else []

        threshold, _ = fold_threshold([splits.labels[p] for p in validation], logits(validation))
        return [
            replace(PatientPrediction.of(p, [{fold: logit}], {fold: threshold}, label=splits.labels[p]), slides=0)
            for p, logit in zip(test, logits(test), strict=True)
        ]
