"""Settings of tissue segmentation and tiling."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, field_validator

from ...data.errors import UsageError
from ...data.units import SLIDE_MPP
from ..settings import Runtime, Settings


class TileSettings(Settings):
    """Tissue segmentation and tiling."""

    mpp: float = Field(0.5, ge=SLIDE_MPP[0], le=SLIDE_MPP[1], description="resolution of the tiles, in µm per pixel")
    tile_px: int = Field(224, ge=16, le=8192, description="side of a tile, in pixels")
    overlap: int = Field(0, ge=0, description="overlap of neighbouring tiles, in pixels")
    min_tissue: float = Field(0.5, ge=0, le=1, description="a tile is kept if at least this fraction of it is tissue")
    min_sharpness: float = Field(
        0.0, ge=0, description="a tile is kept if it is at least this sharp; 0 keeps all (pictures: docs/tiling.md)"
    )
    max_artefact: float | None = Field(
        None,
        ge=0,
        le=1,
        examples=[0.25],
        description="a tile is kept if artefacts cover at most this fraction of it (with artefact_weights); default: 1",
    )
    native_tolerance: float = Field(
        0.02, ge=0, le=0.2, description="a level this close to the wanted mpp is read without resampling (0.02: 2 %)"
    )
    level_policy: Literal["coarsest", "finest", "nearest"] = Field(
        "coarsest",
        description="pyramid level to read: the coarsest that is fine enough, the finest, or the nearest to mpp",
    )
    allow_upsample: bool = Field(False, description="accept slides that are coarser than the asked mpp")
    tissue: str = Field(
        "auto",
        description="what is tissue: auto (coloured, or unlike the glass of the slide, whichever is right), colour, "
        "glass, all (of the slide), or what is darker than the glass by a number of grey levels, such as 12",
    )
    annotations: Path | None = Runtime(
        None,
        examples=["annotations/"],
        description="use annotated tissue: a GeoJSON file of QuPath, or a folder of them named like the slides",
    )
    annotation_classes: list[str] = Field(
        [], description="annotation classes that count as tissue; default: all except those that QuPath ignores"
    )
    annotation_origin: Literal["scan", "slide"] | None = Runtime(
        None,
        examples=["scan"],
        description="origin of annotations if a slide has an unscanned border: the corner of the scan, as in QuPath, "
        "or of the slide; default: by the program that wrote them",
    )
    coordinates: Path | None = Runtime(
        None, examples=["patches/"], description="import tiles from TRIDENT or CLAM: a folder of their HDF5 files"
    )
    tissue_weights: Path | None = Runtime(
        None,
        examples=["deeplabv3_seg_v4.ckpt"],
        description="find tissue with a network: weights of a torchvision DeepLabV3 with two classes",
    )
    artefact_weights: Path | None = Runtime(
        None,
        examples=["GrandQC_MPP1_state_dict.pth"],
        description="find folds, dust, pen, air bubbles and blur with a network: weights of a U-Net such as GrandQC's, "
        "whose licence forbids commercial use (CC BY-NC-SA 4.0)",
    )
    artefact_mpp: float | None = Field(
        None,
        ge=0.25,
        le=4,
        examples=[1.5],
        description="µm per pixel that artefact_weights were trained at: 1 (10x), 1.5 (7x) or 2 (5x); default: as the "
        "file's name says (MPP1, MPP15, MPP2)",
    )
    mpp_override: float | None = Runtime(
        None,
        ge=SLIDE_MPP[0],
        le=SLIDE_MPP[1],
        examples=[0.25],
        description="µm per pixel, for slides whose files do not state it (recorded for each slide)",
    )
    overrule_mpp: bool = Runtime(
        False, description="let mpp_override and the cohort table's mpp override what the files state"
    )
    workers: int | None = Runtime(None, ge=1, examples=[8], description="processes; default: one per core")
    device: str = Runtime("auto", description="device of the networks of weights: cpu, cuda, cuda:1, mps")
    timeout: float = Runtime(30.0, gt=0, description="time limit for a slide, in minutes; then it fails")

    @field_validator("tissue", mode="before")
    @classmethod
    def _way_to_find_tissue(cls, tissue: Any) -> Any:
        text = str(tissue).strip().lower()
        if text in TISSUE_BY or (re.fullmatch("[1-9][0-9]{0,2}", text) and int(text) < 255):
            return text
        raise ValueError(f"must be one of {', '.join(TISSUE_BY)}, or a whole number of grey levels from 1 to 254")

    @field_validator("overlap")
    @classmethod
    def _smaller_than_a_tile(cls, overlap: int, info: Any) -> int:
        if "tile_px" in info.data and overlap >= info.data["tile_px"]:
            raise ValueError(f"must be smaller than tile_px ({info.data['tile_px']})")
        return overlap

    def folder_name(self) -> str:
        """Name of the tiles' folder, such as ``0.5mpp-224px`` or ``0.5mpp-224px-artefacts-annotated``."""
        overlap = f"-overlap{self.overlap}" if self.overlap else ""
        words = TISSUE_FROM | {"tissue": self.tissue if self.tissue in TISSUE_BY else f"darker{self.tissue}"}
        source = "".join(f"-{words[name]}" for name in self.tissue_from())
        artefacts = "" if self.artefact_weights is None else "-artefacts"
        return f"{self.mpp:g}mpp-{self.tile_px}px{overlap}{artefacts}{source}"

    def mpp_of_artefacts(self) -> float:
        """Microns per pixel at which artefacts are looked for.

        :raises UsageError: neither ``artefact_mpp`` nor the name of the weights' file says it, or they differ.
        """
        name = "" if self.artefact_weights is None else self.artefact_weights.name
        named = _MPP_IN_NAME.search(name)
        by_name = None if named is None else _MPPS[named[1]]
        if self.artefact_mpp is not None and by_name in (None, self.artefact_mpp):
            return self.artefact_mpp
        if self.artefact_mpp is None and by_name is not None:
            return by_name
        published = "1 (10x, MPP1), 1.5 (7x, MPP15) or 2 (5x, MPP2)"
        if by_name is None:
            what = f"nothing says at how many µm per pixel the network of {name} was trained"
            raise UsageError(what, hint=f"give --artefact-mpp; GrandQC's models are for {published}")
        what = f"artefact_mpp is {self.artefact_mpp:g}, and by its name {name} was trained at {by_name:g} µm per pixel"
        raise UsageError(what, hint="leave --artefact-mpp out, or rename the file if its name is wrong")

    def tissue_from(self) -> list[str]:
        """The settings given that say where the tissue is; at most one can be meant. None: the mask finds it."""
        asked = ["tissue"] if self.tissue != "auto" else []
        return asked + [name for name in TISSUE_FROM if getattr(self, name) is not None]


TISSUE_BY: Final = ("auto", "colour", "glass", "all")
TISSUE_FROM: Final = {"annotations": "annotated", "coordinates": "imported", "tissue_weights": "network"}
"""Ways to find the tissue, and settings that say where it is, with the word for each in a folder's name."""
NETWORKS: Final = ("tissue_weights", "artefact_weights")
"""Settings that are files of a network's weights, whose bytes are inputs."""

_MPP_IN_NAME: Final = re.compile(r"(?<![a-z])mpp_?(15|1|2)(?![0-9]|\.[0-9])", re.IGNORECASE)
_MPPS: Final = {"1": 1.0, "15": 1.5, "2": 2.0}
"""What the names of GrandQC's files mean, such as ``GrandQC_MPP15.pth``."""
