"""The interface of all slide networks, as used by training, bundles and prediction.

A step of training is ``output = network(bags)``, ``network.loss(output, targets).total.backward()``, the optimiser's
step, then ``network.update_memory(output, targets)``. Inference is ``network(bags)`` alone, and never needs omics.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Annotated, Any, ClassVar, Final

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ...data.errors import BundleError, UsageError
from ..backbones.state_dicts import difference
from ..tasks.binary import BINARY
from ..tasks.task import Task
from .bag_tensors import BagBatch, Patient

WIDEST: Final = 65_536
"""Numbers of a layer at most, and of a tile's features: sizes are checked before anything is allocated for them."""
MOST_SLOTS: Final = 65_536
MOST_GENES: Final = 4_000_000
"""Of genes and features of other blocks together; the largest methylation arrays have a million."""
Width = Annotated[int, Field(gt=0, le=WIDEST)]


class NetworkConfig(BaseModel):
    """Sizes and settings of a network; with a state dict it is the whole model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_features: Width
    """D, the width of the backbone."""
    n_genes: int = Field(default=0, ge=0, le=MOST_GENES)
    """Length of a patient's expression g; 0 builds the histology side alone."""


@dataclass(frozen=True)
class NetworkOutput:
    """The output of a network for B slides with N tiles in total."""

    logits: Tensor
    """(B, outputs of the task); of a binary task negative and positive."""
    attention: Tensor
    """(N), sums to 1 over each slide's tiles."""
    scores: Tensor
    """(N), or (N, C) of several classes, the evidence of each tile; above zero if it is for positive, or the class."""


@dataclass(frozen=True)
class Slots:
    """The slots of a network's memory, as a reader may see them."""

    names: tuple[str, ...]
    """Of each slot, such as ``positive 3``."""
    weights: tuple[float, ...] = ()
    """What each slot counts for, above zero for positive; empty where slots have no weight."""


@dataclass(frozen=True)
class Targets:
    """The targets of the loss for B bags, several of which may belong to one patient."""

    labels: Tensor
    """y (B) int64, the places of the classes; 0 in a task without classes."""
    values: Tensor
    """(B, …) float32, the target values of the logits; of a binary task the probability of positive: y itself, or a
    soft target."""
    expression: Tensor | None = None
    """g (R, n_genes): a row for each bag whose patient has expression; None if no patient has."""
    measured: Tensor | None = None
    """(R) int64, which bags the rows of ``expression`` belong to."""

    @classmethod
    def of(cls, patients: Sequence[Patient], device: torch.device | str = "cpu") -> Targets:
        """Labels, soft targets and expression of patients, one for each bag of the step."""
        values = torch.tensor([patient.value for patient in patients])
        labels = torch.tensor([patient.place for patient in patients])
        measured = [place for place, patient in enumerate(patients) if patient.expression is not None]
        if not measured:
            return cls(labels.to(device), values.to(device))
        rows = torch.stack([p.expression for p in patients if p.expression is not None])
        return cls(labels.to(device), values.to(device), rows.to(device), torch.tensor(measured, device=device))


@dataclass(frozen=True)
class Losses:
    """The unweighted loss terms of a step, means over its bags, and their weighted total; all scalars."""

    terms: Mapping[str, Tensor]
    total: Tensor

    def values(self) -> dict[str, float]:
        """The terms and the total as numbers, by name, for a training log."""
        return {name: float(term.detach()) for name, term in {**self.terms, "total": self.total}.items()}


