"""import: features that TRIDENT or CLAM has extracted become stores of ours, one a slide, without extracting again.

They belong to tiles: those that ``wsipipe tile --coordinates`` has taken over from the same program. What is recorded
is an extraction, so that all that follows takes imported features as it takes our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ...data.errors import BackboneError, SlideError, StoreError, UsageError
from ...data.features.store import write_features
from ...data.interop.imported_features import (
    ForeignFeatures,
    find_foreign_features,
    imported_facts,
    read_foreign_features,
)
from ...data.manifest import Manifest
from ...data.tiling.store import TileSet, read_tiles
from ...models.backbones.backbone import Backbone, Pooling, backbone_called, find_backbone, same_name
from ...models.backbones.weights import digest_of_weights
from ..extract.settings import ExtractSettings
from ..registry import VERSIONS
from ..stage import FileInput, Input, Item, Outcome, OutputInput, Plan, Progress, Stage, upstream


@dataclass(frozen=True, kw_only=True)
class SlideToImport:
    """What importing needs of a slide."""

    slide_id: str
    slide_digest: str
    tiles: Path
    tiles_digest: str
    features: Path
    overruled: bool
    """Whether the slide was tiled at a resolution that the user had said against its file."""


class ImportStage(Stage[ExtractSettings]):
    """Items are slides with tiles.

    :param tiles: the tile stage's folder.
    :param source: the other program's features: a folder of ``<slide>.h5``, or one that holds ``h5_files/``.
    """

    name = "extract"
    version = VERSIONS["extract"]
    unit = "tiles"

    def __init__(self, settings: ExtractSettings, folder: Path, workspace: Path, *, tiles: Path, source: Path) -> None:
        super().__init__(settings, folder, workspace)
        self.tiles, self.source = tiles, source
        self._digest_of_weights = cache(digest_of_weights)
        self._card = cache(self._find_card)

    @property
    def sources(self) -> Sequence[Path]:
        return (self.tiles,)

    def plan(self) -> Plan:
        tiled = upstream(Manifest.of(self.tiles), "tile", self.workspace)
        if not tiled.records:
            hint = "take over their tiles first: wsipipe tile SLIDES --coordinates FOLDER"
            raise UsageError("no slide is tiled", path=self.tiles, hint=hint)
        if not self.source.is_dir():
            raise UsageError(
                "no such folder of features", path=self.source, hint="give the folder that holds <slide>.h5"
            )
        items, rejected = [], {}
        for slide_id, record in tiled.records.items():
            try:
                file = find_foreign_features(self.source, slide_id)
            except SlideError as error:
                rejected[slide_id] = error
                continue
            tiles = record.outputs["tiles"]
            payload = SlideToImport(
                slide_id=slide_id,
                slide_digest=record.inputs["slide"].digest,
                tiles=self.workspace / tiles.path,
                tiles_digest=tiles.digest,
                features=file,
                overruled="overrule_mpp" in record.inputs,
            )
            inputs: dict[str, Input] = {"tiles": OutputInput(tiles), "features": FileInput(file.resolve())}
            if self.settings.weights is not None:
                inputs["weights"] = FileInput(self.settings.weights.resolve(), self._digest_of_weights, is_setting=True)
            items.append(Item(slide_id, inputs, payload, size=int(record.stats["tiles"])))
        return Plan(items, rejected, tiled.notes)

    def process(self, item: Item, progress: Progress) -> Outcome:
        task: SlideToImport = item.payload
        settings = self.settings
        tiles = read_tiles(task.tiles, digest=task.tiles_digest)
        foreign = read_foreign_features(task.features)
        self._refuse_other_backbone(foreign)
        rows = _rows(foreign, tiles)
        without = rows < 0
        if without.mean() > settings.max_bad_tiles:
            raise StoreError(
                f"it has features of {int((~without).sum())} of the {len(tiles)} tiles of {task.slide_id}",
                path=task.features,
                hint="tile the slide with the --coordinates that these features were made from",
            )
        pooling: Pooling | None = settings.pooling
        if settings.weights is not None:  # whose weights it was is known, and so is how its tokens became one vector
            pooling = find_backbone(settings.backbone, settings.pooling).pooling
        facts = imported_facts(
            foreign,
            slide_id=task.slide_id,
            backbone=settings.backbone,
            slide_mpp=tiles.slide_mpp,
            mpp=tiles.grid.tile_mpp,
            tile_px=tiles.grid.tile_px,
            slide_digest=task.slide_digest,
            weights_digest=self._digest_of_weights(settings.weights) if settings.weights else None,
            pooling=pooling,
            overruled=task.overruled,
        )
        bad = [[int(value) for value in at] for at in tiles.coords[without]]
        path = self.folder / f"{item.id}.zarr"
        write_features(
            path,
            foreign.features[rows[~without]],
            tiles.coords[~without],
            facts.model_copy(update={"tiles_digest": task.tiles_digest, "bad_tiles": bad}),
            dtype=settings.store_dtype,
        )
        progress.advance(item.size)
        return Outcome(
            {"features": path},
            {
                "tiles": int((~without).sum()),
                "bad_tiles": len(bad),
                "width": facts.width,
                "not_ours": len(foreign.coords) - int((~without).sum()),
            },
        )

    def _refuse_other_backbone(self, foreign: ForeignFeatures) -> None:
        """Hold what the file says, and how wide its features are, against the backbone that they are said to be of.

        :raises StoreError: they are of another one.
        """
        name, encoder = self.settings.backbone, foreign.encoder
        card, widths = self._card(name)
        if encoder is not None and not (card.is_called(encoder) if card else same_name(name, encoder)):
            known = backbone_called(encoder)
            raise StoreError(
                f"its features are of the encoder {encoder}, not of {name}",
                path=foreign.path,
                hint=f"give --backbone {known.name if known else encoder}, and its own --weights if any",
            )
        width = foreign.features.shape[1]
        if widths and width not in widths:
            wide = " or ".join(map(str, sorted(widths)))
            pooling = "" if self.settings.pooling is None else f" with --pooling {self.settings.pooling}"
            raise StoreError(
                f"its features are {width} wide, and those of {name}{pooling} are {wide}",
                path=foreign.path,
                hint="give the --backbone (and --pooling) that they were extracted with",
            )

    def _find_card(self, name: str) -> tuple[Backbone | None, frozenset[int]]:
        """What is known of a backbone, and how wide its features can be. That nobody here knows it is a fault only if
        weights are given for it."""
        try:
            card = find_backbone(name, self.settings.pooling)
        except BackboneError:
            if self.settings.weights is not None:
                raise
            return None, frozenset()
        return card, card.widths()


def _rows(foreign: ForeignFeatures, tiles: TileSet) -> np.ndarray:
    """For each tile of ours its row in the foreign file, (N,), or -1."""
    place = {(int(x), int(y)): row for row, (x, y) in enumerate(foreign.coords)}
    return np.array([place.get((int(x), int(y)), -1) for x, y in tiles.coords], np.int64)
