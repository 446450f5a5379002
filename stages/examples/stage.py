"""example_slides: heatmaps of a few test slides of a model, for its report.

    examples/heatmap/<slide>.jpg     the slide, and the attention of its tiles
    examples/evidence/<slide>.jpg    the slide, and what its tiles speak for and against

Which slides: :mod:`~wsipipe.stages.paper.examples`. Each is read by the one fold that was not trained on its patient. A
slide whose file is archived later keeps its pictures as long as the model stays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...data.artifact import digest_of_value, whole
from ...data.errors import SlideError, StoreError, SurroundingsError
from ...data.manifest import Manifest, Record
from ...data.slides.readers import open_slide
from ...data.wording import some
from ...models.bundle import BundleFacts, read_facts
from ...models.tasks.multitask import MultiTask
from ...models.tasks.task import Task
from ..features_folder import stage_of
from ..lineage import Lineage
from ..pages.asked_question import Question
from ..pages.attention_words import concentration_words
from ..paper.examples import MOST_BYTES, PICTURES, Example, Examples, examples_of, slides_shown
from ..paper.print_style import remove_others
from ..predict.allowed_folds import AllowedFolds
from ..predict.pictures import NO_TILES, Evidence, heatmaps
from ..predict.reading import Concentration, FoldReader, SlideAsRead, SlideToRead
from ..registry import VERSIONS
from ..settings import Runtime, Settings
from ..slide_file import SlideFile
from ..stage import Input, Item, Outcome, OutputInput, Plan, Progress, Stage, ValueInput, upstream
from ..train.cross_validate import read_oof
from ..train.patient_table import read_patients

_QUALITY: Final = 82
_LONGEST: Final = (480, 560)
"""Pixels of the longer side of a picture, so that a page shows its text as large as its own."""
_AWAY: Final = "the slide's file is not there"
_NO_FEATURES: Final = "its features are no longer there"


class ExampleSlidesSettings(Settings):
    """Settings of the example slides."""

    device: str = Runtime("auto")


@dataclass(frozen=True)
class _ExampleSlide:
    """A slide to draw.

    :param question: of the target that it is an example of.
    :param store: of its features; None if they are gone.
    :param file: None if it is not tiled here.
    """

    example: Example
    question: Question
    store: Path | None
    file: SlideFile | None


class ExampleSlidesStage(Stage[ExampleSlidesSettings]):
    """The example slides; the single item is ``examples``.

    :param features: folder of the stage whose slides are used.
    """

    name = "example_slides"
    version = VERSIONS["example_slides"]
    items = "sets"

    def __init__(self, settings: ExampleSlidesSettings, folder: Path, workspace: Path, *, features: Path) -> None:
        super().__init__(settings, folder, workspace)
        self.features = features

    def plan(self) -> Plan:
        lineage = Lineage(self.workspace)
        records = {
            item: record
            for stage in ("split", "train", "cross_validate")
            for item, record in upstream(self.manifest, stage, self.workspace, lineage=lineage).records.items()
        }
        if not {"splits", "fold-0", "cross-validation"} <= records.keys():
            return Plan([])  # cross_validate says what is missing
        facts = read_facts(self.workspace / records["fold-0"].outputs["bundle"].path)
        sets, questions = self._examples(records, facts)
        slides = dict(slides_shown(sets))
        stage = stage_of(self.features)
        done = upstream(Manifest.of(self.features), stage, self.workspace, only=slides, lineage=lineage).records
        tiles = Manifest.of(self.workspace / "tiles" / self.features.parent.name)
        tiled = upstream(tiles, "tile", self.workspace, only=slides, lineage=lineage).records
        payload = {
            slide: _ExampleSlide(
                example,
                questions[example.row.patient_id],
                self.workspace / done[slide].outputs["features"].path if slide in done else None,
                SlideFile.of(tiled[slide], self.workspace) if slide in tiled else None,
            )
            for slide, example in slides.items()
        }
        at_hand = [
            one for one in payload.values() if one.store is not None and one.file is not None and one.file.is_there
        ]
        if not at_hand and "examples" not in lineage.latest(self.folder, self.name):
            return Plan([], notes=["no heatmaps in the report: the slides' files are not there"])
        chosen = {slide: example.row.fold for slide, example in slides.items()}
        drawn = self._drawn(lineage, digest_of_value(chosen))
        away = sorted(
            slide
            for slide, one in payload.items()
            if (one.file is None or not one.file.is_there) and f"heatmap {slide}" not in drawn
        )
        inputs: dict[str, Input] = {"examples": ValueInput(chosen), "away": ValueInput([*away])}
        for fold in sorted({example.row.fold for example in slides.values()}):
            inputs[f"fold-{fold}"] = OutputInput(records[f"fold-{fold}"].outputs["bundle"])
        inputs |= {f"features of {slide}": OutputInput(record.outputs["features"]) for slide, record in done.items()}
        notes = [f"not there, and without pictures in the report: {some(away, 3)}"] if away else []
        return Plan([Item("examples", inputs, payload)], notes=notes)

    def _examples(
        self, records: Mapping[str, Record], facts: BundleFacts
    ) -> tuple[Sequence[Examples], Mapping[str, Question]]:
        """The examples of each target, and of each of their patients the question whose example they are first."""
        patients = read_patients(
            self.workspace / records["splits"].outputs["patients"].path, facts.task.number_of_classes
        )
        slides = {patient.patient_id: patient.slides for patient in patients}
        judged = records["cross-validation"].outputs
        targets: dict[str, tuple[Task, BundleFacts]] = {"": (facts.task, facts)}
        if isinstance(facts.task, MultiTask):
            targets = {name: (own, facts.of_target(name)) for name, own in facts.task.targets.items()}
        sets: list[Examples] = []
        questions: dict[str, Question] = {}
        for name, (task, own) in targets.items():
            path = self.workspace / judged[f"predictions of {name}" if name else "predictions"].path
            question = Question.asked(own.question, own.signature)
            sets.append(examples_of(name, question, read_oof(path, task), slides))
            for example in sets[-1].shown:
                questions.setdefault(example.row.patient_id, question)
        return sets, questions

    def _drawn(self, lineage: Lineage, chosen: str) -> Collection[str]:
        """The pictures of the same slides by the same folds that are there already.

        :param chosen: digest of the slides and their folds.
        """
        earlier = lineage.latest(self.folder, self.name).get("examples")
        if earlier is None or not lineage.standing(earlier).counts or earlier.inputs["examples"].digest != chosen:
            return ()
        return earlier.outputs.keys()

    def process(self, item: Item, progress: Progress) -> Outcome:
        slides: Mapping[str, _ExampleSlide] = item.payload
        reader = FoldReader(self.folder, self.settings.device) if slides else None
        folder, total = self.folder / "examples", 0
        outputs: dict[str, Path] = {}
        missing, concentration = {}, {}
        for slide, one in slides.items():
            progress.say(slide)
            if one.store is None or one.file is None or not one.file.is_there:
                missing[slide] = _NO_FEATURES if one.store is None else _AWAY
                continue
            assert reader is not None
            try:
                read = reader.read(_to_read(slide, one.example, one.store))
                if read.bag.facts.encoding is not None:
                    missing[slide] = NO_TILES
                    continue
                pictures = self._pictures(reader.task, slide, one, one.file, read)
            except (SlideError, StoreError, SurroundingsError) as error:  # said on the page; the others are drawn
                missing[slide] = error.what
                continue
            size = sum(map(len, pictures.values()))
            if total + size > MOST_BYTES:
                missing[slide] = f"the pictures of this page are held below {MOST_BYTES // 1_000_000} MB"
                continue
            total += size
            concentration[slide] = concentration_words(Concentration.of(read.attention))
            for kind, data in pictures.items():
                path = outputs[f"{kind} {slide}"] = folder / kind / f"{slide}.jpg"
                with whole(path) as scratch:
                    scratch.write_bytes(data)
        for kind in PICTURES:
            remove_others(folder / kind, ("jpg",), [path for path in outputs.values() if path.parent.name == kind])
        stats = {"slides": len(slides), "missing": missing, "concentration": concentration}
        return Outcome(outputs, stats, status="done" if outputs else "empty")

    def _pictures(
        self, task: Task, slide: str, one: _ExampleSlide, file: SlideFile, read: SlideAsRead
    ) -> dict[str, bytes]:
        """The slide's pictures as JPEG, by kind."""
        row, names = one.example.row, [one.question.name_of(label) for label in range(max(2, len(task.classes)))]
        evidence = None if isinstance(task, MultiTask) else Evidence.of(task, read.scores, names, row.call)
        with open_slide(self.at_hand(file.path), mpp_override=file.mpp_override) as opened:
            sheets = heatmaps(opened, read, evidence, caption=f"{slide} · fold {row.fold}", longest=_LONGEST)
        return {kind: sheet.jpeg(_QUALITY) for kind, sheet in sheets.items()}


def _to_read(slide: str, example: Example, store: Path) -> SlideToRead:
    """The slide, to be read by the fold that was not trained on its patient."""
    row = example.row
    allowed = AllowedFolds(
        patient_id=row.patient_id, folds=(row.fold,), why="the fold that tests this patient", known_by=()
    )
    return SlideToRead(slide_id=slide, patient_id=row.patient_id, store=store, allowed=allowed)
