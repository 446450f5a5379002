"""predict: applies a trained model to slides, using histology alone.

    slides/<slide>.json        each fold's score, which folds read the slide, and why these
    heatmaps/<slide>.png       the model's attention on the slide
    evidence/<slide>.png       what its tiles speak for and against
    tiles/<slide>.png          the tiles with most and least attention, and the strongest for and against
    scores/<slide>.ome.tiff    every tile's attention and score as an image, for QuPath and Fiji
    geojson/<slide>.geojson    the same as tiles with measurements, for QuPath

A fold that was trained or validated on one of a patient's slides reads no slide of that patient
(:mod:`.allowed_folds`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from ...data.cohort.ids import id_key, one_spelling
from ...data.errors import BundleError, WsipipeError
from ...data.manifest import Manifest, Record
from ...data.wording import some
from ...models.applicability import read_applicability
from ...models.backbones.devices import choose_devices
from ...models.bundle import folds_of, prevalence_of
from ...models.tasks.multitask import MultiTask
from ...models.tasks.prediction import one_share
from ..features_folder import stage_of
from ..lineage import Lineage, model_record
from ..pages.asked_question import Question
from ..pages.numbers import percent
from ..registry import VERSIONS
from ..slide_file import SlideFile
from ..slide_records import digest_of_slide, latest, tiling_of
from ..stage import Item, Outcome, Plan, Progress, Stage, ValueInput, upstream
from ..tile.networks import networks_in, refuse_other_networks
from ..train.read_patients import folds_of_target
from .allowed_folds import SAME_IDS, AllowedFolds, PatientSlides, allowed_folds
from .earlier_batches import patients_before
from .pictures import NO_PICTURES, NO_TILES, Evidence, Pictures
from .reading import Concentration, FoldReader, SlideAsRead, SlideOutput, SlideToRead, write_output
from .settings import PredictSettings


@dataclass(frozen=True)
class _SlideToPredict:
    read: SlideToRead
    file: SlideFile | None
    """None where the slide is nowhere: its vector was imported."""


@dataclass(frozen=True, kw_only=True)
class PredictionTask:
    """A request for predictions: the model and the slides."""

    model: Path
    """The trained model's folder."""
    tiles: Path
    features: Path
    """Folders of the stages that made the slides' bags."""
    slides: Mapping[str, str]
    """Slide → patient, for all requested slides."""
    further: Mapping[str, str] = field(default_factory=dict)
    """Slide → patient, for further slides of the table."""
    unnamed: Collection[str] = ()
    """Slides without a patient in any table; each counts as a patient of its own."""

    def patient_of(self, before: Mapping[str, str]) -> dict[str, str]:
        """Map every known slide to its patient, by the present table, else by earlier batches.

        Spellings of one id are unified (:mod:`wsipipe.data.cohort.ids`); a patient's id is spelled as in the table.

        :param before: slide → patient, of earlier batches.
        """
        now = {slide: patient for slide, patient in self.slides.items() if slide not in self.unnamed}
        sources = (now, self.further, before, self.slides)  # the first source with a slide decides its patient
        spelling = one_spelling(patient for source in sources for patient in source.values())
        patients: dict[str, str] = {}
        for source in sources:
            for slide, patient in source.items():
                patients.setdefault(id_key(slide), spelling[patient])
        return {slide: patients[id_key(slide)] for source in sources for slide in source}

    def patients(self, before: Mapping[str, str]) -> dict[str, PatientSlides]:
        """Map every patient to all their known slides.

        :param before: as in :meth:`patient_of`.
        """
        tiled = latest(tiling_of(self.tiles, self.features))
        slides: dict[str, dict[str, str | None]] = {}
        for slide, patient in self.patient_of(before).items():
            slides.setdefault(patient, {})[slide] = digest_of_slide(tiled.get(slide))
        return {
            patient: PatientSlides(patient_id=patient, slides=own, named=patient not in self.unnamed)
            for patient, own in slides.items()
        }


