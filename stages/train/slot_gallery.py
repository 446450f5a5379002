"""slot_gallery: a page of what each slot of a model's memory has learnt to recognise.

    slots.html    for each fold and slot its nearest tiles in the test slides, its use, attention and weight
    slots.json    those of a few slots, for the report
    slots.csv     where the tiles lie, for the viewer and other programs

The slides are those that the fold was not trained on. Tiles are read from the slides' own files; slides that are not
there count for the slots' use and show no tiles, and if none is there, there is no page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from ...data.artifact import remove, whole
from ...data.errors import SlideError, StoreError, SurroundingsError
from ...data.features.store import Bag, read_bag
from ...data.manifest import Manifest
from ...data.slides.readers import open_slide
from ...data.tiling.store import read_tile, read_tiles
from ...data.wording import some
from ...models.backbones.devices import choose_devices
from ...models.bundle import Bundle, read_bundle
from ...models.mil.bag_tensors import BagBatch, bag_tensors
from ..lineage import Lineage
from ..pages.sheet import Rgb
from ..pages.slot_page import FoldSlots, ReportedSlots, ShownSlot, ShownTile, slots_page
from ..pages.slot_table import GALLERY, write_gallery
from ..registry import VERSIONS
from ..settings import Runtime, Settings
from ..slide_file import SlideFile
from ..stage import Input, Item, Outcome, OutputInput, Plan, Progress, Stage, ValueInput, upstream
from .split import features_of, split_output

TILES_A_SLOT: Final = 6
TILES_OF_A_SLIDE: Final = 2
"""At most so many tiles of one slide are shown of a slot."""

Floats = NDArray[np.float64]


class SlotGallerySettings(Settings):
    """Settings of the gallery of memory slots."""

    device: str = Runtime("auto")


@dataclass(frozen=True)
class _Fold:
    fold: int
    bundle: Path
    stores: Mapping[str, Path]
    """Slide → its features, of the fold's test slides."""
    files: Mapping[str, SlideFile]
    """Slide → its file, of those that are there."""


@dataclass(frozen=True)
class _Candidate:
    nearness: float
    slide: str
    place: tuple[int, int]
    side: float


