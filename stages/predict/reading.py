"""Reading of slides by the folds of a model, shared by `predict` and `evaluate`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ...data.artifact import whole
from ...data.features.store import Bag, read_bag
from ...data.manifest import OutputRecord
from ...models.backbones.devices import choose_devices
from ...models.bundle import Bundle, folds_of, read_bundle
from ...models.tasks.prediction import Score
from ...models.tasks.task import Task
from ..stage import Input, OutputInput, ValueInput
from .allowed_folds import AllowedFolds


class SlideOutput(BaseModel):
    """The stored output for a slide that was read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slide_id: str
    patient_id: str
    logits: dict[int, Score]
    """Fold → score (of a binary task the log-odds of positive, of several classes one a class), of the folds that may
    read it."""
    thresholds: dict[int, float]
    """Fold → probability from which it calls a patient positive."""
    why: str
    """Why these folds were used and not others."""
    tiles: int
    other_patients: bool = False
    """Whether equal ids were treated as other people's."""
    remarks: str = ""
    """Further information for readers of the numbers, such as that the slide was enlarged."""


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

    def inputs(self, features: OutputRecord, model: OutputRecord) -> dict[str, Input]:
        """List the inputs that the output depends on.

        :param model: the model's record (:func:`~wsipipe.stages.lineage.model_record`).
        """
        folds = {"folds": list(self.allowed.folds), "why": self.allowed.why}
        return {
            "features": OutputInput(features),
            "model": OutputInput(model),
            "patient": ValueInput(self.patient_id),
            "folds": ValueInput(folds),
        }


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
        output = SlideOutput(
            slide_id=slide.slide_id,
            patient_id=slide.patient_id,
            logits={fold: reading.logit for fold, reading in readings.items()},
            thresholds={fold: self.bundles[fold].facts.threshold for fold in readings},
            why=slide.allowed.why,
            tiles=len(bag.coords),
            other_patients=slide.other_patients,
            remarks="; ".join(filter(None, [slide.remarks, _undecoded(len(bag.facts.bad_tiles))])),
        )
        attention = _mean(reading.attention for reading in readings.values())
        return SlideAsRead(bag, output, attention, _mean(reading.scores for reading in readings.values()))


def write_output(path: Path, output: SlideOutput) -> Path:
    """Write a slide's output as JSON, and return the path."""
    with whole(path) as scratch:
        scratch.write_text(output.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return path


def read_outputs(paths: Mapping[str, Path]) -> dict[str, SlideOutput]:
    """Read the outputs of slides, in order of their ids."""
    return {slide: SlideOutput.model_validate_json(path.read_bytes()) for slide, path in sorted(paths.items())}


def _undecoded(tiles: int) -> str:
    return f"{tiles} {'tile' if tiles == 1 else 'tiles'} could not be decoded" if tiles else ""


def _mean(values: Iterable[NDArray[np.float32]]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = np.mean(np.stack(list(values)), axis=0, dtype=np.float64)
    return mean
