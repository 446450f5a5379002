"""Slides that a model is to read, from the command line: noise as tissue, an untrained network, the real backbone."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from command import wsipipe
from external_workspace import model_at
from PIL import Image
from planted_workspace import FEATURES, SIDE, TILE_PX, TILES, Planted, write_slide
from planted_workspace import WIDTH as NARROW
from typer.testing import Result
from wsipipe.data.slides.finding import slide_identity
from wsipipe.data.units import Mpp
from wsipipe.models.backbones.backbone import find_backbone
from wsipipe.models.backbones.weights import digest_of_weights, find_weights
from wsipipe.pipeline.demo.slides import write_aperio
from wsipipe.pipeline.results import Summary
from wsipipe.stages.predict.prediction_report import PredictionReportSettings, PredictionReportStage
from wsipipe.stages.predict.settings import PredictSettings
from wsipipe.stages.predict.stage import PredictionTask, PredictStage

OTHERS, NO_SLIDES = (("T0",), ("T1",), ("T2",)), ((), (), ())
WIDTH = 1280
"""Of efficientnet-lite0, which needs no network."""


@dataclass(frozen=True)
class Place:
    """A folder of slides and models, and a workspace with predictions."""

    folder: Path

    @property
    def workspace(self) -> Path:
        return self.folder / "work"

    def rows(self, level: str = "slide", name: str = "her2") -> dict[str, dict[str, str]]:
        """``predictions.csv``, by slide or patient."""
        with (self.workspace / "predictions" / name / "predictions.csv").open(newline="") as stream:
            return {row[f"{level}_id"]: row for row in csv.DictReader(stream) if row["level"] == level}

    def page(self, name: str = "her2") -> str:
        return (self.workspace / "predictions" / name / "report.html").read_text()


class Clinic(Place):
    """Slides that are tiled and extracted as they are predicted: all that a user's command does."""

    def slide(self, name: str, *, seed: int | None = None, mpp: float = 0.5) -> Path:
        """A slide of one tile; of the same seed (by default made from the name) slides have the same bytes."""
        path = self.folder / "slides" / f"{name}.svs"
        path.parent.mkdir(exist_ok=True)
        rng = np.random.default_rng([*name.encode()] if seed is None else seed)
        pixels = rng.normal((200, 110, 170), 30, size=(300, 300, 3)).clip(0, 255).astype(np.uint8)
        write_aperio(path, pixels, mpp=Mpp(mpp))
        return path

    def model(
        self,
        name: str = "her2",
        *,
        seen: Sequence[Sequence[str]] = OTHERS,
        slides: Sequence[Sequence[str]] = NO_SLIDES,
        seed: int = 0,
    ) -> Path:
        """Three folds.

        :param seen: names of patients, and digests of slides, that each was trained on.
        :param slides: ids of slides that each was trained on.
        """
        return model_at(self.folder / name, seen=seen, slides=slides, seed=seed, **_facts_of_the_backbone())

    def table(self, rows: Mapping[str, str], name: str = "new.csv") -> Path:
        """Slide → patient."""
        path = self.folder / name
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerows([("slide_id", "patient_id"), *rows.items()])
        return path

    def predict(self, *words: object, model: Path | None = None) -> Result:
        """`wsipipe predict`, of the model `her2` if no other is given."""
        where = ("--model", model or self.folder / "her2", "-w", self.workspace, "--device", "cpu")
        return wsipipe("predict", *words, *where)


class Archive(Place):
    """Slides that were tiled and extracted long ago: quicker where only the reading matters."""

    def slide(self, name: str, *, bytes_of: str = "") -> str:
        """A slide; it may be a copy of another."""
        planted = Planted(self.folder)
        bag = np.random.default_rng([*(bytes_of or name).encode()]).normal(size=(4, NARROW)).astype(np.float32)
        write_slide(planted, name, bag, bytes_of=bytes_of)
        planted.picture(name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (SIDE * TILE_PX, SIDE * TILE_PX), (200, 120, 160)).save(planted.picture(name))
        return name

    def model(self, *, seen: Sequence[Sequence[str]] = OTHERS, slides: Sequence[Sequence[str]] = NO_SLIDES) -> Path:
        """Three folds; as :meth:`Clinic.model`."""
        return model_at(self.folder / "her2", seen=seen, slides=slides)

    def predict(
        self, *slides: str, patients: Mapping[str, str] | None = None, other_patients: bool = False
    ) -> tuple[Summary, Summary]:
        """Predict these slides and write the tables.

        :param patients: slide → patient, as a table says.
        """
        named = patients or {}
        task = PredictionTask(
            model=self.folder / "her2",
            tiles=self.workspace / TILES,
            features=self.workspace / FEATURES,
            slides={slide: named.get(slide, slide) for slide in slides},
            further=named,
            unnamed=set(slides) - named.keys(),
        )
        folder, runner = self.workspace / "predictions/her2", Planted(self.folder).runner()
        settings = PredictSettings(device="cpu", other_patients=other_patients)
        report = PredictionReportStage(
            PredictionReportSettings(), folder, self.workspace, task, other_patients=other_patients
        )
        return runner.run(PredictStage(settings, folder, self.workspace, task)), runner.run(report)


@cache
def _facts_of_the_backbone() -> dict[str, Any]:
    backbone = find_backbone("efficientnet-lite0", None)
    weights = find_weights(backbone.name, backbone.hub_id, gated=backbone.gated, file=None).path
    return {"weights_digest": digest_of_weights(weights), "width": WIDTH, "pooling": backbone.pooling}


def digest(slide: Path) -> str:
    """What a slide is known by."""
    return slide_identity(slide)[1]