class SlotGalleryStage(Stage[SlotGallerySettings]):
    """The gallery; its single item is ``slots.html``.

    :param features: folder of the stage whose slides are used.
    :param has_slots: whether the method has a memory; without one, the gallery of an earlier method is removed.
    """

    name = "slot_gallery"
    version = VERSIONS["slot_gallery"]
    items = "pages"

    def __init__(
        self, settings: SlotGallerySettings, folder: Path, workspace: Path, *, features: Path, has_slots: bool = True
    ) -> None:
        super().__init__(settings, folder, workspace)
        self.features, self.has_slots = features, has_slots

    def plan(self) -> Plan:
        if not self.has_slots:
            earlier = self.manifest.latest(self.name).get(GALLERY)
            gone = earlier is None or not earlier.outputs
            return Plan([] if gone else [Item(GALLERY, {"slots": ValueInput(None)}, None)])
        split = split_output(self.manifest, self.workspace)
        lineage = Lineage(self.workspace)
        trained = upstream(self.manifest, "train", self.workspace, lineage=lineage).records
        if any(f"fold-{fold}" not in trained for fold in range(split.splits.folds)):
            return Plan([])  # cross_validate says which are missing
        stores = features_of(split.slides, self.features, self.workspace)
        tiles = Manifest.of(self.workspace / "tiles" / self.features.parent.name)
        tiled = upstream(tiles, "tile", self.workspace, only=stores, lineage=lineage).records
        files = {slide: SlideFile.of(tiled[slide], self.workspace) for slide in stores if slide in tiled}
        there = {slide: file for slide, file in files.items() if file.is_there}
        away = sorted(stores.keys() - there.keys())
        if not there:
            return Plan([], notes=["no gallery of memory slots: the slides' files are not there"])
        inputs: dict[str, Input] = {"splits": OutputInput(split.record), "there": ValueInput(sorted(there))}
        folds = []
        for fold in range(split.splits.folds):
            bundle = trained[f"fold-{fold}"].outputs["bundle"]
            inputs[f"fold-{fold}"] = OutputInput(bundle)
            own = [slide for _, slides in split.part(fold, "test").values() for slide in slides]
            folds.append(
                _Fold(
                    fold,
                    self.workspace / bundle.path,
                    {slide: self.workspace / stores[slide].path for slide in own},
                    {slide: there[slide] for slide in own if slide in there},
                )
            )
        inputs |= {f"features of {slide}": OutputInput(store) for slide, store in stores.items()}
        notes = [f"not there, and without tiles in the gallery: {some(away, 3)}"] if away else []
        return Plan([Item(GALLERY, inputs, folds)], notes=notes)

    def process(self, item: Item, progress: Progress) -> Outcome:
        if item.payload is None:
            for name in ("slots.html", "slots.json", "slots.csv"):
                remove(self.folder / name)
            return Outcome(status="empty")
        folds: Sequence[_Fold] = item.payload
        shown, unreadable = [], 0
        for fold in folds:
            progress.say(f"fold {fold.fold}")
            of_fold, missing = self._of_fold(fold)
            shown.append(of_fold)
            unreadable += missing
        page, reported, table = (self.folder / f"slots.{kind}" for kind in ("html", "json", "csv"))
        with whole(page) as scratch:
            scratch.write_text(slots_page(self.folder.name, shown), encoding="utf-8")
        with whole(reported) as scratch:
            scratch.write_text(ReportedSlots.of(shown).model_dump_json(indent=1) + "\n", encoding="utf-8")
        write_gallery(table, shown)
        notes = [f"{unreadable} tiles of the gallery could not be read"] if unreadable else []
        outputs = {"page": page, "reported": reported, "tiles": table}
        return Outcome(outputs, {"folds": len(shown), "unread_tiles": unreadable}, notes=notes)

    def _of_fold(self, fold: _Fold) -> tuple[FoldSlots, int]:
        """The slots of one fold with their tiles, and how many tiles could not be read."""
        bundle = read_bundle(fold.bundle, choose_devices(self.settings.device)[0])
        slots = bundle.network.slots_shown
        assert slots is not None  # asked only of networks with a memory
        counts, attention = np.zeros(len(slots.names)), np.zeros(len(slots.names))
        candidates: list[list[_Candidate]] = [[] for _ in slots.names]
        tile_um = 0.0
        for slide, store in fold.stores.items():
            bag = read_bag(store)
            tile_um = bag.facts.mpp * bag.facts.tile_px
            near, weights = _nearness(bundle, bag, store)
            nearest = near.argmax(axis=1)
            counts += np.bincount(nearest, minlength=len(counts))
            attention += np.bincount(nearest, weights, minlength=len(counts))
            if slide in fold.files:
                for slot, column in enumerate(near.T):
                    own = np.flatnonzero(nearest == slot)
                    for tile in own[np.argsort(-column[own], kind="stable")][:TILES_OF_A_SLIDE].tolist():
                        x, y = map(int, bag.coords[tile])
                        side = bag.facts.tile_size_level0
                        candidates[slot].append(_Candidate(float(column[tile]), slide, (x, y), side))
        chosen = [sorted(of_slot, key=lambda one: (-one.nearness, one.slide))[:TILES_A_SLOT] for of_slot in candidates]
        pixels = _pixels(fold.files, {(one.slide, one.place) for own in chosen for one in own})
        shown = [
            ShownSlot(
                name=name,
                use=float(counts[k] / counts.sum()),
                attention=float(attention[k] / len(fold.stores)),
                weight=slots.weights[k] if slots.weights else None,
                tiles=tuple(
                    ShownTile.of(one.slide, one.place, one.side, one.nearness, pixels[one.slide, one.place])
                    for one in chosen[k]
                    if (one.slide, one.place) in pixels
                ),
            )
            for k, name in enumerate(slots.names)
        ]
        missing = len({(one.slide, one.place) for own in chosen for one in own} - pixels.keys())
        about = {"slides": len(fold.stores), "tiles": int(counts.sum())}
        return FoldSlots(fold=fold.fold, tile_um=tile_um, **about, slots=tuple(shown)), missing


def _nearness(bundle: Bundle, bag: Bag, store: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How near each tile is to each slot (N, slots), and its attention (N,).

    :raises BundleError: the features are not what the model was trained on.
    """
    bundle.facts.recipe.refuse_other(bag.facts, store)
    bags = BagBatch.of([bag_tensors(bag, bundle.facts.recipe.neighbours)], bundle.network.device)
    with torch.inference_mode():
        near, attention = bundle.network.nearness_to_slots(bags), bundle.network(bags).attention
    return near.float().cpu().numpy(), attention.float().cpu().numpy()


def _pixels(
    files: Mapping[str, SlideFile], wanted: set[tuple[str, tuple[int, int]]]
) -> dict[tuple[str, tuple[int, int]], Rgb]:
    """Read tiles, each slide opened once; those that cannot be read are left out."""
    found: dict[tuple[str, tuple[int, int]], Rgb] = {}
    for slide in sorted({slide for slide, _ in wanted}):
        file = files[slide]
        try:
            tiles = read_tiles(file.tiles, digest=file.tiles_digest)
            index = {(int(x), int(y)): number for number, (x, y) in enumerate(tiles.coords)}
            with open_slide(file.path, mpp_override=file.mpp_override) as opened:
                for place in sorted(place for own, place in wanted if own == slide and place in index):
                    found[slide, place] = read_tile(opened, tiles, index[place])
        except (SlideError, StoreError, SurroundingsError):  # counted and said; the other slides' tiles are shown
            continue
    return found
