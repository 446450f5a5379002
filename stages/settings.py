"""Every setting of every stage: name, type, default, unit and meaning, in one place.

The command line's flags, the sections of ``wsipipe.toml`` and the Python API are all made from these records, so
they cannot drift apart. Nothing heavy is imported here: ``wsipipe --help`` reads this module.
"""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


def Runtime(default: Any, **about: Any) -> Any:  # noqa: N802  used as a field, like pydantic's Field
    """A setting that never changes results (device, batch size, threads): no part of a fingerprint."""
    return Field(default, json_schema_extra={"runtime": True}, **about)


class Settings(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def result_settings(self) -> dict[str, Any]:
        """The settings that change results, as JSON values: what a fingerprint covers."""
        fields = type(self).model_fields
        keep = {name for name, field in fields.items() if not (field.json_schema_extra or {}).get("runtime")}  # type: ignore[union-attr]
        return self.model_dump(mode="json", include=keep)


class TileSettings(Settings):
    """Tissue segmentation and tiling."""

    mpp: float = Field(0.5, ge=0.05, le=20, description="resolution of the tiles, in µm per pixel")
    tile_px: int = Field(224, ge=16, le=8192, description="side of a tile, in pixels")
    overlap: int = Field(0, ge=0, description="overlap of neighbouring tiles, in pixels")
    min_tissue: float = Field(0.5, ge=0, le=1, description="least fraction of tissue in a tile that is kept")
    min_sharpness: float = Field(
        0.0, ge=0, description="least sharpness of a tile that is kept; 0 keeps all (docs/tiling.md has pictures)"
    )
    native_tolerance: float = Field(
        0.02, ge=0, le=0.2, description="a level this close to the asked mpp is read without resampling (0.02 is 2 %)"
    )
    level_policy: Literal["coarsest", "finest", "nearest"] = Field(
        "coarsest",
        description="level to read: the coarsest that is fine enough, always the finest, or the nearest to asked",
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
        description="tissue as annotated: a GeoJSON file of QuPath's, or a folder of them called like the slides",
    )
    annotation_classes: list[str] = Field(
        [], description="classes of the annotations that count as tissue; default: all but those that QuPath ignores"
    )
    coordinates: Path | None = Runtime(
        None, examples=["patches/"], description="tiles that TRIDENT or CLAM has placed: a folder of their HDF5 files"
    )
    tissue_weights: Path | None = Runtime(
        None,
        examples=["deeplabv3_seg_v4.ckpt"],
        description="find tissue with a network: weights of a torchvision DeepLabV3 of two classes",
    )
    mpp_override: float | None = Runtime(
        None,
        ge=0.05,
        le=20,
        examples=[0.25],
        description="µm per pixel of slides whose files do not say it (recorded with each slide)",
    )
    workers: int | None = Runtime(None, ge=1, examples=[8], description="processes; default: one a core")
    device: str = Runtime("auto", description="where the network of tissue_weights runs: cpu, cuda, cuda:1, mps")
    timeout: float = Runtime(30.0, gt=0, description="minutes after which a slide that hangs is given up")

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
        """Such as ``0.5mpp-224px``, or ``0.5mpp-224px-annotated``: the settings that give a tile its meaning."""
        overlap = f"-overlap{self.overlap}" if self.overlap else ""
        words = TISSUE_FROM | {"tissue": self.tissue if self.tissue in TISSUE_BY else f"darker{self.tissue}"}
        source = "".join(f"-{words[name]}" for name in self.tissue_from())
        return f"{self.mpp:g}mpp-{self.tile_px}px{overlap}{source}"

    def tissue_from(self) -> list[str]:
        """The settings given that say where the tissue is; at most one can be meant. None: the mask finds it."""
        asked = ["tissue"] if self.tissue != "auto" else []
        return asked + [name for name in TISSUE_FROM if getattr(self, name) is not None]


TISSUE_BY: Final = ("auto", "colour", "glass", "all")
TISSUE_FROM: Final = {"annotations": "annotated", "coordinates": "imported", "tissue_weights": "network"}
"""Ways to find the tissue, and settings that say where it is, with the word for each in a folder's name."""


class ExtractSettings(Settings):
    """Feature extraction with a timm backbone."""

    backbone: str = Field("efficientnet-lite0", description="a name from `wsipipe backbones`, or any timm model name")
    weights: Path | None = Runtime(
        None,
        examples=["weights/model.safetensors"],
        description="weights file (safetensors or a PyTorch checkpoint); default: the package's or the hub cache's",
    )
    pooling: Literal["cls", "mean", "cls+mean"] | None = Field(
        None,
        examples=["cls"],
        description="how a transformer's tokens become one vector; default: as the backbone's card says",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="arithmetic; auto is fp32 on a CPU and what the backbone's card says on a GPU"
    )
    store_dtype: Literal["float16", "float32"] = Field("float16", description="number format of the stored features")
    max_bad_tiles: float = Field(
        0.01, ge=0, le=1, description="a slide with a larger fraction of undecodable tiles fails; fewer are left out"
    )
    device: str = Runtime(
        "auto", description="cpu, cuda, cuda:1 or mps; several as cuda:0,cuda:1; auto takes the first GPU there is"
    )
    batch_size: int | None = Runtime(
        None, ge=1, examples=[64], description="tiles a batch; default: 4 on a CPU, 64 on a GPU"
    )
    threads: int | None = Runtime(
        None,
        ge=1,
        examples=[8],
        description="threads that decode tiles, and on a CPU compute them; default: one a core",
    )
    tile_timeout: float = Runtime(
        300.0, gt=0, description="seconds after which a tile that cannot be read fails its slide"
    )
    compile: bool = Runtime(False, description="let torch.compile make the network's kernels (minutes, once)")
    profile: Path | None = Runtime(
        None, examples=["trace.json"], description="write a trace of some batches, for chrome://tracing or Perfetto"
    )

    def folder_name(self) -> str:
        """Such as ``uni2-h`` or, with a pooling that is not the default, ``uni2-h-cls+mean``."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", self.backbone)
        return name + (f"-{self.pooling}" if self.pooling else "")


class ExportSettings(Settings):
    """Tiles or features in other tools' formats."""

    format: Literal["clam", "trident", "anndata"] = Field("clam", description="whose format")


class GenomicsSettings(Settings):
    """Gene expression of the patients."""

    matrix: Path | None = Runtime(
        None,
        examples=["expression.csv"],
        description="expression matrix: CSV, TSV, Parquet (also .gz), .h5ad, or a folder of the GDC's STAR counts",
    )
    unit: Literal["auto", "counts", "tpm", "fpkm", "rsem", "log", "zscore"] = Field(
        "auto", description="unit of the values; auto recognises it and says by what"
    )
    patient_pattern: str | None = Field(
        None,
        examples=["^(P\\d+)"],
        description="regular expression, its first group the patient in a sample's name; default: TCGA's, or all of it",
    )
    aliases: Path | None = Runtime(
        None, examples=["aliases.tsv"], description="table of gene names and the symbols that they become"
    )
    gene_lengths: Path | None = Runtime(
        None, examples=["lengths.tsv"], description="table of genes and their lengths in bp: counts then become TPM"
    )
    gene_sets: Path | None = Runtime(
        None, examples=["hallmark.gmt"], description="gene sets to score each patient by (signatures.csv)"
    )
    cnv: Path | None = Runtime(None, examples=["cnv.csv"], description="copy numbers: GISTIC calls or log2 ratios")
    cnv_unit: Literal["auto", "gistic", "log2 ratio"] = Field("auto", description="unit of the copy numbers")
    mutation: Path | None = Runtime(None, examples=["mutation.csv"], description="mutations: 1 where a gene has one")
    protein: Path | None = Runtime(None, examples=["protein.csv"], description="protein abundance: log or z-scores")
    protein_unit: Literal["auto", "log", "zscore"] = Field("auto", description="unit of the protein abundance")
    methylation: Path | None = Runtime(None, examples=["methylation.csv"], description="methylation: beta, 0 to 1")
    clinical: Path | None = Runtime(
        None, examples=["clinical.tsv"], description="table of patients with sex and batch, for the quality page alone"
    )

    def sources(self) -> dict[Any, Path]:
        """The matrices that are given, by block."""
        given = {"rna": self.matrix, **{block: getattr(self, block) for block in BLOCKS[1:]}}
        return {block: path for block, path in given.items() if path is not None}


BLOCKS: Final = ("rna", "cnv", "mutation", "protein", "methylation")
"""Molecular measurements that can teach."""


class BiomarkerSettings(Settings):
    """A question to the slides: which label, and which of its values mean yes and no."""

    label_column: str = Field(examples=["HER2"], description="column of the cohort table that holds the label")
    positive: list[str] = Field(["positive"], min_length=1, description="values that mean positive")
    negative: list[str] = Field(["negative"], min_length=1, description="values that mean negative")

    @field_validator("negative")
    @classmethod
    def _no_value_twice(cls, negative: list[str], info: Any) -> list[str]:
        both = {v.casefold() for v in negative} & {v.casefold() for v in info.data.get("positive", [])}
        if both:
            raise ValueError(f"{', '.join(sorted(both))} cannot mean both positive and negative")
        return negative


class SplitSettings(Settings):
    """Who is trained on, who validates, who is tested: always by patient."""

    folds: int = Field(5, ge=2, description="number of folds; every patient is tested once")
    validation_fraction: float = Field(
        0.2, gt=0, lt=1, description="part of each training fold kept aside for stopping and the threshold"
    )
    split_by: Literal["patient", "site"] = Field("patient", description="site keeps the patients of one site together")
    seed: int = Field(0, ge=0, description="seed of the split")
    drop_conflicts: bool = Field(
        False, description="drop patients whose rows say both positive and negative; else they are an error"
    )
    tcga_slides: Literal["diagnostic", "all"] = Field(
        "diagnostic", description="of TCGA's slides, the diagnostic ones (DX) or also the frozen ones"
    )


METHODS: Final = ("momkd", "evidence", "matching", "abmil", "clam-sb", "transmil", "mean")
"""Ways to learn to read slides (:mod:`wsipipe.models.methods` says what they are)."""


class TrainSettings(Settings):
    """Training of one model a fold."""

    method: str = Field("momkd", description=f"how slides are learnt to be read: {', '.join(METHODS)}")
    soft_targets: bool = Field(
        False, description="teach what an RNA model says of each patient, out of fold, in place of the label"
    )
    preset: Literal["standard", "official", "paper"] = Field(
        "standard",
        description="MoMKD's sizes and loss weights: of the authors' public code (official also stops as it does), "
        "or of their paper",
    )
    hidden: int | None = Field(
        None, ge=8, multiple_of=2, examples=[512], description="width of the network; default: preset's, or method's"
    )
    shared: int | None = Field(
        None, ge=2, examples=[64], description="width of the space that slides and RNA share; default: preset's"
    )
    slots: int | None = Field(None, ge=1, examples=[16], description="memory slots a class; default: preset's")
    memory: Literal["gradient", "momentum", "fixed"] = Field(
        "gradient", description="what moves MoMKD's slots: the losses, a running average, nothing"
    )
    use_rna: bool = Field(
        True, description="let RNA teach the network itself; off leaves it to labels, or soft targets"
    )
    shuffle_rna: bool = Field(False, description="a control: RNA is shuffled among the training patients of a class")
    genes: int = Field(768, ge=1, description="genes that each training fold selects")
    gene_selection: Literal["anova", "variance", "xgboost"] = Field(
        "anova", description="how they are selected, from the training patients of the fold alone"
    )
    gene_list: Path | None = Runtime(
        None, examples=["genes.txt"], description="take these genes, and select none: a gene a line, or a .gmt"
    )
    blocks: list[str] = Field(
        ["rna"],
        min_length=1,
        description="what teaches: rna, cnv, mutation, protein, methylation",
    )
    neighbours: int = Field(8, ge=1, le=64, description="neighbours of a tile in its graph")
    epochs: int = Field(100, ge=1, description="epochs at most; an epoch draws as many bags as the fold trains on")
    patience: int | None = Field(
        None,
        ge=1,
        examples=[15],
        description="stop after so many epochs without gain on the fold's validation patients; default: preset's "
        "(15, official: 1)",
    )
    bags_per_step: int = Field(1, ge=1, description="slides a step; the paper's method takes one")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="arithmetic; bf16 is mixed precision")
    learning_rate: float = Field(2e-4, gt=0, description="learning rate of AdamW")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay of AdamW")
    clip: float = Field(16.0, gt=0, description="the gradient's norm is clipped here")
    nested: list[str] = Field(
        [],
        description="settings to choose inside each training fold, such as learning_rate=1e-4,5e-4; all combinations "
        "are tried",
    )
    seed: int = Field(0, ge=0, description="seed of the training; each fold adds its number")
    device: str = Runtime(
        "auto",
        description="cpu, cuda, cuda:1 or mps; several as cuda:0,cuda:1 or cpu,cpu train folds side by side; auto "
        "takes the first GPU there is",
    )
    tensorboard: bool = Runtime(False, description="write learning curves for TensorBoard too (needs that package)")

    @field_validator("method")
    @classmethod
    def _known_method(cls, method: str) -> str:
        if method not in METHODS:
            raise ValueError(f"must be one of {', '.join(METHODS)}")
        return method

    @field_validator("blocks")
    @classmethod
    def _known_blocks(cls, blocks: list[str]) -> list[str]:
        unknown = [block for block in blocks if block not in BLOCKS]
        if unknown or len(set(blocks)) < len(blocks):
            raise ValueError(f"must be of {', '.join(BLOCKS)}, each once")
        return blocks

    @model_validator(mode="after")
    def _nested_settings_are_settings(self) -> TrainSettings:
        if self.nested:
            self.candidates()
        return self

    def candidates(self) -> list[TrainSettings]:
        """What ``nested`` lets each training fold choose from: these settings, one for each combination of values.

        :raises ValueError: it names no setting that can be chosen, or a value that the setting cannot have.
        """
        choices: list[list[tuple[str, str]]] = []
        for text in self.nested:
            name, equals, values = text.partition("=")
            name = name.strip().replace("-", "_")
            if not equals or not values.strip() or name not in CHOOSABLE:
                raise ValueError(f"nested {text!r} is not NAME=VALUE,VALUE of {', '.join(CHOOSABLE)}")
            choices.append([(name, value.strip()) for value in values.split(",")])
        plain = self.model_dump() | {"nested": []}
        return [TrainSettings.model_validate(plain | dict(combination)) for combination in product(*choices)]