class PredictStage(Stage[PredictSettings]):
    """The predict stage; its items are slides."""

    name = "predict"
    version = VERSIONS["predict"]
    distributes = True

    def __init__(
        self,
        settings: PredictSettings,
        folder: Path,
        workspace: Path,
        task: PredictionTask,
    ) -> None:
        super().__init__(settings, folder, workspace)
        self.task = task

    @property
    def sources(self) -> Sequence[Path]:
        return self.task.tiles, self.task.features  # all of both: a patient's other slides decide which folds may read

    def plan(self) -> Plan:
        folds = folds_of(self.task.model)
        prevalence_of(folds, self.settings.prevalence)  # refused before days of reading
        bundles = [facts for _, facts in folds]
        model, asked = model_record(self.task.model, self.workspace), self.task.slides.keys()
        lineage, other = Lineage(self.workspace), self.settings.other_patients
        place, tiling = tiling_of(self.task.tiles, self.task.features)
        tiled = upstream(Manifest.of(place), tiling, self.workspace, only=asked, lineage=lineage)
        features, stage = Manifest.of(self.task.features), stage_of(self.task.features)
        done = upstream(features, stage, self.workspace, only=tiled.records, lineage=lineage)
        doubt = lineage.doubt_of_model(self.task.model)
        known = read_applicability(self.task.model, [path for path, _ in folds])
        before = patients_before(self.manifest, self.workspace)
        patients, patient_of = self.task.patients(before), self.task.patient_of(before)
        of_asked = {patient_of[slide] for slide in asked}
        allowed = {patient: allowed_folds(bundles, patients[patient], other_patients=other) for patient in of_asked}
        drawn = {s for s, r in lineage.latest(self.folder, "predict").items() if "heatmap" in r.outputs}
        items: list[Item] = []
        away: list[str] = []
        rejected: dict[str, WsipipeError] = {}
        for slide_id, record in done.records.items():
            patient, tile = patient_of[slide_id], tiled.records[slide_id]
            if not allowed[patient].folds:
                rejected[slide_id] = allowed[patient].refusal()
                continue
            try:
                refuse_other_networks(bundles[0].recipe.tile, networks_in(tile), self.task.tiles)
            except BundleError as error:
                rejected[slide_id] = error
                continue
            slide = SlideToRead(
                slide_id=slide_id,
                patient_id=patient,
                store=self.workspace / record.outputs["features"].path,
                allowed=allowed[patient],
                other_patients=other,
                remarks=_enlarged(tile),
                known=known,
                sharpness=tile.stats.get("sharpness_median"),
            )
            file = None if tiling == "encode" else SlideFile.of(tile, self.workspace)
            inputs = slide.inputs(record.outputs["features"], model)
            if file is not None and not file.is_there and stage == "extract":
                away.append(slide_id)
                if slide_id not in drawn:  # so that it is drawn when its file is there again, and not before
                    inputs["pictures"] = ValueInput(NO_PICTURES)
            items.append(Item(slide_id, inputs, _SlideToPredict(slide, file)))
        notes = [
            *(() if place == self.task.features else tiled.notes),
            *done.notes,
            *_unnamed(of_asked & set(self.task.unnamed)),
            *_same_ids(allowed),
        ]
        if away:
            notes.append(f"not there, read from their features and drawn only if they were before: {some(away, 3)}")
        return Plan(items, rejected, [*notes, *([doubt] if doubt else [])])

    def for_worker(self, device: str | None, cores: int) -> Self:
        stage = super().for_worker(device, cores)
        stage.task = replace(self.task, slides={}, further={}, unnamed=())
        return stage

    def setup(self) -> None:
        self.reader = FoldReader(self.task.model, self.settings.device)
        folds = folds_of(self.task.model)
        self.prevalence = prevalence_of(folds, self.settings.prevalence)
        self.question = Question.asked(folds[0][1].question, folds[0][1].signature)
        targets = folds[0][1].question.targets
        self.of_targets = {name: folds_of_target(folds, name) for name in targets}

    def slide_of(self, item: Item) -> Path | None:
        payload: _SlideToPredict = item.payload
        return payload.file.path if payload.file is not None and payload.file.is_there else None

    def process(self, item: Item, progress: Progress) -> Outcome:
        slide: _SlideToPredict = item.payload
        progress.say(item.id)
        read = self.reader.read(slide.read)
        of_tiles = read.bag.facts.encoding is None
        output = read.output
        if of_tiles:
            output = output.model_copy(update={"concentration": Concentration.of(read.attention)})
        pictures: dict[str, Path] = {}
        if slide.file is not None and slide.file.is_there and of_tiles:
            evidence, caption = self._evidence(read), f"{item.id} · {self.task.model.name} {self._said(output)}"
            draw = Pictures(folder=self.folder, scale=self.settings.scale, most=self.settings.top_tiles).draw
            at_hand = replace(slide.file, path=self.at_hand(slide.file.path))
            pictures = draw(at_hand, read, self.reader.task, evidence, caption)
        else:
            remarks = "; ".join(filter(None, [output.remarks, NO_PICTURES if of_tiles else NO_TILES]))
            output = output.model_copy(update={"remarks": remarks})
        written = write_output(self.folder / "slides" / f"{item.id}.json", output)
        return Outcome(outputs={"prediction": written, **pictures}, stats=output.stats)

    @property
    def devices(self) -> Sequence[str]:
        return [str(device) for device in choose_devices(self.settings.device)]

    def _evidence(self, read: SlideAsRead) -> Evidence | None:
        task, output = self.reader.task, read.output
        if isinstance(task, MultiTask):
            return None
        answer = task.answer([*output.logits.values()], [*output.thresholds.values()], prevalence=self.prevalence)
        names = [self.question.name_of(label) for label in range(len(task.classes))]
        return Evidence.of(task, read.scores, names, answer.call)

    def _said(self, output: SlideOutput) -> str:
        """What the model says of the slide, in short."""
        task = self.reader.task
        if isinstance(task, MultiTask):
            return ", ".join(self._said_of(task, name, output) for name in task.targets)
        by_fold, thresholds = list(output.logits.values()), list(output.thresholds.values())
        answer = task.answer(by_fold, thresholds, prevalence=self.prevalence)
        if task.name == "binary":
            return f"{answer.probability:.2f} at a prevalence of {percent(one_share(self.prevalence))}"
        return f"{task.classes[answer.call]} {answer.probability:.2f}" if task.classes else f"{answer.probability:.4g}"

    def _said_of(self, task: MultiTask, name: str, output: SlideOutput) -> str:
        """What the model says of one target, at the prevalence of its training patients."""
        folds, own = self.of_targets[name], task.targets[name]
        of_target = output.of_target(task, name, {facts.fold: facts.threshold for _, facts in folds})
        by_fold, thresholds = list(of_target.logits.values()), list(of_target.thresholds.values())
        answer = own.answer(by_fold, thresholds, prevalence=prevalence_of(folds, None))
        call = f"{own.classes[answer.call]} " if own.classes else ""
        return f"{name} {call}{answer.probability:.2f}"


def _enlarged(tile: Record) -> str:
    """Remark that a slide's tiles were enlarged; empty if they were not."""
    read_px, tile_px, slide_mpp = tile.stats.get("read_px"), tile.settings.get("tile_px"), tile.stats.get("slide_mpp")
    if read_px is None or tile_px is None or slide_mpp is None or read_px >= tile_px:
        return ""
    mpp = tile.settings["mpp"]
    return f"enlarged from {slide_mpp:.6g} to {mpp:g} µm per pixel: blurred compared to the training slides"


def _unnamed(slides: Collection[str]) -> list[str]:
    """Note the slides that no table assigns to a patient."""
    if not slides:
        return []
    what = f"slides without a patient in --table, each taken as a patient of its own: {some(sorted(slides), 3)}"
    return [f"{what}. The cohort table of the settings is that of training; --table names the patients of these"]


def _same_ids(allowed: Mapping[str, AllowedFolds]) -> list[str]:
    """Note the patients for whom folds are left out because of an id alone."""
    patients = sorted(patient for patient, folds in allowed.items() if folds.by_id_alone)
    return [f"known to the model by id, but not by slide: {some(patients)}. {SAME_IDS}"] if patients else []
