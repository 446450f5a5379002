"""What the whole chain will take: tiles, room on the disk, and hours.

Rates are those of this workspace's own records; where it has none, those that ``docs/benchmarks.md`` has measured,
which are named as such. What nobody has measured is not guessed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...data.allotment import usable_cores
from ...data.errors import WsipipeError
from ...data.manifest import Record
from ...models.backbones.registry import find_backbone
from ..config import Config
from ..doctor.finding import gigabytes
from ..doctor.room import bytes_a_tile, done_records
from ..doctor.scratch import existing
from .report import Report
from .slides import SlidesFound

_FLOAT_BYTES: Final = {"float16": 2, "float32": 4}
_MIB: Final = 2**20
_DOCS: Final = "docs/benchmarks.md"
KEPT: Final = (854 / 4270, 398 / 713)
"""Share of a slide's tiles that are tissue: the least and the most of three slides with tissue in the docs."""
TILING: Final = (0.20 / 4270, 0.45 / 285)
"""Seconds of one core for each tile that a slide has room for: the least and the most in the docs."""


@dataclass(frozen=True)
class Rate:
    """Tiles a second, from the lowest to the highest that was measured, and where."""

    low: float
    high: float
    where: str


EXTRACTION: Final = {
    ("efficientnet-lite0", "cpu"): Rate(141.5, 160.2, "two cores of an AMD EPYC"),
    ("uni", "cuda"): Rate(1713, 2494, "an NVIDIA H100"),
    ("uni2-h", "cuda"): Rate(903, 903, "an NVIDIA H100"),
}
"""Backbone and kind of device → the rate of extraction in the docs."""


def expect(config: Config, slides: SlidesFound, device: str, report: Report) -> None:
    """Add what tiles, disk and hours are to be expected.

    :param device: kind of device that extraction uses, such as ``cpu``, or ``cuda, NVIDIA H100``; empty if unknown.
    """
    free = os.statvfs(existing(str(config.workspace)))
    room = free.f_bavail * free.f_frsize
    if not slides.headers:
        report.fact("disk", f"{gigabytes(room)} free", free=room)
        return
    low, high, how = _tiles(slides)
    report.fact("tiles", f"{_range(low, high)} expected, {how}", tiles=[round(low), round(high)])
    features = config.workspace / "features" / config.features_name()
    extracted = done_records(features, "extract")
    left = max(
        0.0, 1 - len(extracted.keys() & slides.headers.keys()) / max(1, len(slides.slides) - len(slides.unusable))
    )
    a_tile, measured = _bytes_a_tile(config, extracted)
    needed = a_tile * high * left
    what = f"{gigabytes(room)} free" + (
        f"; features need {gigabytes(needed)} at most ({measured})" if needed > _MIB else ""
    )
    report.fact("disk", what, free=room, needed=round(needed))
    if needed > room:
        place = existing(str(config.workspace))
        report.stops("extract", f"{place}: {what}", "free some space, or choose another workspace")
    _hours(config, slides, device, (low * left, high * left), extracted, report)


def _tiles(slides: SlidesFound) -> tuple[float, float, str]:
    """The least and the most tiles that are expected of all slides, and how that is known."""
    counted = {slide: int(own["tiles"]) for slide, own in slides.headers.items() if "tiles" in own}
    grid = slides.grid_tiles
    rest = sum(tiles for slide, tiles in grid.items() if slide not in counted)
    there = sum(counted.values())
    of_unseen = slides.unseen * sum(grid.values()) / len(grid)
    if rest + of_unseen == 0:
        return there, there, "as tiled"
    room = sum(grid[slide] for slide in counted)
    if room:
        share = there / room
        low = high = there + share * (rest + of_unseen)
        how = f"if {share:.0%} of each slide is kept, as of the {len(counted):,} tiled here"
    else:
        low, high = (share * (rest + of_unseen) for share in KEPT)
        how = f"if {KEPT[0]:.0%} to {KEPT[1]:.0%} of each slide is tissue, as of those in {_DOCS}"
    return low, high, how


def _range(low: float, high: float) -> str:
    low_text, high_text = _rounded(low), _rounded(high)
    return low_text if low_text == high_text else f"{low_text} to {high_text}"


def _rounded(value: float) -> str:
    """A number with two digits that count."""
    digits = max(0, len(str(round(value))) - 2)
    return f"{round(value, -digits):,.0f}"


