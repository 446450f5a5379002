"""predict: a trained model reads slides, histology alone.

    slides/<slide>.json        what each fold says, which folds spoke, and why
    heatmaps/<slide>.png       where the model looked
    tiles/<slide>.png          the tiles it looked at most
    geojson/<slide>.geojson    every tile's attention and score, for QuPath

A fold that was trained or validated on a patient does not speak of that patient.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.special import expit

from ...data.artifact import whole
from ...data.errors import SlideError, UsageError
from ...data.features.store import Bag, read_bag
from ...data.manifest import Manifest
from ...data.slides.readers import open_slide
from ...data.tiling.overview import read_overview
from ...data.tiling.store import read_tile, read_tiles
from ...models.backbones.devices import choose_device
from ...models.bundle import Bundle, folds_of, read_bundle
from ..lineage import Lineage, model_record
from ..registry import VERSIONS
from ..stage import Input, Item, Outcome, OutputInput, Plan, Progress, Stage, ValueInput, upstream
from .heatmap import draw_heatmap, tile_scores_geojson, top_tiles_strip
from .settings import PredictSettings


class SlideOutput(BaseModel):
    """What is kept of a slide's prediction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slide_id: str
    patient_id: str
    logits: dict[int, float]
    """Fold → log-odds of positive, of the folds that spoke."""
    thresholds: dict[int, float]
    why: str
    tiles: int


@dataclass(frozen=True)
class _SlideToRead:
    slide_id: str
    patient_id: str
    path: Path
    mpp_override: float | None
    tiles: Path
    features: Path
    folds: tuple[int, ...]
    why: str


@dataclass(frozen=True, kw_only=True)
class PredictionTask:
    """What is asked: which model is to read which slides."""

    model: Path
    """The trained model's folder."""
    tiles: Path
    features: Path
    """Folders of the stages that made the slides' bags."""
    slides: Mapping[str, str]
    """Slide → patient, all that were asked for."""


