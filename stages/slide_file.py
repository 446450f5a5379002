"""A slide that was tiled: where its file lies, and its tiles, for stages that show pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..data.manifest import Record


@dataclass(frozen=True)
class SlideFile:
    """Where a slide lies, and its tiles."""

    path: Path
    mpp_override: float | None
    tiles: Path
    tiles_digest: str

    @classmethod
    def of(cls, tiled: Record, workspace: Path) -> Self:
        """The slide of a record of the tile stage."""
        return cls(
            path=Path(tiled.inputs["slide"].path or ""),
            mpp_override=tiled.stats.get("mpp_override"),
            tiles=workspace / tiled.outputs["tiles"].path,
            tiles_digest=tiled.outputs["tiles"].digest,
        )

    @property
    def is_there(self) -> bool:
        """Whether its file is at its place."""
        return self.path.is_file() or self.path.is_dir()
