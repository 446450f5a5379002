"""import: slide vectors that TRIDENT, STAMP or slide2vec has made become stores of ours, one a slide.

slide_features/<tiles>/<encoder>-imported-of-<backbone>/<slide>.zarr

Neither slides nor tiles need to be here: what the file and the settings say of them stands in the store and in the
record. What is recorded is an encoding, so that what follows takes imported vectors as it takes our own.
"""

from __future__ import annotations

from pathlib import Path
from unicodedata import normalize

import numpy as np
from pydantic import Field

from ...data.artifact import digest_of_value
from ...data.errors import StoreError, WsipipeError
from ...data.features.store import write_features
from ...data.interop.slide_vectors import ForeignVector, find_vectors, slide_stands_for, vector_facts
from ...data.interop.trident import not_its_magnification
from ...data.units import same_mpp
from ...data.wording import some
from ...models.backbones.backbone import same_backbone, same_name
from ...models.slide_encoders.registry import encoder_called
from ..encode.settings import ENCODER_NAME
from ..registry import VERSIONS
from ..settings import Settings
from ..slide_records import VECTOR
from ..stage import FileInput, Input, Item, Outcome, Plan, Progress, Stage, ValueInput
from .slide2vec import metadata_of, read_vector


class ImportVectorsSettings(Settings):
    """What imported vectors are; what a file says of it must agree."""

    encoder: str = Field(pattern=ENCODER_NAME, description="the slide encoder that made them")
    backbone: str = Field(description="the tiles' backbone: a name from `wsipipe backbones`")
    mpp: float = Field(gt=0, description="µm per pixel of the tiles")
    tile_px: int = Field(gt=0, description="side of a tile in pixels")


class ImportVectorsStage(Stage[ImportVectorsSettings]):
    """Items are the slides that have a file.

    :param source: the folder of the other program's vectors.
    """

    name = "encode"
    version = VERSIONS["encode"]

    def __init__(self, settings: ImportVectorsSettings, folder: Path, workspace: Path, *, source: Path) -> None:
        super().__init__(settings, folder, workspace)
        self.source = source
        self.card = encoder_called(settings.encoder)

    def plan(self) -> Plan:
        found = find_vectors(self.source)
        items = []
        for slide_id, file in found.of_slides.items():
            inputs: dict[str, Input] = {
                "slide": ValueInput(slide_stands_for(slide_id)),
                "vector": FileInput(file.resolve()),
            }
            if file.suffix.lower() == ".pt":
                inputs |= {f"metadata {n}": FileInput(m.resolve()) for n, m in enumerate(metadata_of(file), 1)}
            items.append(Item(slide_id, inputs, file))
        rejected: dict[str, WsipipeError] = {**found.wrong}
        notes = [f"no vectors, left out: {some(found.others, 3)}"] if found.others else []
        return Plan(items, rejected, notes)

    def process(self, item: Item, progress: Progress) -> Outcome:
        settings, path = self.settings, self.folder / f"{item.id}.zarr"
        progress.say(item.id)
        foreign = read_vector(item.payload)
        self._refuse_other(foreign, item.id)
        facts = vector_facts(foreign, slide_id=item.id, **settings.model_dump())
        write_features(path, foreign.vector[None], np.array([foreign.corner], np.int64), facts, dtype="float32")
        tiles = {} if foreign.tiles is None else {"tiles": foreign.tiles}
        stats = {
            **tiles,
            "width": facts.width,
            "program": foreign.source,
            VECTOR: digest_of_value(foreign.vector.tolist()),
        }
        return Outcome({"features": path}, stats)

    def _refuse_other(self, foreign: ForeignVector, slide_id: str) -> None:
        """Hold what the file says against what it is said to be.

        :raises StoreError: it is something else; the message names both.
        """
        asked, card = self.settings, self.card
        wrong, hint = "", "import it by itself, with the flags that it needs"
        if foreign.name is not None and normalize("NFC", foreign.name) != slide_id:
            wrong, hint = (
                f"it is of the slide {foreign.name} by what it says, and of {slide_id} by its name",
                "rename it",
            )
        elif foreign.encoder is not None and not self._is_called(foreign.encoder):
            wrong = f"it is of the encoder {foreign.encoder}, not of {asked.encoder}"
        elif foreign.backbone is not None and not same_backbone(asked.backbone, foreign.backbone):
            wrong = f"it is made from features of {foreign.backbone}, not of {asked.backbone}"
        elif foreign.tile_px is not None and foreign.tile_px != asked.tile_px:
            wrong = f"its tiles have {foreign.tile_px} px, not {asked.tile_px}"
        elif foreign.mpp is not None and not same_mpp(foreign.mpp, asked.mpp):
            wrong = f"its tiles have {foreign.mpp:g} µm per pixel, not {asked.mpp:g}"
        elif other := not_its_magnification(foreign.magnification, asked.mpp):
            wrong = other
            hint = "give the --mpp of its tiles; if it is right, TRIDENT was told another: encode the slide again"
        elif card is not None and card.width is not None and len(foreign.vector) != card.width:
            wrong = f"its vector has {len(foreign.vector)} numbers, and those of {card.name} have {card.width}"
            hint = "give the --encoder that made it"
        if wrong:
            raise StoreError(wrong, path=foreign.path, hint=hint)

    def _is_called(self, encoder: str) -> bool:
        """Whether the encoder goes by this name somewhere."""
        return same_name(self.settings.encoder, encoder) or (self.card is not None and self.card.is_called(encoder))
