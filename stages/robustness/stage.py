"""Stage ``robustness``: features of one backbone or several, asked for the label and for what they should not show.

robustness.csv      one row per features folder and column: AUC of the label, of the column, robustness index
robustness.html     the same as a page

Nothing is trained for use here, and no other stage reads what this one writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...data.artifact import whole
from ...data.cohort.covariates import Covariate, read_covariates
from ...data.cohort.slide_match import match_slides
from ...data.cohort.table import read_cohort
from ...data.errors import CohortError, UsageError
from ...data.features.store import read_bag
from ...data.files.safe_cells import SafeWriter
from ...data.manifest import OutputRecord
from ...models.evaluation.feature_robustness import Index, Probe, probe, robustness_index
from ...models.tasks.question import class_names
from ..registry import VERSIONS
from ..stage import FileInput, Input, Item, Outcome, OutputInput, Plan, Progress, Stage
from ..train.question_labels import question_labels
from ..train.settings import QuestionSettings
from ..train.usable_slides import features_of, slides_with_features
from .page import robustness_page
from .settings import WITH_CLASSES, RobustnessSettings

Floats = npt.NDArray[np.float64]


class RobustnessStageSettings(RobustnessSettings, QuestionSettings):
    """The report's settings together with the question."""


@dataclass(frozen=True)
class Answer:
    """What the features of one folder say."""

    features: str
    width: int
    label: Probe
    columns: Mapping[str, tuple[Probe, Index]]


@dataclass(frozen=True)
class _Cohort:
    """Patients whose slides have features in every folder."""

    slides: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, str]
    columns: Sequence[Covariate]
    stores: Mapping[str, Mapping[str, OutputRecord]]
    """Name of a features folder → slide → store."""


class RobustnessStage(Stage[RobustnessStageSettings]):
    """One item, ``robustness``.

    :param table: the cohort table.
    :param features: name → folder of the features, and the folder of the tiles that they are of.
    """

    name = "robustness"
    version = VERSIONS["robustness"]
    items = "reports"
    unit = "slides"

    def __init__(
        self,
        settings: RobustnessStageSettings,
        folder: Path,
        workspace: Path,
        *,
        table: Path,
        features: Mapping[str, tuple[Path, Path]],
    ) -> None:
        super().__init__(settings, folder, workspace)
        self.table, self.features = table, features

    def plan(self) -> Plan:
        if self.settings.task not in WITH_CLASSES:
            what = f"the report asks whether features tell classes apart, and this question is {self.settings.task}"
            raise UsageError(what, hint="name a biomarker with classes, such as --label-column er")
        table = read_cohort(self.table)
        columns, notes = read_covariates(table, self.settings.columns, self.settings.label_column)
        usable: set[str] = set()
        why: dict[str, str] = {}
        for number, (folder, tiles) in enumerate(self.features.values()):
            not_here, here = slides_with_features(tiles, folder, self.workspace)
            usable = usable & {*here} if number else {*here}
            why |= not_here
        why = {slide: reason for slide, reason in why.items() if slide not in usable}
        match = match_slides([*sorted(usable), *why], table)
        labels = question_labels(
            table, self.settings, match=match, unusable=why, keep_frozen=False, drop_conflicts=True, to_train=False
        )
        if not labels.labels:
            raise CohortError(
                "no patient has a label and a slide with features in all folders",
                path=self.table,
                hint=f"look at {self.settings.label_column} there, and with wsipipe status for slides without features",
            )
        names = class_names(self.settings.classes) or ("negative", "positive")
        used = [slide for slides in labels.slides.values() for slide in slides]
        stores = {name: features_of(used, folder, self.workspace) for name, (folder, _) in self.features.items()}
        cohort = _Cohort(
            labels.slides, {p: names[int(str(label))] for p, label in labels.labels.items()}, columns, stores
        )
        inputs: dict[str, Input] = {
            "table": FileInput(self.table.resolve()),
            **{
                f"{name} of {slide}": OutputInput(record)
                for name, own in stores.items()
                for slide, record in own.items()
            },
        }
        item = Item("robustness", inputs, cohort, size=len(used) * len(stores))
        return Plan([item], notes=[*table.notes, *match.notes(), *notes, *labels.notes()])

    def process(self, item: Item, progress: Progress) -> Outcome:
        cohort: _Cohort = item.payload
        answers = [self._answer(name, cohort, progress) for name in cohort.stores]
        rows = _rows(answers)
        outputs = {kind: self.folder / f"robustness.{kind}" for kind in ("csv", "html")}
        with whole(outputs["csv"]) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
            writer = SafeWriter(stream)
            writer.writerow(rows[0])
            writer.writerows([row[name] for name in rows[0]] for row in rows)
        with whole(outputs["html"]) as scratch:
            scratch.write_text(robustness_page(self.folder.name, self.settings, answers), encoding="utf-8")
        return Outcome(outputs, {"patients": len(cohort.slides), "features": len(answers)})

    def _answer(self, name: str, cohort: _Cohort, progress: Progress) -> Answer:
        settings = self.settings
        patients = list(cohort.slides)
        means = []
        for patient in patients:
            stores = [cohort.stores[name][slide] for slide in cohort.slides[patient]]
            bags = (read_bag(self.workspace / store.path) for store in stores)  # one in memory at a time
            means.append(np.mean([bag.features.astype(np.float64).mean(axis=0) for bag in bags], axis=0))
            progress.advance(len(stores))
        vectors: Floats = np.stack(means)
        drawn = {"rounds": settings.bootstrap_rounds, "seed": settings.seed}
        labels = [cohort.labels[patient] for patient in patients]
        columns = {}
        for column in cohort.columns:
            values = [column.values.get(patient, "") for patient in patients]
            index = robustness_index(vectors, labels, values, neighbours=settings.neighbours, **drawn)
            columns[column.name] = probe(vectors, values, **drawn), index
        return Answer(name, vectors.shape[1], probe(vectors, labels, **drawn), columns)


def _rows(answers: Sequence[Answer]) -> list[dict[str, str | int | float | None]]:
    """One row per features folder and column."""
    rows: list[dict[str, str | int | float | None]] = []
    for answer in answers:
        for column, (found, index) in answer.columns.items():
            row: dict[str, str | int | float | None] = {
                "features": answer.features,
                "width": answer.width,
                "column": column,
                "patients": index.n_patients,
                "classes_of_column": len(found.classes),
                "patients_of_rarer_classes": found.n_left_out,
            }
            figures = {"auc_of_label": answer.label.auc, "auc_of_column": found.auc, "robustness_index": index.value}
            for name, estimate in figures.items():
                row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
            rows.append(row | {"index_at_random": index.at_random, "neighbours": index.neighbours})
    return rows