def _bytes_a_tile(config: Config, extracted: dict[str, Record]) -> tuple[float, str]:
    if measured := bytes_a_tile(extracted):
        return measured, "as measured here"
    try:
        width = find_backbone(config.extract.backbone, config.extract.pooling).width
    except WsipipeError:
        width = None
    return float(width or 0) * _FLOAT_BYTES[config.extract.store_dtype], f"{width} numbers a tile"


def _hours(
    config: Config,
    slides: SlidesFound,
    device: str,
    tiles: tuple[float, float],
    extracted: dict[str, Record],
    report: Report,
) -> None:
    parts: list[str] = []
    figures: dict[str, list[float]] = {}
    untiled = [tiles for slide, tiles in slides.grid_tiles.items() if "tiles" not in slides.headers[slide]]
    to_tile = sum(untiled) + slides.unseen * sum(slides.grid_tiles.values()) / len(slides.headers)
    if to_tile:
        low, high, how = _tiling(config, to_tile)
        figures["tile"] = [low, high]
        parts.append(f"tiling {_time(low, high)} ({how})")
    if tiles[1] >= 1:
        rate = _extraction(config, device, extracted)
        if rate is None:
            parts.append(
                f"extraction: nobody has measured {config.extract.backbone} on {device or 'this device'}; after its "
                "first slides this line says"
            )
        else:
            figures["extract"] = [tiles[0] / rate.high, tiles[1] / rate.low]
            parts.append(f"extraction {_time(*figures['extract'])} ({rate.where})")
    if config.biomarkers:
        folds = _records(config.workspace.glob("models/*"), "train")
        if folds:
            seconds = sum(record.seconds for record in folds) / len(folds) * config.split.folds * len(config.biomarkers)
            figures["train"] = [seconds, seconds]
            parts.append(f"training {_time(seconds, seconds)} ({len(folds)} folds were trained here)")
        else:
            parts.append("training: known after the first fold")
    if parts:
        report.fact("time", "; ".join(parts), seconds=figures)


def _tiling(config: Config, to_tile: float) -> tuple[float, float, str]:
    records = _records(config.workspace.glob("tiles/*"), "tile")
    room = sum(int(record.stats.get("grid_tiles", 0)) for record in records)
    if room:
        seconds = busy_seconds(records) / room * to_tile
        return seconds, seconds, "at the rate of this workspace"
    cores = config.tile.workers or usable_cores()
    low, high = (rate * to_tile / cores for rate in TILING)
    return low, high, f"{cores} cores at the rates of {_DOCS}"


def _extraction(config: Config, device: str, extracted: dict[str, Record]) -> Rate | None:
    """The rate at which tiles will be extracted."""
    records = [*extracted.values()] or _records(
        config.workspace.glob(f"features/*/{config.extract.folder_name()}"), "extract"
    )
    tiles, seconds = sum(int(record.stats.get("tiles", 0)) for record in records), busy_seconds(records)
    if tiles and seconds:
        rate = tiles / seconds
        return Rate(rate, rate, f"{rate:,.0f} tiles/s, measured in this workspace")
    known = EXTRACTION.get((config.extract.backbone, device.partition(",")[0]))
    if known is None:
        return None
    rates = f"{known.low:,.0f}" + (f" to {known.high:,.0f}" if known.high > known.low else "")
    return Rate(known.low, known.high, f"{rates} tiles/s on {known.where}, {_DOCS}")


def busy_seconds(records: Iterable[Record]) -> float:
    """Seconds in which at least one of the records' items was worked on; several at once count once."""
    spans = sorted((record.start.timestamp(), record.start.timestamp() + record.seconds) for record in records)
    total, until = 0.0, 0.0
    for begin, end in spans:
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def _time(low: float, high: float) -> str:
    """A time or a range of times in the unit that suits it, such as ``2.1 to 5.8 h``."""
    if high < 1:
        return "under a second"
    unit, name = (3600.0, "h") if high >= 5400 else (60.0, "min") if high >= 90 else (1.0, "s")
    low_text, high_text = f"{low / unit:.2g}", f"{high / unit:.2g}"
    if high / unit >= 100:
        low_text, high_text = f"{low / unit:,.0f}", f"{high / unit:,.0f}"
    return f"{high_text} {name}" if low_text == high_text else f"{low_text} to {high_text} {name}"


def _records(folders: Iterable[Path], stage: str) -> list[Record]:
    return [record for folder in folders if folder.is_dir() for record in done_records(folder, stage).values()]
