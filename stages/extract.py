"""extract: tiles become feature vectors, one zarr store a slide, written when its last tile is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from .. import __version__
from ..data.artifact import stamp
from ..data.errors import SlideError, UsageError
from ..data.features import FeatureFacts, write_features
from ..data.manifest import InputRecord, Manifest, OutputRecord
from ..data.readers import open_slide
from ..data.slides_on_disk import slide_identity
from ..data.tiles import read_tiles
from ..models.backbone import Embedder, find_backbone, load_embedder
from ..models.bag_tensors import choose_device
from ..models.weights import digest_of_weights, find_weights
from .feed import OpenBag, TileFeed
from .settings import ExtractSettings
from .stage import FileInput, Input, Item, Outcome, OutputInput, Plan, Progress, Stage, upstream
from .versions import VERSIONS


@dataclass(frozen=True)
class TiledSlide:
    """What extraction needs of a slide."""

    slide_id: str
    path: Path
    mpp_override: float | None
    tiles: Path
    tiles_digest: str
    slide_digest: str


class ExtractStage(Stage[ExtractSettings]):
    """Items are slides with tiles.

    :param tiles: the tile stage's folder.
    :param only: keep to these slides.
    """

    name = "extract"
    version = VERSIONS["extract"]
    unit = "tiles"

    def __init__(
        self,
        settings: ExtractSettings,
        folder: Path,
        workspace: Path,
        *,
        tiles: Path,
        only: Iterable[str] | None = None,
    ) -> None:
        super().__init__(settings, folder, workspace)
        self.tiles = tiles
        self.only = None if only is None else frozenset(only)
        self._digest_of_weights = cache(digest_of_weights)  # of gigabytes: once a run

    def plan(self) -> Plan:
        tiled = upstream(Manifest.of(self.tiles), "tile", self.workspace, only=self.only)
        if not tiled.records and not tiled.notes:
            raise UsageError("no slide is tiled", path=self.tiles, hint="run wsipipe tile first")
        backbone = find_backbone(self.settings.backbone, self.settings.pooling)
        weights = find_weights(backbone.name, backbone.hub_id, gated=backbone.gated, file=self.settings.weights)
        weights_input = FileInput(weights.path.resolve(), self._digest_of_weights, is_setting=True)
        items = []
        rejected = {}
        for slide_id, record in tiled.records.items():
            slide, tiles = record.inputs["slide"], record.outputs["tiles"]
            path = Path(slide.path or "")
            try:
                _refuse_changed(path, slide)
            except SlideError as error:
                rejected[slide_id] = error
                continue
            payload = TiledSlide(
                slide_id=slide_id,
                path=path,
                mpp_override=record.stats.get("mpp_override"),
                tiles=self.workspace / tiles.path,
                tiles_digest=tiles.digest,
                slide_digest=slide.digest,
            )
            inputs: dict[str, Input] = {
                "slide": OutputInput(OutputRecord(path=str(path), bytes=slide.bytes or 0, digest=slide.digest)),
                "tiles": OutputInput(tiles),
                "weights": weights_input,
            }
            items.append(Item(slide_id, inputs, payload, size=int(record.stats["tiles"])))
        return Plan(items, rejected, tiled.notes)

    def setup(self) -> None:
        settings = self.settings
        device = choose_device(settings.device)
        backbone = find_backbone(settings.backbone, settings.pooling)
        self.embedder: Embedder = load_embedder(
            backbone, device=device, precision=settings.precision, file=settings.weights
        )
        self.weights_digest = self._digest_of_weights(self.embedder.weights.path.resolve())

    def stream(self, items: Iterable[Item], progress: Progress) -> Iterator[tuple[Item, Outcome | Exception]]:
        settings = self.settings
        feed = TileFeed(
            self.embedder,
            progress,
            batch_size=settings.batch_size,
            threads=settings.threads,
            max_bad_tiles=settings.max_bad_tiles,
        )
        for item, bag in feed.run(items, self._open):
            yield item, bag if isinstance(bag, Exception) else self._finish(bag)

    def _open(self, item: Item) -> OpenBag:
        payload: TiledSlide = item.payload
        tiles = read_tiles(payload.tiles)
        slide = open_slide(payload.path, mpp_override=payload.mpp_override)
        features = np.empty((len(tiles), self.embedder.width), np.float32)
        return OpenBag(item, slide, tiles, features, left=len(tiles))

    def _finish(self, bag: OpenBag) -> Outcome | Exception:
        """Write a slide whose tiles are all done."""
        bag.slide.close()
        if bag.error is not None:
            return bag.error
        good = np.setdiff1d(np.arange(len(bag.tiles)), bag.bad)
        path = self.folder / f"{bag.item.id}.zarr"
        try:
            write_features(
                path, bag.features[good], bag.tiles.coords[good], self._facts(bag), dtype=self.settings.store_dtype
            )
        except Exception as error:  # noqa: BLE001  fails this slide alone; the runner records it
            return error
        return Outcome(
            {"features": path}, {"tiles": len(good), "bad_tiles": len(bag.bad), "width": self.embedder.width}
        )

    def _facts(self, bag: OpenBag) -> FeatureFacts:
        embedder, payload, tiles = self.embedder, bag.item.payload, bag.tiles
        backbone = embedder.backbone
        return FeatureFacts(
            slide_id=payload.slide_id,
            slide_digest=payload.slide_digest,
            tiles_digest=payload.tiles_digest,
            mpp=float(tiles.grid.tile_mpp),
            tile_px=int(tiles.grid.tile_px),
            tile_size_level0=float(tiles.grid.size_level0),
            backbone=backbone.name,
            architecture=backbone.architecture,
            pooling=backbone.pooling,
            width=embedder.width,
            weights_digest=self.weights_digest,
            precision=embedder.precision,
            transform=backbone.model_dump(mode="json", include={"resize", "crop", "interpolation", "mean", "std"}),
            bad_tiles=[[int(v) for v in tiles.coords[index]] for index in bag.bad],
            versions={"wsipipe": __version__, "torch": torch.__version__, "timm": version("timm")},
        )


def _refuse_changed(path: Path, as_tiled: InputRecord) -> None:
    """Keep tiles of one slide from being read off another. A slide that is gone is no matter if its features are there.

    :raises SlideError: its bytes are others than when it was tiled; or it cannot be read to tell.
    """
    if not path.exists() or stamp(path) == (as_tiled.bytes, as_tiled.mtime_ns):
        return
    if slide_identity(path)[1] != as_tiled.digest:
        raise SlideError("has changed since it was tiled", path=path, hint="run wsipipe tile again")
