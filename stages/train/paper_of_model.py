"""What a paper takes from a trained model, gathered from the records and tables of its workspace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from ...data.cohort.table import CohortTable, read_cohort
from ...data.manifest import Manifest, Record
from ...models.bundle import BundleFacts
from ...models.tasks.question import class_values
from ...models.training.methods import find_method
from ..features_folder import holds_imported_vectors, holds_slide_vectors, stage_of, tile_features_of
from ..lineage import Lineage, digest_of_model
from ..pages.asked_question import Question
from ..pages.numbers import figure, interval
from ..pages.paper_parts import NOTHING, PaperParts
from ..pages.slot_page import read_reported_slots
from ..pages.slot_table import GALLERY
from ..paper.checklist import Known, checklist
from ..paper.cohort_flow import CohortFlow, cohort_flow, tiles_of
from ..paper.drawings import Judged
from ..paper.examples import examples_of, examples_part, slots_part
from ..paper.methods import SECTIONS, SlideVectors, methods_table
from ..paper.paper import Paper
from ..paper.patient_characteristics import Characteristics, characteristics
from ..settings import RESOLVED
from ..stage import Input, OutputInput, ValueInput, upstream
from .patient_table import PatientRow
from .settings import BiomarkerSettings, SplitSettings
from .usable_slides import slides_with_features

_FEATURES: Final = "features of "


@dataclass(frozen=True, kw_only=True)
class PaperSources:
    """The cohort flow, table 1 and settings of a model.

    :param records: of the split, each fold and the cross-validation, by item.
    """

    name: str
    folder: Path
    records: Mapping[str, Record]
    flow: CohortFlow
    table: Characteristics
    vectors: SlideVectors | None
    """Those that it reads; None where it reads tiles."""
    sections: Mapping[str, Mapping[str, Any]]
    genomics: Record | None
    workspace: Path
    slides: Mapping[str, Sequence[str]]
    """Patient → slides."""
    drawn: Record | None
    """Of the example slides; None where they could not be drawn."""
    gallery: Record | None
    """Of the gallery of the memory's slots, if there is one."""

    @classmethod
    def read(
        cls,
        folder: Path,
        workspace: Path,
        records: Mapping[str, Record],
        patients: Sequence[PatientRow],
        bundle: BundleFacts,
        table_file: Path | None,
    ) -> PaperSources:
        """Gather them.

        :param folder: of the model.
        :param patients: those of the split.
        :param bundle: of any fold.
        :param table_file: the cohort table, if it is known and there.
        """
        table: CohortTable | None = read_cohort(table_file) if table_file is not None and table_file.exists() else None
        store = next(
            place.path for name, place in records["fold-0"].inputs.items() if name.startswith(_FEATURES) and place.path
        )
        features = (workspace / store).parent
        tiles = workspace / "tiles" / features.parent.name
        unusable, usable = slides_with_features(tiles, features, workspace)
        tested = {
            int(item.removeprefix("fold-")): int(read.patients["test"])
            for item, read in _facts_by_fold(records, workspace).items()
        }
        asked = bundle.question
        question = Question.asked(asked, bundle.signature)
        own = [column for column in (asked.label_column, asked.time_column, asked.event_column) if column]
        lineage = Lineage(workspace)
        genomics = lineage.latest(workspace / "genomics", "genomics").get("expression")
        drawn = lineage.latest(folder, "example_slides").get("examples")
        gallery = upstream(Manifest.of(folder), "slot_gallery", workspace, lineage=lineage).records.get(GALLERY)
        return cls(
            name=folder.name,
            folder=folder,
            records=records,
            flow=cohort_flow(table, usable, unusable, patients, tested),
            table=characteristics(
                table,
                patients,
                question,
                tiles_of(tiles, features, workspace),
                [] if asked.task == "multitask" else own,
            ),
            vectors=_vectors(features, lineage, Path(store).stem),
            sections=_sections(records, lineage, tiles, features, Path(store).stem, genomics),
            genomics=genomics,
            workspace=workspace,
            slides={patient.patient_id: patient.slides for patient in patients},
            drawn=drawn if drawn is not None and lineage.standing(drawn).counts else None,
            gallery=gallery,
        )

    @property
    def inputs(self) -> dict[str, Input]:
        """What a page that shows them is made from."""
        rows = [[*row] for row in (*self.flow.rows(), *self.flow.dropped())]
        table = [[row.name, row.value, *row.cells] for row in self.table.rows]
        found: dict[str, Input] = {
            "cohort flow": ValueInput(rows),
            "table 1": ValueInput([table, [[*row] for row in self.table.sites], [*self.table.left_out]]),
        }
        if self.drawn is not None:
            found["example slides"] = ValueInput(self.drawn.stats)
            found |= {name: OutputInput(output) for name, output in self.drawn.outputs.items()}
        if self.gallery is not None:
            found["gallery"] = OutputInput(self.gallery.outputs["reported"])
        return found

    @property
    def gallery_page(self) -> str:
        """The page of the memory's slots, relative to the report; empty if there is none."""
        return GALLERY if self.gallery is not None else ""

    @cached_property
    def of_biomarker(self) -> dict[str, dict[str, Any]]:
        """Settings of the biomarker, and of its targets, by name."""
        split = self.records["splits"].settings
        own = {name: split[name] for name in BiomarkerSettings.model_fields if name in split}
        return {**split.get("of_targets", {}), self.name: own}

    def paper(self, judged: Sequence[Judged], bundles: Sequence[BundleFacts], together: Judged | None = None) -> Paper:
        """What is shown and written of the model.

        :param judged: its answers, to each of its targets if it has several.
        :param together: of several targets: all of them.
        """
        facts = bundles[0]
        question = Question.asked(facts.question, facts.signature)
        return Paper(
            name=self.name,
            flow=self.flow,
            table=self.table,
            judged=judged,
            together=together,
            methods=methods_table(
                self.records,
                question,
                _values(facts),
                facts.versions,
                digest_of_model(self.folder) or "the folds are not all there",
                self.genomics,
            ),
            checklist=checklist(self._known(judged, bundles, question)),
            sections=self.sections,
            vectors=self.vectors,
            biomarkers=self.of_biomarker,
        )

    def parts(self, paper: Paper, *, figures: bool) -> PaperParts:
        """The sections of the model's page, with the heatmaps and galleries that it shows.

        :param figures: whether figures are written beside it.
        :raises StoreError: what the gallery has left for the page is damaged.
        """
        sets = [examples_of(one.target, one.question, one.rows, self.slides) for one in paper.judged]
        reported = None if self.gallery is None else self.workspace / self.gallery.outputs["reported"].path
        return replace(
            paper.parts(figures=figures),
            examples=examples_part(sets, self.drawn, self.workspace),
            slots=NOTHING if reported is None else slots_part(read_reported_slots(reported)),
        )

    def _known(self, judged: Sequence[Judged], bundles: Sequence[BundleFacts], question: Question) -> Known:
        """What is known for the checklist, in words."""
        first, flow, recipe = bundles[0], self.flow, bundles[0].recipe
        used, in_table = flow.patients[-1].number, flow.patients[0].number
        split = self.records["splits"].settings
        kept = "sites" if split.get("split_by") == "site" else "patients"
        audited = next((one.audit for one in judged if one.audit is not None), None)
        columns = ", ".join(column.column for column in audited.columns) if audited else ""
        given = (
            "probability of each class; called at a threshold of each fold's validation patients"
            if question.task == "binary"
            else f"{question.words.value}" + ("; the call of a class" if question.classes else "")
        )
        settings = self.records["fold-0"].settings
        of_rna = first.signature is not None or bool(first.question.targets)  # targets may be signatures
        by_method = find_method(first.method).uses_rna and settings["use_rna"]
        reads_rna = settings["soft_targets"] or by_method or of_rna
        without_rna = "; without RNA they trained on the slide alone" if reads_rna else "; no RNA was read in training"
        nested = f"; chosen inside each fold: {', '.join(settings['nested'])}" if settings.get("nested") else ""
        results = "; ".join(
            f"{f'{one.target}: ' if one.target else ''}{one.measure} {figure(one.metrics.main.value)}"
            + (f" ({interval(one.metrics.main)})" if one.metrics.main.low is not None else "")
            for one in judged
        )
        missing = Counter({one.reason: len(one.names) for one in flow.patients[0].dropped})
        return Known(
            kind="development",
            name=f"bundles of {len(bundles)} folds, digest under Methods; probabilities are the mean of the folds",
            data=f"{in_table:,} patients of the cohort table, {flow.slides[0].number:,} slides of it found",
            patients=f"all there were: {used:,} patients used of {in_table:,}",
            dropped=f"{in_table - used:,} of {in_table:,} patients dropped, by reason and step",
            outcome=f"{question.label_column} ({_shown(_values(first)) or question.task})",
            predictors=f"tiles of {recipe.tile_px} px at {recipe.tile['mpp']:g} µm per pixel, features of "
            f"{recipe.backbone}",
            missing="patients without label or usable slides were dropped"
            + (f" ({', '.join(f'{why}: {n}' for why, n in missing.items())})" if missing else "; there were none")
            + without_rna,
            partition=f"{len(bundles)} folds that keep {kept} apart; each patient is judged by the fold that was not "
            "trained on them",
            model=f"{find_method(first.method).title}{nested}",
            sites=f"{len(self.table.sites)} sites are known" if self.table.sites else "",
            figures="discrimination, calibration and net benefit with 95 % intervals over patients",
            balance="training draws classes equally often; probabilities are moved to the prevalence"
            if first.prevalence is not None
            else "",
            fairness=f"performance within {columns}" if columns else "",
            output=given,
            characteristics=f"{len(self.table.rows)} rows by label" + (" and by site" if self.table.sites else ""),
            events=", ".join(f"{name} {n:,}" for name, n in self.table.groups),
            result=results,
            subgroups=f"within {columns}, with intervals" if columns else "",
            recalibration="none was made; calibration is shown" if question.task == "binary" else "none was made",
            poor_input="a slide unlike the training slides, blurred or with little tissue is answered with uncertain",
            versions=f"wsipipe {first.versions.get('wsipipe', 'unknown')}",
        )


