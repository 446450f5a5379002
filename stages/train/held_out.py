"""What a model learns from its held-out slides and patients about when not to answer.

Each slide is compared with those that trained the fold which tests it, and each patient is held against the
prediction of that fold (:mod:`wsipipe.models.applicability`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...data.features.store import Bag
from ...data.manifest import Manifest
from ...models.applicability import FILE, Held, HeldOutSlide, applicability_of, write_applicability
from ...models.label_sets import held_out
from ...models.tasks.prediction import PatientPrediction
from ...models.tasks.task import Task


class HeldOut:
    """Collects the slides of cross-validation as they are read.

    :param tiles: folder of the stage that tiled them, which measured their sharpness.
    """

    def __init__(self, tiles: Path) -> None:
        self._tiled = Manifest.of(tiles).latest("tile")
        self._slides: list[HeldOutSlide] = []

    def add(self, fold: int, bag: Bag) -> None:
        """Keep what is needed of a slide.

        :param fold: the one that was not trained on it.
        """
        tiled = self._tiled.get(bag.slide_id)
        sharpness = tiled.stats.get("sharpness_median") if tiled is not None else None
        bad_tiles = len(bag.facts.bad_tiles)
        self._slides.append(HeldOutSlide.of(fold, bag.features, bad_tiles=bad_tiles, sharpness=sharpness))

    def write(
        self, folder: Path, questions: Mapping[str, tuple[Task, Sequence[PatientPrediction]]], bundles: Sequence[Path]
    ) -> Path:
        """Write what the model knows of them, and return the path.

        :param questions: target → its task and predictions; of a model of one question its only key is empty.
        """
        found = {name: held_out(task, rows) for name, (task, rows) in questions.items()}
        held: dict[str, Held] = {name: own for name, own in found.items() if own is not None}
        path = folder / FILE
        write_applicability(path, applicability_of(self._slides, held, bundles))
        return path
