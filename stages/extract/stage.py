"""extract: turns tiles into feature vectors, in one zarr store per slide, finished with its last tile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import torch

from ...data.allotment import usable_cores
from ...data.artifact import stamp
from ...data.errors import SlideError, StoreError, SurroundingsError, UsageError, WsipipeError
from ...data.features.store import FeatureFacts, FeatureWriter, read_facts
from ...data.manifest import InputRecord, Json, Manifest, OutputRecord, Record
from ...data.slides.finding import slide_identity
from ...data.slides.readers import open_slide
from ...data.surroundings import patiently
from ...data.tiling.store import read_tiles
from ...data.version import __version__
from ...models.backbones.backbone import Embedder, find_backbone, load_embedder
from ...models.backbones.devices import choose_device, choose_devices
from ...models.backbones.weights import digest_of_weights, find_weights
from ..lineage import Lineage
from ..registry import VERSIONS
from ..stage import FileInput, Input, Item, Outcome, OutputInput, Plan, Progress, Stage, upstream
from .batch_memory import can_be_shared
from .decode_processes import prepare
from .feed import TileFeed
from .feed_batch import OpenBag
from .feed_report import FeedReport
from .settings import ExtractSettings


@dataclass(frozen=True)
class TiledSlide:
    """A slide's files and digests, as extraction needs them."""

    slide_id: str
    path: Path
    mpp_override: float | None
    tiles: Path
    tiles_digest: str
    slide_digest: str