CHOOSABLE: Final = (
    "learning_rate",
    "weight_decay",
    "hidden",
    "shared",
    "slots",
    "memory",
    "genes",
    "gene_selection",
    "bags_per_step",
)
"""Settings of training that nested cross-validation may choose."""


class CompareSettings(Settings):
    """A comparison of methods on the same splits."""

    methods: list[str] = Field([], description="what to compare, such as momkd, abmil+soft; default: everything")


class PredictSettings(Settings):
    """Predictions on slides, histology alone."""

    top_tiles: int = Field(8, ge=0, le=64, description="most attended tiles shown of each slide")
    device: str = Runtime("auto", description="cpu, cuda, cuda:1 or mps; auto takes the first GPU there is")


class CohortSettings(Settings):
    """Which slides, and what is known of them."""

    slides: list[Path] = Field([], description="slide files, or folders of slides (searched through)")
    table: Path | None = Field(
        None,
        examples=["cohort.csv"],
        description="CSV or TSV with slide_id, patient_id, labels, and if need be path, mpp, site",
    )


class NewSlides(Settings):
    """Slides to predict on at the end of `wsipipe run`."""

    slides: list[Path] = Field([], description="slide files, or folders of slides, to predict on after training")
    table: Path | None = Field(
        None,
        examples=["new_slides.csv"],
        description="CSV or TSV with their slide_id, patient_id and, if need be, path and mpp",
    )
