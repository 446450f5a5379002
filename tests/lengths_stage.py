"""A stage as somebody would add one: this file, and a row in the table of stages (``test_registry.py`` adds it)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field
from wsipipe.data.artifact import whole
from wsipipe.data.manifest import Manifest
from wsipipe.stages.settings import Settings
from wsipipe.stages.stage import Item, Outcome, OutputInput, Plan, Progress, Stage, upstream


class LengthsSettings(Settings):
    """Count the tiles of each slide."""

    factor: int = Field(1, ge=1, description="what counts are multiplied by")


class LengthsStage(Stage[LengthsSettings]):
    """Items are tiled slides."""

    name = "lengths"
    version = 1

    @classmethod
    def made(cls, settings: LengthsSettings, workspace: Path, source: Path | None, **further: Any) -> Self:
        assert source is not None
        stage = cls(settings, workspace / "lengths" / source.name, workspace)
        stage.tiles = source
        return stage

    tiles: Path

    def plan(self) -> Plan:
        tiled = upstream(Manifest.of(self.tiles), "tile", self.workspace)
        return Plan(
            [Item(i, {"tiles": OutputInput(r.outputs["tiles"])}, r.stats["tiles"]) for i, r in tiled.records.items()]
        )

    def process(self, item: Item, progress: Progress) -> Outcome:
        path = self.folder / f"{item.id}.txt"
        with whole(path) as scratch:
            scratch.write_text(str(item.payload * self.settings.factor))
        return Outcome({"length": path})