class PredictStage(Stage[PredictSettings]):
    """Items are slides."""

    name = "predict"
    version = VERSIONS["predict"]

    def __init__(
        self,
        settings: PredictSettings,
        folder: Path,
        workspace: Path,
        task: PredictionTask,
    ) -> None:
        super().__init__(settings, folder, workspace)
        self.task = task

    def plan(self) -> Plan:
        bundles = folds_of(self.task.model)
        model = OutputInput(model_record(self.task.model, self.workspace))
        lineage, slides = Lineage(self.workspace), self.task.slides
        tiled = upstream(Manifest.of(self.task.tiles), "tile", self.workspace, only=slides, lineage=lineage)
        done = upstream(Manifest.of(self.task.features), "extract", self.workspace, only=tiled.records, lineage=lineage)
        doubt = lineage.doubt_of_model(self.task.model)
        items = []
        for slide_id, record in done.records.items():
            patient, tile = slides[slide_id], tiled.records[slide_id]
            unseen = tuple(f.fold for _, f in bundles if not f.saw(patient, tile.inputs["slide"].digest))
            payload = _SlideToRead(
                slide_id=slide_id,
                patient_id=patient,
                path=Path(tile.inputs["slide"].path or ""),
                mpp_override=tile.stats.get("mpp_override"),
                tiles=self.workspace / tile.outputs["tiles"].path,
                features=self.workspace / record.outputs["features"].path,
                folds=unseen,
                why=_why(unseen, len(bundles)),
            )
            inputs: dict[str, Input] = {
                "features": OutputInput(record.outputs["features"]),
                "model": model,
                "patient": ValueInput(patient),
            }
            items.append(Item(slide_id, inputs, payload))
        return Plan(items, notes=[*tiled.notes, *done.notes, *([doubt] if doubt else [])])

    def setup(self) -> None:
        device = choose_device(self.settings.device)
        self.bundles: dict[int, Bundle] = {
            facts.fold: read_bundle(path, device) for path, facts in folds_of(self.task.model)
        }

    def process(self, item: Item, progress: Progress) -> Outcome:
        slide: _SlideToRead = item.payload
        progress.say(slide.slide_id)
        if not slide.folds:
            raise UsageError(
                f"every fold of the model was trained on patient {slide.patient_id}",
                path=slide.slide_id,
                hint="a model says nothing honest of its own training patients",
            )
        bag = read_bag(slide.features)
        readings = {fold: self.bundles[fold].read(bag, slide.features) for fold in slide.folds}
        output = SlideOutput(
            slide_id=slide.slide_id,
            patient_id=slide.patient_id,
            logits={fold: reading.logit for fold, reading in readings.items()},
            thresholds={fold: self.bundles[fold].facts.threshold for fold in slide.folds},
            why=slide.why if not bag.facts.bad_tiles else f"{slide.why}; {_undecoded(len(bag.facts.bad_tiles))}",
            tiles=len(bag.coords),
        )
        attention = _mean(reading.attention for reading in readings.values())
        scores = _mean(reading.scores for reading in readings.values())
        return Outcome(
            outputs={
                "prediction": self._write(slide, output),
                "geojson": self._geojson(slide, bag, attention, scores),
                **self._pictures(slide, bag, attention, output),
            },
            stats={"tiles": len(bag.coords), "folds": len(readings)},
        )

    def _write(self, slide: _SlideToRead, output: SlideOutput) -> Path:
        path = self.folder / "slides" / f"{slide.slide_id}.json"
        with whole(path) as scratch:
            scratch.write_text(output.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return path

    def _geojson(
        self, slide: _SlideToRead, bag: Bag, attention: NDArray[np.float64], scores: NDArray[np.float64]
    ) -> Path:
        path = self.folder / "geojson" / f"{slide.slide_id}.geojson"
        with open_slide(slide.path, mpp_override=slide.mpp_override) as opened:
            origin = opened.origin
        measurements = {"attention": attention, "score": scores}
        text = tile_scores_geojson(bag.coords, bag.facts.tile_size_level0, measurements, origin=origin)
        with whole(path) as scratch:
            scratch.write_text(text, encoding="utf-8")
        return path

    def _pictures(
        self, slide: _SlideToRead, bag: Bag, attention: NDArray[np.float64], output: SlideOutput
    ) -> dict[str, Path]:
        probability = float(expit(np.mean(list(output.logits.values()))))
        caption = f"{slide.slide_id} · {self.task.model.name} {probability:.2f}"
        heatmap = self.folder / "heatmaps" / f"{slide.slide_id}.png"
        strip = self.folder / "tiles" / f"{slide.slide_id}.png"
        tiles = read_tiles(slide.tiles)
        with open_slide(slide.path, mpp_override=slide.mpp_override) as opened:
            overview = read_overview(opened)
            with whole(heatmap) as scratch:
                draw_heatmap(
                    overview.pixels,
                    overview.downsample,
                    bag.coords,
                    bag.facts.tile_size_level0,
                    attention,
                    scratch,
                    caption=caption,
                    mpp=opened.believed_mpp(),
                )
            top = np.argsort(-attention, kind="stable")[: self.settings.top_tiles]
            place = {(int(x), int(y)): index for index, (x, y) in enumerate(tiles.coords)}
            images = []
            for index in top:
                x, y = bag.coords[index]
                try:
                    images.append(read_tile(opened, tiles, place[int(x), int(y)]))
                except KeyError as error:
                    raise SlideError(
                        f"has no tile at x={x} y={y} any more", path=slide.tiles, hint="run wsipipe extract again"
                    ) from error
        if not images:
            return {"heatmap": heatmap}
        with whole(strip) as scratch:
            top_tiles_strip(
                images, [float(attention[i]) for i in top], scratch, caption=f"{caption} · most attended tiles"
            )
        return {"heatmap": heatmap, "top_tiles": strip}


def _mean(values: Iterable[NDArray[np.float32]]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = np.mean(np.stack(list(values)), axis=0, dtype=np.float64)
    return mean


def _undecoded(tiles: int) -> str:
    return f"{tiles} {'tile' if tiles == 1 else 'tiles'} could not be decoded"


def _why(unseen: tuple[int, ...], folds: int) -> str:
    if len(unseen) == folds:
        return "no fold was trained on this patient"
    return f"{folds - len(unseen)} of {folds} folds were trained or validated on this patient and do not speak"
