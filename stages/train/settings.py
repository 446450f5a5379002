"""Settings of biomarkers, splits and training."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import ByteSize, Field, field_validator, model_validator

from ...data.cohort.splits import MOST_FOLDS
from ...data.molecular.block_table import BLOCKS
from ...data.molecular.signature_names import SetScore, refuse_signature
from ...models.tasks.question import SurvivalLoss, TaskName, class_names, refuse_parts
from ...models.training.methods import METHODS
from ..settings import Presentation, Runtime, Settings

if TYPE_CHECKING:
    from ...models.tasks.task import Task


class BiomarkerSettings(Settings):
    """A biomarker to predict: the column of its label, and what its values mean."""

    label_column: str = Field(examples=["HER2"], description="column of the cohort table that holds the label")
    task: TaskName = Field(
        "binary",
        description="kind of question: binary (positive or negative), multiclass (one of several classes), "
        "ordinal (classes in order), regression (a number), survival (a time, with or without an event) or multitask "
        "(several other biomarkers, which targets name)",
    )
    positive: list[str] = Field(["positive"], min_length=1, description="values that mean positive")
    negative: list[str] = Field(["negative"], min_length=1, description="values that mean negative")
    classes: list[str] = Field(
        [],
        description="of multiclass and ordinal: names of the classes, the usual or the lowest first; "
        "low=1+|2+ is a class of several values",
    )
    robust: bool = Field(
        False, description="of regression: Huber's loss and a scale by the median, which outliers do not decide"
    )
    time_column: str = Field("", description="of survival, in place of label_column: the length of the follow-up")
    event_column: str = Field("", description="of survival: 1 where the follow-up ended with the event, 0 where not")
    loss: SurvivalLoss = Field(
        "hazards",
        description="of survival: hazards of time intervals, or cox, the partial likelihood (2 bags a step or more)",
    )
    horizons: list[float] = Field(
        [],
        examples=[[24, 60]],
        description="of survival: times at which the share without the event is predicted and judged",
    )
    time_unit: str = Field("", examples=["months"], description="of survival: unit of time_column, for pages")

    signature: str = Field(
        "",
        description="in place of label_column, a score of the patients' own RNA as the target: name of a gene set, "
        "gene:SYMBOL, recurrence-score or recurrence-score-unscaled; a regression, or binary with a cut",
    )
    signature_score: SetScore = Field(
        "auto",
        description="of a gene set: singscore (mean rank among a patient's genes), ssgsea, or mean-z (mean z by each "
        "fold's training patients); auto is singscore, and mean-z where the matrix holds z-scores",
    )
    gene_sets: Path | None = Runtime(
        None, examples=["hallmark.gmt"], description="of signature: file with its genes; default: that of [genomics]"
    )
    cut: str = Field(
        "",
        description="of a binary signature: median (of each fold's training patients) or a number; high is at or above",
    )
    targets: list[str] = Field(
        [],
        description="of multitask, in place of label_column: names of other biomarkers that one model learns together; "
        "a patient needs a label of one of them",
    )

    @model_validator(mode="before")
    @classmethod
    def _named_after_what_it_asks(cls, given: Any) -> Any:
        """Fill in what follows from a time column, a signature or targets."""
        if not isinstance(given, dict):
            return given
        if given.get("time_column") and not given.get("label_column"):
            return {**given, "label_column": given["time_column"]}
        if given.get("signature"):
            classes = {"positive": ["high"], "negative": ["low"]} if given.get("task") == "binary" else {}
            return {"label_column": given["signature"], "task": "regression", **classes, **given}
        targets = given.get("targets")
        if isinstance(targets, list) and targets and all(isinstance(name, str) for name in targets):
            if "label_column" in given and "of_targets" not in given:  # resolved questions have it from here
                raise ValueError("targets have label columns of their own: leave label_column out")
            names = [name.strip() for text in targets for name in text.split(",")]
            return {"task": "multitask", **given, "targets": names, "label_column": ", ".join(names)}
        return given

    @field_validator("cut", mode="before")
    @classmethod
    def _cut_as_text(cls, cut: Any) -> Any:
        return f"{cut!r}" if isinstance(cut, int | float) and not isinstance(cut, bool) else cut

    @model_validator(mode="after")
    def _all_that_the_task_needs(self) -> BiomarkerSettings:
        refuse_parts(self)
        refuse_signature(self)
        given = [name for name in ("positive", "negative") if name in self.model_fields_set]
        if self.task != "binary" and given and any(getattr(self, name) != [name] for name in given):
            raise ValueError(f"{given[0]} is for task binary; task is {self.task}")
        return self

    def asked(self) -> Task:
        """Return the prediction task."""
        from ...models.tasks.task import find_task  # here, because it loads torch

        return find_task(
            self.task,
            class_names(self.classes),
            robust=self.robust,
            loss=self.loss,
            horizons=self.horizons,
            time_unit=self.time_unit,
        )

    @field_validator("horizons")
    @classmethod
    def _horizons_rise(cls, horizons: list[float]) -> list[float]:
        if not all(time > 0 for time in horizons) or len(set(horizons)) < len(horizons):
            raise ValueError("horizons are different times above 0")
        return sorted(horizons)

    @field_validator("negative")
    @classmethod
    def _no_value_twice(cls, negative: list[str], info: Any) -> list[str]:
        both = {v.casefold() for v in negative} & {v.casefold() for v in info.data.get("positive", [])}
        if both:
            raise ValueError(f"{', '.join(sorted(both))} cannot mean both positive and negative")
        return negative


class QuestionSettings(BiomarkerSettings):
    """A biomarker together with the questions of its targets, if it has some."""

    of_targets: dict[str, BiomarkerSettings] = Field({}, description="the question of each target")

    @model_validator(mode="after")
    def _a_question_for_each_target(self) -> QuestionSettings:
        if self.of_targets.keys() != set(self.targets):
            raise ValueError(f"the targets are {self.targets}, and there are questions of {list(self.of_targets)}")
        if several := [name for name, question in self.of_targets.items() if question.targets]:
            raise ValueError(f"target {several[0]} has targets itself")
        for name, question in self.of_targets.items():
            if question.signature:
                raise ValueError(
                    f"target {name} is a signature, which is not learned beside others: train it by itself"
                )
            if question.loss == "cox":
                raise ValueError(f"target {name} compares the patients of a step (loss = cox): use hazards")
        return self

    def asked(self) -> Task:
        """Return the prediction task."""
        if not self.targets:
            return super().asked()
        from ...models.tasks.multitask import MultiTask  # here, because it loads torch

        return MultiTask({name: self.of_targets[name].asked() for name in self.targets})


class SplitSettings(Settings):
    """Training, validation and test patients of each fold."""

    folds: int = Field(5, ge=2, le=MOST_FOLDS, description="number of folds; every patient is tested once")
    validation_fraction: float = Field(
        0.2, gt=0, lt=1, description="part of each fold's training patients set aside for early stopping and threshold"
    )
    split_by: Literal["patient", "site"] = Field(
        "patient", description="with site, patients of one site stay in one fold"
    )
    seed: int = Field(0, ge=0, description="seed of the split")
    drop_conflicts: bool = Field(
        False, description="drop patients with both positive and negative rows; otherwise they are an error"
    )
    tcga_slides: Literal["diagnostic", "all"] = Field(
        "diagnostic", description="TCGA slides to use: only diagnostic ones (DX), or also frozen ones"
    )


class TrainSettings(Settings):
    """Training of one model per fold."""

    method: str = Field("momkd", description=f"training method: {', '.join(METHODS)}")
    soft_targets: bool = Field(
        False, description="train on out-of-fold probabilities predicted from RNA instead of 0/1 labels"
    )
    preset: Literal["standard", "official", "paper"] = Field(
        "standard",
        description="sizes and loss weights of MoMKD: standard: the authors' public code; official: also its early "
        "stopping; paper: their paper",
    )
    hidden: int | None = Field(
        None, ge=8, multiple_of=2, examples=[512], description="width of the network; default: by preset or method"
    )
    shared: int | None = Field(
        None, ge=2, examples=[64], description="width of the space that slides and RNA share; default: by preset"
    )
    slots: int | None = Field(None, ge=1, examples=[16], description="memory slots per class; default: by preset")
    memory: Literal["gradient", "momentum", "fixed"] = Field(
        "gradient",
        description="how MoMKD's memory slots are updated: by the losses, by a running average, or not at all",
    )
    init: Path | None = Runtime(
        None,
        examples=["feather.safetensors"],
        description="of abmil and clam-sb: start from the attention in this file, such as FEATHER's, instead of a "
        "random one; widths are the file's",
    )
    init_backbone: str | None = Field(
        None, examples=["uni2-h"], description="with init: the backbone on whose features its weights were trained"
    )
    freeze: bool = Field(False, description="with init: keep the weights as they are, so that the head alone learns")
    use_rna: bool = Field(True, description="use RNA as a teacher during training")
    shuffle_rna: bool = Field(False, description="as a control, shuffle RNA among the training patients of each class")
    genes: int = Field(768, ge=1, description="number of genes to select in each fold")
    gene_selection: Literal["anova", "variance", "xgboost"] = Field(
        "anova", description="how genes are selected, using only the fold's training patients"
    )
    gene_list: Path | None = Runtime(
        None, examples=["genes.txt"], description="use these genes instead of selecting: one gene per line, or a .gmt"
    )
    blocks: list[str] = Field(
        ["rna"],
        min_length=1,
        description=f"molecular data used in training: {', '.join(BLOCKS)}",
    )
    neighbours: int = Field(8, ge=1, le=64, description="neighbours of each tile in the slide's graph")
    epochs: int = Field(100, ge=1, description="largest number of epochs; each draws as many slides as the fold has")
    patience: int | None = Field(
        None,
        ge=1,
        examples=[15],
        description="stop after so many epochs without improvement on the fold's validation patients; default: by "
        "preset (15, official: 1)",
    )
    bags_per_step: int = Field(1, ge=1, description="slides per step; the MoMKD paper uses one")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="arithmetic; bf16 is mixed precision")
    learning_rate: float = Field(2e-4, gt=0, description="learning rate of AdamW")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay of AdamW")
    clip: float = Field(16.0, gt=0, description="largest norm of the gradient; larger ones are clipped")
    nested: list[str] = Field(
        [],
        description="nested cross-validation inside each training fold chooses these settings, such as "
        "learning_rate=1e-4,5e-4; all combinations are tried",
    )
    seed: int = Field(0, ge=0, description="seed of the training; each fold adds its number")
    device: str = Runtime(
        "auto",
        description="cpu, cuda, cuda:1 or mps; several, such as cuda:0,cuda:1 or cpu,cpu, train folds in parallel; "
        "auto takes the first GPU there is",
    )
    bag_memory: ByteSize | None = Runtime(
        None,
        gt=0,
        examples=["16GB"],
        description="most memory for the slides' features; where they need more, they are read as needed, from a "
        "scratch file in the workspace, or in --stage-to; default: half of what wsipipe may use",
    )
    tensorboard: bool = Runtime(
        False, description="also write learning curves for TensorBoard (the package must be installed)"
    )

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
            raise ValueError(f"must be among {', '.join(BLOCKS)}, each at most once")
        return blocks

    @model_validator(mode="after")
    def _start_is_complete(self) -> TrainSettings:
        if self.init is None and (self.freeze or self.init_backbone):
            raise ValueError(f"{'freeze' if self.freeze else 'init_backbone'} is for training that starts from init")
        if self.init is not None and not self.init_backbone:
            raise ValueError("init needs init_backbone: features of another backbone mean something else")
        return self

    @model_validator(mode="after")
    def _nested_settings_are_settings(self) -> TrainSettings:
        if self.nested:
            self.candidates()
        return self

    def candidates(self) -> list[TrainSettings]:
        """The settings that nested cross-validation chooses from, one for each combination of values in ``nested``.

        :raises ValueError: it names a setting that cannot be chosen, or a value that the setting cannot have.
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


AUDIT: Final = (
    "columns of the cohort table that may go along with the label, such as grade,er,site: the report says what the "
    "slide reads beside them; site is known of TCGA patients"
)
"""What the setting ``audit`` means, wherever there is one."""


class AuditSettings(Settings):
    """What is asked beside the performance."""

    audit: list[str] = Presentation([], description=AUDIT)


class ReportSettings(AuditSettings):
    """The page of a model, and what is asked beside its performance."""

    figures: bool = Presentation(True, description="also write the figures as SVG and PDF, for a paper")


NETWORK_SIZES: Final = ("hidden", "shared", "slots", "memory")
"""Settings of training that are the network's own, and not every method's."""
CHOOSABLE: Final = (
    "learning_rate",
    "weight_decay",
    *NETWORK_SIZES,
    "genes",
    "gene_selection",
    "bags_per_step",
)
"""Settings of training that nested cross-validation may choose."""