class SlideNetwork(nn.Module, ABC):
    """A network from slides to logits, with float32 parameters on any device."""

    Config: ClassVar[type[NetworkConfig]]
    omics: ClassVar[tuple[str, ...]] = ()
    """Prefixes of the state-dict keys of the omics side, which inference does not need."""
    has_slots: ClassVar[bool] = False
    """Whether it has a memory whose slots can be shown."""

    def __init__(self, config: Any, task: Task = BINARY) -> None:
        super().__init__()
        self.config = config
        self.task = task

    @property
    def device(self) -> torch.device:
        """The device of its parameters."""
        return next(self.parameters()).device

    @abstractmethod
    def forward(self, bags: BagBatch) -> NetworkOutput:
        """Logits, attention and tile scores of slides, from histology alone."""

    def loss(self, output: Any, targets: Targets) -> Losses:
        """Compute all terms of the loss for this network's output; by default the task's loss alone."""
        task = self.task.loss(output.logits, targets.values)
        return Losses({"task": task}, task)

    def measured_expression(self, targets: Targets) -> tuple[Tensor, Tensor] | None:
        """Return ``expression`` and ``measured`` of the targets, for a network with an omics side; None if unmeasured.

        :raises UsageError: there is expression, but this network was built without genes.
        """
        if targets.expression is None or targets.measured is None:
            return None
        if not self.config.n_genes:
            raise UsageError("this network uses histology alone", hint="build it with n_genes above 0 to use RNA")
        return targets.expression, targets.measured

    def init_memory(self, patients: Sequence[Patient], generator: torch.Generator) -> None:
        """Initialise the memory from the training patients before the first epoch; by default does nothing.

        :param generator: a CPU generator.
        """

    def update_memory(self, output: Any, targets: Targets) -> None:
        """Update the memory without gradients, after the optimiser's step; by default does nothing."""

    def epoch_figures(self) -> dict[str, float]:
        """Return the network's own figures for the learning curve, since the last call."""
        return {}

    @property
    def slots_shown(self) -> Slots | None:
        """The slots of its memory; None without a memory."""
        return None

    def nearness_to_slots(self, bags: BagBatch) -> Tensor:
        """How near each tile is to each slot of :attr:`slots_shown`; (N, slots)."""
        raise NotImplementedError(f"{type(self).__name__} has no memory")

    def inference_state(self) -> dict[str, Tensor]:
        """Return the part of the state dict that inference needs."""
        return {key: value for key, value in self.state_dict().items() if not key.startswith(self.omics)}

    @classmethod
    def for_inference(
        cls,
        config: NetworkConfig,
        state: Mapping[str, Tensor],
        *,
        task: Task = BINARY,
        path: str | PathLike[str] | None = None,
    ) -> SlideNetwork:
        """Build the network for inference, in evaluation mode on the CPU, from the tensors of :meth:`inference_state`.

        It has no omics side (its ``config.n_genes`` is 0), even if it was trained with one.

        :param path: the file the state is from, for the message.
        :raises BundleError: a tensor is missing, surplus, or of another shape or type; or its values are not finite.
        """
        config = config.model_copy(update={"n_genes": 0})
        with torch.device("meta"):  # nothing is allocated for sizes that the tensors do not have
            wanted = cls(config, task).state_dict()
        require_same_tensors(wanted, state, path)
        require_finite(wanted, state, path)
        network = cls(config, task)
        network.load_state_dict(dict(state), strict=True)
        return network.eval()


def require_same_tensors(
    wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], path: str | PathLike[str] | None
) -> None:
    """Raise ``BundleError`` if the names or shapes of a state dict differ from the wanted ones, listing some."""
    if wrong := difference(wanted, found):
        raise BundleError(
            f"the weights do not fit the network's configuration: {wrong}",
            path=path,
            hint="weights and configuration are of different models: use both from the same bundle",
        )


def require_finite(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], path: str | PathLike[str] | None) -> None:
    """Raise ``BundleError`` if a tensor of a state dict is of another type than the wanted one, or not finite."""
    hint = "copy the file again, or train again"
    for name, tensor in found.items():
        if tensor.dtype != wanted[name].dtype:
            wrong = f"{name} is of {tensor.dtype}, not of {wanted[name].dtype}"
            raise BundleError(wrong.replace("torch.", ""), path=path, hint=hint)
        if not tensor.isfinite().all():
            raise BundleError(f"{name} holds values that are not finite", path=path, hint=hint)
