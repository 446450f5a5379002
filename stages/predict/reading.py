"""Reading of slides by the folds of a model, shared by `predict` and `evaluate`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from ...data.artifact import whole
from ...data.cohort.splits import MOST_FOLDS
from ...data.errors import StoreError
from ...data.features.store import Bag, read_bag
from ...data.json_text import fault, read_json
from ...data.manifest import Json, OutputRecord
from ...models.applicability import Applicability, Fitness
from ...models.backbones.devices import choose_devices
from ...models.bundle import Bundle, folds_of, read_bundle
from ...models.tasks.multitask import MultiTask
from ...models.tasks.task import Task
from ..stage import Input, OutputInput, ValueInput
from .allowed_folds import AllowedFolds

_Fold = Annotated[int, Field(ge=0, lt=MOST_FOLDS)]


class Concentration(BaseModel):
    """How unevenly attention is spread over a slide's tiles."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_1: float = Field(ge=0, le=1.001)
    """Share of the attention on the hundredth of the tiles with most, at least one."""
    top_10: float = Field(ge=0, le=1.001)
    """The same of the tenth."""
    effective: float = Field(ge=0)
    """Effective number of tiles: the exponential of the entropy of the attention (Hill, 1973)."""

    @classmethod
    def of(cls, attention: NDArray[np.float64]) -> Self:
        """Measure the attention of tiles (N,), which sums to 1."""
        falling = np.sort(attention)[::-1]
        tops = {share: float(falling[: max(1, round(share * len(falling)))].sum()) for share in (0.01, 0.1)}
        known = attention[attention > 0]
        effective = float(np.exp(-(known * np.log(known)).sum()))
        return cls(top_1=tops[0.01], top_10=tops[0.1], effective=effective)


class SlideOutput(BaseModel):
    """The stored output for a slide that was read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slide_id: str
    patient_id: str
    logits: dict[_Fold, FiniteFloat | tuple[FiniteFloat, ...]] = Field(min_length=1)
    """Fold → score (of a binary task the log-odds of positive at even prevalence, of several classes one a class), of
    the folds that may read it."""
    thresholds: dict[_Fold, FiniteFloat]
    """Fold → probability from which it calls a patient positive, at even prevalence as the scores are, or risk from
    which it calls one high."""
    why: str
    """Why these folds were used and not others."""
    tiles: int | None = Field(ge=1)
    """None of an imported slide vector whose file does not tell."""
    other_patients: bool = False
    """Whether equal ids were treated as other people's."""
    remarks: str = ""
    """Further information for readers of the numbers, such as that the slide was enlarged."""
    fitness: Fitness | None = None
    """How it compares with the slides that trained the model; None if the model does not know them."""
    concentration: Concentration | None = None
    """How unevenly attention is spread over its tiles; None where it was not measured."""

    @property
    def stats(self) -> dict[str, Json]:
        """Counts for its record; of tiles where they are known."""
        return {**({} if self.tiles is None else {"tiles": self.tiles}), "folds": len(self.logits)}

    @model_validator(mode="after")
    def _of_the_same_folds(self) -> Self:
        if self.logits.keys() != self.thresholds.keys():
            raise ValueError("its scores and thresholds are not of the same folds")
        return self

    def of_target(self, task: MultiTask, name: str, thresholds: Mapping[int, float]) -> Self:
        """The output as of a model of one of the targets.

        :param thresholds: fold → the target's threshold.
        """
        return self.model_copy(
            update={
                "logits": {fold: task.of_target(name, score) for fold, score in self.logits.items()},
                "thresholds": {fold: thresholds[fold] for fold in self.logits},
            }
        )

    def is_of(self, task: Task) -> bool:
        """Whether scores and thresholds are such as the task gives."""
        several = task.score_length
        sizes = {len(score) if isinstance(score, tuple) else 0 for score in self.logits.values()}
        probabilities = all(0 <= threshold <= 1 for threshold in self.thresholds.values())
        return sizes == {several} and (probabilities or not task.has_prevalence)


