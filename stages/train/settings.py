"""Settings of the question, the split and the training."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from ...data.molecular.block_table import BLOCKS
from ...models.training.methods import METHODS
from ..settings import Runtime, Settings

if TYPE_CHECKING:
    from ...models.tasks.task import Task


class BiomarkerSettings(Settings):
    """A question to the slides: which label, and which of its values are positive and negative."""

    label_column: str = Field(examples=["HER2"], description="column of the cohort table that holds the label")
    positive: list[str] = Field(["positive"], min_length=1, description="values that mean positive")
    negative: list[str] = Field(["negative"], min_length=1, description="values that mean negative")

    @property
    def task(self) -> Task:
        """The task that the question sets: with values for positive and negative it is binary."""
        from ...models.tasks.task import find_task  # loads torch, which reading settings does without

        return find_task("binary")

    @field_validator("negative")
    @classmethod
    def _no_value_twice(cls, negative: list[str], info: Any) -> list[str]:
        both = {v.casefold() for v in negative} & {v.casefold() for v in info.data.get("positive", [])}
        if both:
            raise ValueError(f"{', '.join(sorted(both))} cannot mean both positive and negative")
        return negative


class SplitSettings(Settings):
    """Training, validation and test patients of each fold."""

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


class TrainSettings(Settings):
    """Training of one model a fold."""

    method: str = Field("momkd", description=f"training method: {', '.join(METHODS)}")
    soft_targets: bool = Field(
        False, description="train on out-of-fold probabilities predicted from RNA instead of 0/1 labels"
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
    use_rna: bool = Field(True, description="use RNA as a teacher during training")
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
        description=f"molecular data used in training: {', '.join(BLOCKS)}",
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
        """The settings that ``nested`` lets each training fold choose from, one for each combination of values.

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
