"""export of slide vectors: the cohort as one AnnData, an observation a slide, with labels and predictions.

exports/anndata/<tiles>/<encoder>-of-<backbone>/slides.h5ad

What is known of a slide is in ``obs``: the columns of the cohort table, and of each model that is named what it says of
the slide's patient in cross-validation, so by the fold that was not trained on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from ...data.cohort.slide_match import match_slides
from ...data.cohort.table import CohortTable, read_cohort
from ...data.errors import UsageError
from ...data.features.store import read_bag
from ...data.files.own_tables import read_own_rows
from ...data.interop.anndata import write_vectors_anndata
from ...data.manifest import Manifest
from ..registry import VERSIONS
from ..stage import FileInput, Input, Item, Outcome, OutputInput, Plan, Progress, Stage, upstream
from .settings import ExportSettings

_OF_PATIENTS: Final = ("patient_id", "label", "slides")
"""Columns of a model's predictions that the table of slides has, or that are of the patient alone."""


@dataclass(frozen=True)
class VectorsToExport:
    """The stores of the slides, and the predictions of a model."""

    stores: Mapping[str, Path]
    predictions: Path | None


class ExportVectorsStage(Stage[ExportSettings]):
    """One item, ``slides``.

    :param features: the folder of slide vectors.
    :param table: the cohort table; None: nothing is known of the slides.
    :param model: folder of a model of this workspace, whose predictions of patients are added.
    """

    name = "export"
    version = VERSIONS["export"]

    def __init__(
        self,
        settings: ExportSettings,
        folder: Path,
        workspace: Path,
        *,
        features: Path,
        table: Path | None,
        model: Path | None,
    ) -> None:
        super().__init__(settings, folder, workspace)
        self.features, self.table, self.model = features, table, model

    @property
    def sources(self) -> Sequence[Path]:
        return (self.features,)

    def plan(self) -> Plan:
        encoded = upstream(Manifest.of(self.features), "encode", self.workspace)
        if not encoded.records:
            raise UsageError("no slide has a vector", path=self.features, hint="run wsipipe encode first")
        stores = {slide: record.outputs["features"] for slide, record in sorted(encoded.records.items())}
        inputs: dict[str, Input] = {f"features of {slide}": OutputInput(output) for slide, output in stores.items()}
        notes = [*encoded.notes]
        if self.table is not None:
            inputs["table"] = FileInput(self.table.resolve())
            notes += match_slides(list(stores), read_cohort(self.table)).notes()
        predictions = None
        if self.model is not None:
            if self.table is None:
                what = "predictions are of patients, and without a table nobody says whose the slides are"
                raise UsageError(what, hint="give the cohort table: --table")
            evaluated = upstream(Manifest.of(self.model), "cross_validate", self.workspace).records
            record = evaluated.get("cross-validation")
            if record is None or "predictions" not in record.outputs:
                what = "has no predictions of its patients, or of several targets, which one table cannot hold"
                raise UsageError(what, path=self.model, hint="run wsipipe train, or leave --model out")
            inputs["predictions"] = OutputInput(record.outputs["predictions"])
            predictions = self.workspace / record.outputs["predictions"].path
        work = VectorsToExport({s: self.workspace / o.path for s, o in stores.items()}, predictions)
        return Plan([Item("slides", inputs, work, size=len(stores))], notes=notes)

    def process(self, item: Item, progress: Progress) -> Outcome:
        work: VectorsToExport = item.payload
        bags = [read_bag(store) for store in work.stores.values()]
        tiles = [bag.facts.encoding.tiles if bag.facts.encoding else len(bag.coords) for bag in bags]
        known = {} if None in tiles else {"tiles": tiles}
        obs = pd.DataFrame(known, index=pd.Index(list(work.stores), dtype=object, name="slide"))
        if self.table is not None:
            obs = obs.join(_known(list(work.stores), read_cohort(self.table)))
        if work.predictions is not None and self.model is not None:
            said = _predicted(work.predictions, self.model.name)
            obs = obs.join(said, on="patient_id")
        path = self.folder / "slides.h5ad"
        write_vectors_anndata(path, bags, obs)
        return Outcome({"features": path}, {"slides": len(bags), "width": bags[0].facts.width})


def _known(slides: Sequence[str], table: CohortTable) -> pd.DataFrame:
    """The table's columns of each slide, as text; empty where the table has no row of it."""
    rows = match_slides(slides, table).rows
    of_row = table.frame.drop_duplicates("slide_id").set_index("slide_id")
    known = of_row.reindex([rows.get(slide, "") for slide in slides]).drop(columns=["path"]).fillna("")
    known.index = pd.Index(list(slides), dtype=object)
    known.loc[[slide for slide in slides if slide not in rows], :] = ""  # a row without a slide is of nobody here
    return known.astype(object)


def _predicted(predictions: Path, model: str) -> pd.DataFrame:
    """What a model says of each patient, under names that begin with the model's; numbers where all are."""
    rows = read_own_rows(predictions, ["patient_id", "fold"], dict)
    frame = pd.DataFrame(rows).set_index("patient_id")
    frame = frame.drop(columns=[name for name in _OF_PATIENTS if name in frame.columns])
    frame = frame.apply(_numbers)
    return frame.rename(columns=lambda name: f"{model}: {name}")


def _numbers(column: pd.Series) -> pd.Series:
    """A column of text as numbers, if all of its cells are some."""
    try:
        return pd.to_numeric(column.replace("", None))
    except (ValueError, TypeError):
        return column
