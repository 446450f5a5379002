"""What features still to be extracted will take on the disk, by what has been measured in the workspace."""

from __future__ import annotations

from pathlib import Path

from ...data.manifest import Manifest, Record
from .finding import gigabytes

_FLOAT16 = 2  # bytes, the default of extract


def need(workspace: Path, features: str, backbone: str) -> tuple[int, str]:
    """Bytes that the slides of a workspace still need, and how that is known; 0 and empty without tiles.

    :param features: name of the features' folder, such as ``0.5mpp-224px/uni2-h``.
    """
    tiles = features.partition("/")[0]
    tiled = done_records(workspace / "tiles" / tiles, "tile")
    if not tiled:
        return 0, ""
    extracted = done_records(workspace / "features" / features, "extract")
    number = {slide: int(record.stats.get("tiles", 0)) for slide, record in tiled.items()}
    left = {slide: count for slide, count in number.items() if slide not in extracted}
    a_tile, how = bytes_a_tile(extracted), "as measured"
    if not a_tile:
        a_tile, how = _expected(backbone), "by its width"
    if not a_tile:
        return 0, f"{len(tiled):,} slides are tiled; what features of {backbone} take is not known"
    a_slide = round(a_tile * sum(number.values()) / len(number) + _size(tiled) / len(tiled))
    wanted = round(a_tile * sum(left.values()))
    rest = f"the {len(left):,} that are not extracted need {gigabytes(wanted)}" if left else "all are extracted"
    text = (
        f"{len(tiled):,} slides are tiled, {rest}; 100 more would need {gigabytes(100 * a_slide)} ({backbone}, {how})"
    )
    return wanted, text


def done_records(folder: Path, stage: str) -> dict[str, Record]:
    """The records of what a stage has done in a folder, by item."""
    latest = Manifest.of(folder).latest(stage)
    return {item: record for item, record in latest.items() if record.status == "done"}


def _size(records: dict[str, Record]) -> int:
    return sum(output.bytes for record in records.values() for output in record.outputs.values())


def bytes_a_tile(extracted: dict[str, Record]) -> float:
    """Bytes on the disk for a tile's features, as recorded; 0 without any."""
    tiles = sum(int(record.stats.get("tiles", 0)) for record in extracted.values())
    return _size(extracted) / tiles if tiles else 0.0


def _expected(backbone: str) -> float:
    from ...models.backbones.backbone import registry

    entry = registry().get(backbone)
    return float(entry.width * _FLOAT16) if entry and entry.width else 0.0
