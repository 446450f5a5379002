"""encode: makes one vector of each slide from the features of its tiles, in one small zarr store a slide.

slide_features/<tiles>/<encoder>-of-<backbone>/<slide>.zarr

A store is like those of ``extract``, with one row: what trains on bags of tiles trains on it as on a bag of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self

import torch

from ...data.errors import SlideError, UsageError, WsipipeError
from ...data.features.store import Bag, SlideEncoding, read_bag, write_features
from ...data.manifest import Json, Manifest
from ...data.version import __version__
from ...models.backbones.devices import choose_device, choose_devices
from ...models.backbones.weights import digest_of_weights
from ...models.slide_encoders.loading import EncoderChoice, LoadedEncoder
from ..features_folder import folder_of_vectors, holds_slide_vectors
from ..registry import VERSIONS
from ..stage import FileInput, Input, Item, Outcome, OutputInput, Plan, Progress, Stage, upstream
from .settings import EncodeSettings


@dataclass(frozen=True)
class SlideToEncode:
    """The store of a slide's tiles, and its digest."""

    store: Path
    digest: str


class EncodeStage(Stage[EncodeSettings]):
    """The encode stage; its items are slides with features.

    :param features: the folder of the tiles' features.
    :param only: limit to these slides.
    """

    name = "encode"
    version = VERSIONS["encode"]
    distributes = True
    by_item = True

    def __init__(
        self,
        settings: EncodeSettings,
        folder: Path,
        workspace: Path,
        *,
        features: Path,
        only: Iterable[str] | None = None,
    ) -> None:
        super().__init__(settings, folder, workspace)
        self.features = features
        self.only = None if only is None else frozenset(only)

    @classmethod
    def made(cls, settings: EncodeSettings, workspace: Path, source: Path | None, **further: Any) -> Self:
        assert source is not None  # the registry's row says that it comes after features
        if holds_slide_vectors(source):
            what = "holds slide vectors already, and an encoder reads tiles"
            raise UsageError(what, path=source, hint="--features names a folder of tiles' features")
        return cls(settings, folder_of_vectors(source, settings.encoder), workspace, features=source, **further)

    @property
    def sources(self) -> Sequence[Path]:
        return (self.features,)

    @cached_property
    def choice(self) -> EncoderChoice:
        """The encoder with its weights' file."""
        settings = self.settings
        return EncoderChoice.of(settings.encoder, weights=settings.weights, backbone=settings.weights_backbone)

    def plan(self) -> Plan:
        extracted = upstream(Manifest.of(self.features), "extract", self.workspace, only=self.only)
        if not extracted.records and not extracted.notes:
            raise UsageError("no slide has features", path=self.features, hint="run wsipipe extract first")
        choice, weights = self.choice, {}
        if choice.file is not None:
            weights["weights"] = FileInput(choice.file.resolve(), cache(digest_of_weights), is_setting=True)
        items = []
        rejected: dict[str, WsipipeError] = {}
        for slide_id, record in extracted.records.items():
            slide = record.inputs.get("slide")
            if choice.has_seen(slide_id, slide.digest if slide else None):
                what = "trained this encoder, so that its vector would know its label"
                rejected[slide_id] = SlideError(what, path=slide_id, hint="use weights of a training without it")
                continue
            output = record.outputs["features"]
            inputs: dict[str, Input] = {"features": OutputInput(output), **weights}
            items.append(Item(slide_id, inputs, SlideToEncode(self.workspace / output.path, output.digest)))
        return Plan(items, rejected, extracted.notes)

    def resolved(self) -> Mapping[str, Json]:
        """What decides the numbers beside weights and settings: the network."""
        return {"network": self.choice.card.network}

    @property
    def devices(self) -> Sequence[str]:
        return [str(device) for device in choose_devices(self.settings.device)]

    def setup(self) -> None:
        self.encoder: LoadedEncoder = self.choice.load(choose_device(self.settings.device))
        self.weights_digest = "" if self.choice.file is None else digest_of_weights(self.choice.file.resolve())
        self._mpps: set[float] = set()
        self._sides: set[int] = set()

    def process(self, item: Item, progress: Progress) -> Outcome:
        slide: SlideToEncode = item.payload
        progress.say(item.id)
        bag = read_bag(slide.store)
        vector = self.encoder.encode(bag, slide.store)
        facts = bag.facts.model_copy(
            update={
                "width": len(vector),
                "versions": bag.facts.versions | {"wsipipe": __version__, "torch": torch.__version__},
                "encoding": SlideEncoding(
                    encoder=self.settings.encoder,
                    weights_digest=self.weights_digest,
                    tile_width=bag.facts.width,
                    tiles=len(bag.features),
                    features_digest=slide.digest,
                ),
            }
        )
        self._mpps.add(round(facts.mpp, 2))
        self._sides.add(facts.tile_px)
        path = self.folder / f"{item.id}.zarr"
        write_features(path, vector[None], bag.coords.min(axis=0)[None], facts, dtype="float32")
        return Outcome({"features": path}, {"tiles": len(bag.features), "width": len(vector), **_bad_tiles(bag)})

    def closing_notes(self) -> Sequence[str]:
        """Say whether the tiles are others than those that the encoder was trained on."""
        note = self.choice.other_tiles(self._mpps, self._sides) if hasattr(self, "_mpps") else ""
        return [note] if note else []


def _bad_tiles(bag: Bag) -> dict[str, Json]:
    """The number of tiles that could not be decoded, if there are some."""
    return {"bad_tiles": len(bag.facts.bad_tiles)} if bag.facts.bad_tiles else {}
