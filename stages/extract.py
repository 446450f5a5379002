"""extract: tiles become feature vectors, one zarr store a slide.

Threads decode tiles, a few batches ahead; batches of one constant shape run across slides, the tail padded, so that
at a given batch size a tile's features depend on that tile alone; a slide is written when its last tile is done.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .. import __version__
from ..data.errors import SlideError, UsageError
from ..data.features import FeatureFacts, write_features
from ..data.manifest import Manifest, OutputRecord
from ..data.readers import open_slide
from ..data.slide import Slide
from ..data.slides_on_disk import slide_identity
from ..data.tiles import TileSet, read_tile, read_tiles
from ..models.backbone import Embedder, find_backbone, load_embedder
from ..models.bag_tensors import choose_device
from ..models.weights import digest_of_weights, find_weights
from .settings import ExtractSettings
from .stage import FileInput, Input, Item, Outcome, OutputInput, Plan, Progress, Stage, upstream
from .versions import VERSIONS

_BATCH_SIZE = {"cpu": 8}
"""Where it is not given; 64 elsewhere. On a CPU the buffers of a larger batch no longer fit its caches."""
_BATCHES_AHEAD = 3
"""Decoded tiles wait in memory for so many batches at most."""


@dataclass(frozen=True)
class TiledSlide:
    """What extraction needs of a slide."""

    slide_id: str
    path: Path
    mpp_override: float | None
    tiles: Path
    tiles_digest: str
    slide_digest: str


@dataclass
class _OpenBag:
    """A slide in work."""

    item: Item
    slide: Slide
    tiles: TileSet
    features: NDArray[np.float32]
    left: int
    bad: list[int] = field(default_factory=list)
    error: Exception | None = None


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

    def plan(self) -> Plan:
        tiled = upstream(Manifest(self.tiles / "manifest.jsonl"), "tile", self.workspace, only=self.only)
        if not tiled.records and not tiled.notes:
            raise UsageError("no slide is tiled", path=self.tiles, hint="run wsipipe tile first")
        backbone = find_backbone(self.settings.backbone, self.settings.pooling)
        weights = find_weights(backbone.name, backbone.hub_id, gated=backbone.gated, file=self.settings.weights)
        weights_input = FileInput(weights.path.resolve(), cache(digest_of_weights), is_setting=True)
        items = []
        rejected = {}
        for slide_id, record in tiled.records.items():
            slide, tiles = record.inputs["slide"], record.outputs["tiles"]
            path = Path(slide.path or "")
            if path.exists() and slide_identity(path)[1] != slide.digest:
                rejected[slide_id] = SlideError(
                    "has changed since it was tiled", path=path, hint="run wsipipe tile again"
                )
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
        self.weights_digest = digest_of_weights(self.embedder.weights.path)

    def stream(self, items: Iterable[Item], progress: Progress) -> Iterator[tuple[Item, Outcome | Exception]]:
        threads = self.settings.threads or os.cpu_count() or 1
        pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        try:
            yield from _Feed(self, pool, progress).run(items)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def finish(self, bag: _OpenBag) -> Outcome | Exception:
        """Write a slide whose tiles are all done."""
        payload: TiledSlide = bag.item.payload
        bag.slide.close()
        if bag.error is not None:
            return bag.error
        tiles = bag.tiles
        good = np.setdiff1d(np.arange(len(tiles)), bag.bad)
        path = self.folder / f"{payload.slide_id}.zarr"
        try:
            write_features(
                path,
                bag.features[good],
                tiles.coords[good],
                self._facts(bag),
                dtype=self.settings.store_dtype,
            )
        except Exception as error:  # noqa: BLE001  fails this slide alone; the runner records it
            return error
        return Outcome(
            {"features": path}, {"tiles": len(good), "bad_tiles": len(bag.bad), "width": self.embedder.width}
        )

    def _facts(self, bag: _OpenBag) -> FeatureFacts:
        embedder, payload, tiles = self.embedder, bag.item.payload, bag.tiles
        backbone = embedder.backbone
        return FeatureFacts(
            slide_id=payload.slide_id,
            slide_digest=payload.slide_digest,
            tiles_digest=payload.tiles_digest,
            mpp=float(tiles.grid.mpp),
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


class _Feed:
    """Tiles of many slides, through the decoding threads, into batches, through the backbone, back to their slides."""

    def __init__(self, stage: ExtractStage, pool: ThreadPoolExecutor, progress: Progress) -> None:
        self.stage, self.pool, self.progress = stage, pool, progress
        self.embedder = stage.embedder
        self.batch_size = stage.settings.batch_size or _BATCH_SIZE.get(stage.embedder.device.type, 64)
        self.chunk = self.batch_size
        self.waiting: deque[tuple[_OpenBag, int, Future[NDArray[np.uint8]]]] = deque()
        self.places: list[tuple[_OpenBag, int]] = []
        self.batch: torch.Tensor | None = None

    def run(self, items: Iterable[Item]) -> Iterator[tuple[Item, Outcome | Exception]]:
        for item in items:
            try:
                bag = self._open(item)
            except Exception as error:  # noqa: BLE001  the boundary: a failed slide never stops the others
                self.progress.advance(item.size)
                yield item, error
                continue
            self.progress.say(item.id)
            for index in range(len(bag.tiles)):
                if bag.error is not None:  # nothing more of this slide is worth decoding
                    yield from self._tiles_done(bag, len(bag.tiles) - index)
                    break
                self.waiting.append((bag, index, self.pool.submit(read_tile, bag.slide, bag.tiles, index)))
                if len(self.waiting) >= _BATCHES_AHEAD * self.batch_size:
                    yield from self._take()
        while self.waiting:
            yield from self._take()
        yield from self._compute()

    def _open(self, item: Item) -> _OpenBag:
        payload: TiledSlide = item.payload
        tiles = read_tiles(payload.tiles)
        slide = open_slide(payload.path, mpp_override=payload.mpp_override)
        features = np.empty((len(tiles), self.embedder.width), np.float32)
        return _OpenBag(item, slide, tiles, features, left=len(tiles))

    def _take(self) -> Iterator[tuple[Item, Outcome | Exception]]:
        """Move the oldest tile into the batch; one that cannot be decoded is left out and counted, never replaced."""
        bag, index, future = self.waiting.popleft()
        try:
            pixels = future.result()
        except SlideError:
            bag.bad.append(index)
            bag.error = bag.error or self._too_many(bag)
            yield from self._tiles_done(bag)
            return
        except Exception as error:  # noqa: BLE001  the boundary: a failed slide never stops the others
            bag.error = bag.error or error
            yield from self._tiles_done(bag)
            return
        if self.batch is None:
            shape = (self.batch_size, *pixels.shape)
            self.batch = torch.zeros(shape, dtype=torch.uint8, pin_memory=self.embedder.device.type == "cuda")
        self.batch[len(self.places)] = torch.from_numpy(pixels)
        self.places.append((bag, index))
        if len(self.places) == self.batch_size:
            yield from self._compute()

    def _compute(self) -> Iterator[tuple[Item, Outcome | Exception]]:
        if self.batch is None or not self.places:
            return
        features = self._embed(self.batch)
        places, self.places = self.places, []
        for (bag, index), vector in zip(places, features, strict=False):
            bag.features[index] = vector
            yield from self._tiles_done(bag)

    def _embed(self, batch: torch.Tensor) -> NDArray[np.float32]:
        """Features of the whole batch, padding included; in smaller pieces where the GPU's memory does not suffice."""
        while True:
            try:
                parts = [self.embedder(batch[at : at + self.chunk]).cpu() for at in range(0, len(batch), self.chunk)]
                return torch.cat(parts).numpy()
            except torch.OutOfMemoryError:
                if self.chunk == 1:
                    raise
                self.chunk = (self.chunk + 1) // 2
                torch.cuda.empty_cache()
                self.progress.say(f"out of GPU memory: batches of {self.chunk} now")

    def _too_many(self, bag: _OpenBag) -> SlideError | None:
        allowed = self.stage.settings.max_bad_tiles
        if len(bag.bad) <= allowed * len(bag.tiles):
            return None
        x, y = bag.tiles.coords[bag.bad[0]]
        return SlideError(
            f"at least {len(bag.bad)} of {len(bag.tiles)} tiles cannot be decoded, over the {allowed:.1%} allowed; "
            f"the first at x={x} y={y}",
            path=bag.item.payload.path,
            hint="copy the slide again from where it came, or raise --max-bad-tiles to do without these tiles",
        )

    def _tiles_done(self, bag: _OpenBag, count: int = 1) -> Iterator[tuple[Item, Outcome | Exception]]:
        bag.left -= count
        self.progress.advance(count)
        if bag.left == 0:
            yield bag.item, self.stage.finish(bag)