class ExtractStage(Stage[ExtractSettings]):
    """The extract stage; its items are slides with tiles.

    :param tiles: the tile stage's folder.
    :param only: limit to these slides.
    """

    name = "extract"
    version = VERSIONS["extract"]
    unit = "tiles"
    distributes = True
    by_item = True

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
        self._digest_of_weights: Callable[[Path], str] = cache(digest_of_weights)  # reads gigabytes: once per run
        self._report: FeedReport | None = None
        self._weights_notes: list[str] = []

    @classmethod
    def made(cls, settings: ExtractSettings, workspace: Path, source: Path | None, **further: Any) -> Self:
        assert source is not None  # the registry's row says that it comes after tiles
        folder = workspace / "features" / source.name / settings.folder_name()
        return cls(settings, folder, workspace, tiles=source, **further)

    @property
    def sources(self) -> Sequence[Path]:
        return (self.tiles,)

    def plan(self) -> Plan:
        lineage = Lineage(self.workspace)
        tiled = upstream(Manifest.of(self.tiles), "tile", self.workspace, only=self.only, lineage=lineage)
        if not tiled.records and not tiled.notes:
            raise UsageError("no slide is tiled", path=self.tiles, hint="run wsipipe tile first")
        backbone = find_backbone(self.settings.backbone, self.settings.pooling)
        weights = find_weights(
            backbone.name, backbone.hub_id, gated=backbone.gated, file=self.settings.weights, hub_file=backbone.hub_file
        )
        weights_input = FileInput(weights.path.resolve(), self._digest_of_weights, is_setting=True)
        items = []
        changed = [slide_id for slide_id, standing in tiled.left_out.items() if "slide" in standing.changed]
        attempts = lineage.latest(self.tiles, "tile")
        rejected: dict[str, WsipipeError] = {
            slide_id: _changed(attempts[slide_id].inputs["slide"].path or slide_id) for slide_id in changed
        }
        for slide_id, record in tiled.records.items():
            slide, tiles = record.inputs["slide"], record.outputs["tiles"]
            path = Path(slide.path or "")
            try:
                _refuse_changed(path, slide)
            except (SlideError, SurroundingsError) as error:
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

    def resolved(self) -> Mapping[str, Json]:
        return self._resolved

    @cached_property
    def _resolved(self) -> dict[str, Json]:
        """The backbone's description, and the precision on the devices.

        :raises UsageError: devices of several kinds would compute slides of one cohort in different precisions.
        """
        settings = self.settings
        backbone = find_backbone(settings.backbone, settings.pooling)
        kinds = [device.strip().partition(":")[0] for device in settings.device.split(",")]
        kinds = [choose_device(kind).type if kind == "auto" else kind for kind in kinds]
        precisions = sorted({backbone.precision_on(kind, settings.precision) for kind in kinds})
        if len(precisions) > 1:
            what = f"--device {settings.device} would compute some slides in {' and others in '.join(precisions)}"
            raise UsageError(what, hint=f"choose one: --precision {precisions[0]} or --precision {precisions[1]}")
        card = backbone.model_dump(mode="json", include={"architecture", "arguments", "pooling"})
        card |= backbone.model_dump(mode="json", include={"head", "positions"}, exclude_defaults=True)
        return {"precision": precisions[0], **card, "transform": backbone.transform}

    def resolved_in(self, record: Record) -> Mapping[str, Json]:
        """Read the resolved settings of a record; those of older versions come from the feature store."""
        if (recorded := super().resolved_in(record)) or "features" not in record.outputs:
            return recorded or self._resolved
        try:
            facts = read_facts(self.workspace / record.outputs["features"].path)
        except StoreError:
            return self._resolved  # lost or damaged: reported when it is read
        names = ("precision", "architecture", "pooling", "transform")
        return self._resolved | {name: getattr(facts, name) for name in names}

    @property
    def devices(self) -> list[str]:
        return [str(device) for device in choose_devices(self.settings.device)]

    def on(self, device: str, of: int) -> Self:
        """Return a copy of the stage for one device, with its share of the cores."""
        stage = super().on(device, of)
        threads = self.settings.threads or max(usable_cores() // of, 1)
        stage.settings = stage.settings.model_copy(update={"threads": threads})
        stage._digest_of_weights = digest_of_weights  # the cached function cannot be sent to another process
        return stage

    def for_worker(self, device: str | None, cores: int) -> Self:
        stage = super().for_worker(device, cores)
        threads = self.settings.threads or max(
            1, cores - (device or "").startswith("cuda")
        )  # one for the other threads
        stage.settings = stage.settings.model_copy(update={"threads": threads})
        stage.only, stage._digest_of_weights = None, digest_of_weights
        return stage

    def setup(self) -> None:
        settings = self.settings
        device = choose_device(settings.device)
        if device.type == "cuda" and can_be_shared():
            prepare()
        backbone = find_backbone(settings.backbone, settings.pooling)
        self.embedder: Embedder = load_embedder(
            backbone,
            device=device,
            precision=settings.precision,
            file=settings.weights,
            compile=settings.compile,
        )
        weights = self.embedder.weights
        self._weights_notes = [f"{weights.path.name}: {note}" for note in weights.notes]
        self.weights_digest = self._digest_of_weights(self.embedder.weights.path.resolve())

    def stream(self, items: Iterable[Item], progress: Progress) -> Iterator[tuple[Item, Outcome | Exception]]:
        settings = self.settings
        feed = TileFeed(
            self.embedder,
            progress,
            batch_size=settings.batch_size,
            threads=settings.threads,
            timeout=settings.tile_timeout,
            profile=settings.profile,
        )
        for item, bag in feed.run(self._at_hand(items), self._open):
            yield item, bag if isinstance(bag, Exception) else self._finish(bag)
        self._report = feed.report

    def closing_notes(self) -> Sequence[str]:
        """List the bottleneck of the extraction and the adaptations of the weights, for the end of its summary."""
        return [*(self._report.sentences() if self._report else ()), *self._weights_notes]

    def slide_of(self, item: Item) -> Path:
        payload: TiledSlide = item.payload
        return payload.path

    def _at_hand(self, items: Iterable[Item]) -> Iterator[Item]:
        """Wait for the copy of each slide before it is opened, for which there is a time limit."""
        for item in items:
            with suppress(WsipipeError):  # raised again when it is opened
                self.at_hand(item.payload.path)
            yield item

    def _open(self, item: Item) -> OpenBag:
        payload: TiledSlide = item.payload
        settings = self.settings
        tiles = read_tiles(payload.tiles, digest=payload.tiles_digest)
        slide = open_slide(self.at_hand(payload.path), mpp_override=payload.mpp_override)
        try:
            sink = FeatureWriter(
                self._path_of(item), width=self.embedder.width, dtype=settings.store_dtype, most=len(tiles)
            )
        except BaseException:
            slide.close()
            raise
        return OpenBag(item, slide, tiles, sink, settings.max_bad_tiles)

    def _finish(self, bag: OpenBag) -> Outcome | Exception:
        """Finish the store of a slide whose tiles are all done."""
        bag.close()
        if bag.error is not None:
            bag.sink.discard()
            return bag.error
        bag.bad.sort()
        try:
            bag.sink.finish(self._facts(bag))
        except Exception as error:  # noqa: BLE001  fails this slide alone; the runner records it
            return error
        stats: dict[str, Json] = {
            "tiles": len(bag.tiles) - len(bag.bad),
            "bad_tiles": len(bag.bad),
            "width": self.embedder.width,
        }
        if self.embedder.weights.notes:
            stats["weights"] = list(self.embedder.weights.notes)
        notes = (
            [f"{bag.item.id}: {len(bag.bad)} of {len(bag.tiles)} tiles cannot be decoded, left out"] if bag.bad else []
        )
        return Outcome({"features": self._path_of(bag.item)}, stats, notes=notes)

    def _path_of(self, item: Item) -> Path:
        return self.folder / f"{item.id}.zarr"

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
            transform=backbone.transform,
            bad_tiles=[[int(v) for v in tiles.coords[index]] for index in bag.bad],
            versions={"wsipipe": __version__, "torch": torch.__version__, "timm": version("timm")},
        )


def _refuse_changed(path: Path, as_tiled: InputRecord) -> None:
    """Refuse a slide that has changed since it was tiled. A missing slide passes: its features may exist already.

    :raises SlideError: its bytes differ from those that were tiled.
    :raises SurroundingsError: it cannot be read to compare it.
    """
    tiled_stamp = as_tiled.bytes, as_tiled.mtime_ns
    if patiently(lambda: not path.exists() or stamp(path) == tiled_stamp, path):
        return
    if slide_identity(path)[1] != as_tiled.digest:
        raise _changed(path)


def _changed(path: Path | str) -> SlideError:
    return SlideError("has changed since it was tiled", path=path, hint="run wsipipe tile again")