@dataclass(frozen=True, kw_only=True)
class SlideToRead:
    """A slide to read, and the folds that may read it."""

    slide_id: str
    patient_id: str
    store: Path
    """Path of its features."""
    allowed: AllowedFolds
    other_patients: bool = False
    remarks: str = ""
    known: Applicability | None = None
    """What the model knows of its training slides, to compare the slide with them."""
    sharpness: float | None = None
    """Median over its tiles, if tiling measured it."""

    def inputs(self, features: OutputRecord, model: OutputRecord) -> dict[str, Input]:
        """List the inputs that the output depends on.

        :param model: the model's record (:func:`~wsipipe.stages.lineage.model_record`).
        """
        folds = {"folds": list(self.allowed.folds), "why": self.allowed.why}
        inputs: dict[str, Input] = {
            "features": OutputInput(features),
            "model": OutputInput(model),
            "patient": ValueInput(self.patient_id),
            "folds": ValueInput(folds),
        }
        return inputs if self.known is None else {**inputs, "applicability": ValueInput(self.known.digest)}


@dataclass(frozen=True)
class SlideAsRead:
    """A slide's bag with the means over the folds: attention (N,), and scores (N,), or (N, C) of C classes."""

    bag: Bag
    output: SlideOutput
    attention: NDArray[np.float64]
    scores: NDArray[np.float64]


class FoldReader:
    """The folds of a model on a device, ready to read slides.

    :raises BundleError: there is no model, or it is incomplete.
    :raises UsageError: there is no such device.
    """

    def __init__(self, model: Path, device: str) -> None:
        on = choose_devices(device)[0]
        self.bundles: dict[int, Bundle] = {facts.fold: read_bundle(path, on) for path, facts in folds_of(model)}

    @property
    def task(self) -> Task:
        """The model's task."""
        return next(iter(self.bundles.values())).network.task

    def read(self, slide: SlideToRead) -> SlideAsRead:
        """Read a slide with the folds that may read it.

        :raises UsageError: no fold may read it.
        :raises BundleError: its features differ in kind from those that the model was trained on.
        """
        if not slide.allowed.folds:
            raise slide.allowed.refusal()
        bag = read_bag(slide.store)
        readings = {fold: self.bundles[fold].read(bag, slide.store) for fold in slide.allowed.folds}
        known, bad_tiles = slide.known, len(bag.facts.bad_tiles)
        output = SlideOutput(
            slide_id=slide.slide_id,
            patient_id=slide.patient_id,
            logits={fold: reading.logit for fold, reading in readings.items()},
            thresholds={fold: self.bundles[fold].facts.threshold for fold in readings},
            why=slide.allowed.why,
            tiles=len(bag.coords) if bag.facts.encoding is None else bag.facts.encoding.tiles,
            other_patients=slide.other_patients,
            remarks="; ".join(filter(None, [slide.remarks, _undecoded(bad_tiles)])),
            fitness=known and known.measured(bag.features, sharpness=slide.sharpness, bad_tiles=bad_tiles),
        )
        attention = _mean(reading.attention for reading in readings.values())
        return SlideAsRead(bag, output, attention, _mean(reading.scores for reading in readings.values()))


def write_output(path: Path, output: SlideOutput) -> Path:
    """Write a slide's output as JSON, and return the path."""
    with whole(path) as scratch:
        without = {name for name in ("fitness", "concentration") if getattr(output, name) is None}
        scratch.write_text(output.model_dump_json(indent=1, exclude=without) + "\n", encoding="utf-8")
    return path


_READ_AGAIN: Final = "remove it and run the same command again: only this slide is read again"


def read_outputs(paths: Mapping[str, Path], task: Task | None = None) -> dict[str, SlideOutput]:
    """Read the outputs of slides, in order of their ids.

    :param task: that of the model, if all are of this model.
    :raises StoreError: one is missing or damaged.
    """
    outputs = {slide: _read_output(slide, path) for slide, path in sorted(paths.items())}
    for slide, output in outputs.items():
        if task is not None and not output.is_of(task):
            what = f"holds scores or thresholds that task {task.name} does not have"
            raise StoreError(what, path=paths[slide], hint=_READ_AGAIN)
    return outputs


def _read_output(slide_id: str, path: Path) -> SlideOutput:
    hint = _READ_AGAIN
    try:
        output = SlideOutput.model_validate(read_json(path, StoreError, what="prediction of a slide", hint=hint))
    except ValidationError as error:
        raise StoreError(f"holds no prediction of a slide: {fault(error)}", path=path, hint=hint) from error
    if output.slide_id != slide_id:
        raise StoreError(f"holds the prediction of another slide than {slide_id}", path=path, hint=hint)
    return output


def _undecoded(tiles: int) -> str:
    return f"{tiles} {'tile' if tiles == 1 else 'tiles'} could not be decoded" if tiles else ""


def _mean(values: Iterable[NDArray[np.float32]]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = np.mean(np.stack(list(values)), axis=0, dtype=np.float64)
    return mean