def _facts_by_fold(records: Mapping[str, Record], workspace: Path) -> dict[str, BundleFacts]:
    from ...models.bundle import read_facts

    folds = {item: record for item, record in records.items() if item.startswith("fold-")}
    return {item: read_facts(workspace / record.outputs["bundle"].path) for item, record in folds.items()}


def _values(facts: BundleFacts) -> dict[str, Sequence[str]]:
    """Class → the values of the table that mean it."""
    question = facts.question
    if question.task == "binary":
        return {"positive": question.positive, "negative": question.negative}
    return {name: [*values] for name, values in class_values(question.classes).items()}


def _shown(values: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{name}: {', '.join(own)}" for name, own in values.items())


def _vectors(features: Path, lineage: Lineage, slide: str) -> SlideVectors | None:
    """The slide vectors that a model was trained on; None if it reads tiles."""
    if not holds_slide_vectors(features):
        return None
    record = lineage.latest(features, "encode").get(slide) if holds_imported_vectors(features) else None
    imported = None if record is None else {name: v for name, v in record.settings.items() if name != RESOLVED}
    return SlideVectors(f"{features.parent.name}/{features.name}", imported)


def _sections(
    records: Mapping[str, Record], lineage: Lineage, tiles: Path, features: Path, slide: str, genomics: Record | None
) -> dict[str, dict[str, Any]]:
    """The recorded settings of each stage that made the model, by section of the settings file."""
    split = records["splits"].settings
    report = records.get("report.html")
    stages = [(tiles, "tile"), (tile_features_of(features), "extract"), (features, stage_of(features))]
    imported = holds_imported_vectors(features)  # whose settings are flags of their import, in no section of the file
    of_slide = {} if imported else {stage: lineage.latest(place, stage).get(slide) for place, stage in stages}
    found: dict[str, dict[str, Any]] = {
        **{name: dict(record.settings) for name, record in of_slide.items() if record is not None},
        "split": {name: value for name, value in split.items() if name in SplitSettings.model_fields},
        "train": dict(records["fold-0"].settings),
        **({"genomics": dict(genomics.settings)} if genomics is not None else {}),
        **({"report": dict(report.settings)} if report is not None else {}),
    }
    return {name: {k: v for k, v in found[name].items() if k != RESOLVED} for name in SECTIONS if name in found}
