"""Bags as input of the networks: tensors with the graph of a slide's tiles, one slide or several in a batch.

Five types, each for one thing: :class:`~wsipipe.data.features.store.Bag` is what a feature store holds,
:class:`BagTensors` is that slide with its graph, :class:`FiledBag` the same in a file that is read when it is needed,
:class:`BagBatch` is what a network is called with, and :class:`Patient` joins the slides of a patient to the label that
they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ...data.cohort.outcomes import Label
from ...data.errors import UsageError
from ...data.features.bag_file import BagFile, FiledArrays
from ...data.features.store import Bag, FeatureFacts
from ..tasks.binary import BINARY
from ..tasks.prediction import SoftTarget
from ..tasks.task import Task
from .mixed_precision import in_float32
from .tile_graph import knn_edges


@dataclass(frozen=True)
class BagTensors:
    """One slide: its features and the graph of its tiles.

    :param features: (P, D) as stored, float16 or float32.
    :param edges: (2, E) int32, from each tile to its neighbours: sorted by source, every tile has at least one.
    :param facts: backbone, weights and tiles of the features; None if they do not come from a store.
    """

    slide_id: str
    features: Tensor
    edges: Tensor
    facts: FeatureFacts | None = None

    @property
    def tiles(self) -> int:
        """P."""
        return len(self.features)

    @property
    def bytes(self) -> int:
        """Memory that the tensors take."""
        return self.features.nbytes + self.edges.nbytes

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.features.device

    def to(self, device: torch.device) -> BagTensors:
        """Copy the slide to another device."""
        return replace(self, features=self.features.to(device), edges=self.edges.to(device))

    def read(self) -> BagTensors:
        """The slide itself, as :meth:`FiledBag.read` gives it."""
        return self

    def filed(self, file: BagFile) -> FiledBag:
        """Append the slide to a file.

        :raises SurroundingsError: the disk is full, or fails.
        """
        return FiledBag(self.slide_id, file.add(self.slide_id, [self.features.numpy(), self.edges.numpy()]), self.facts)


@dataclass(frozen=True)
class FiledBag:
    """One slide in a file: its tensors are read each time that they are needed, and not kept.

    :param arrays: features and edges, as :class:`BagTensors` holds them.
    """

    slide_id: str
    arrays: FiledArrays
    facts: FeatureFacts | None = None

    @property
    def tiles(self) -> int:
        """P."""
        return self.arrays.forms[0][0][0]

    @property
    def bytes(self) -> int:
        """Memory that the tensors take once they are read."""
        return self.arrays.bytes

    @property
    def device(self) -> torch.device:
        """The device of the tensors once they are read."""
        return torch.device("cpu")

    def to(self, device: torch.device) -> BagTensors:
        """Read the slide to a device."""
        return self.read().to(device)

    def read(self) -> BagTensors:
        """Read the slide.

        :raises SurroundingsError: the file is gone or damaged; the message names the slide.
        """
        features, edges = map(torch.from_numpy, self.arrays.read())
        return BagTensors(self.slide_id, features, edges, self.facts)


AnyBag = BagTensors | FiledBag
"""A slide, in memory or in a file."""


@dataclass(frozen=True)
class Patient:
    """A patient: slides, label, and optionally expression and a soft target for training.

    :param label: y; of a binary task 0 or 1, of other classes their place, else a number or a follow-up.
    :param bags: the patient's slides.
    :param expression: (n_genes) if RNA was measured and the training uses it.
    :param target: a soft target, of a binary task the probability of positive, of several targets that of each; None
        if the label is the target.
    :raises UsageError: a label or a soft target that the task cannot have, or expression that is not finite.
    """

    patient_id: str
    label: Label
    bags: Sequence[AnyBag]
    expression: Tensor | None = None
    target: SoftTarget | None = None
    task: Task = BINARY

    @property
    def place(self) -> int:
        """The place of the patient's class; 0 in a task without classes."""
        return self.label if isinstance(self.label, int) else 0

    @property
    def value(self) -> float | tuple[float, ...]:
        """The target value that the loss compares the slides' logits with (:meth:`.Task.value`)."""
        return self.task.value(self.patient_id, self.label, self.target)

    def __post_init__(self) -> None:
        self.task.value(self.patient_id, self.label, self.target)  # refuses values that the task cannot have
        if self.expression is not None and not bool(self.expression.isfinite().all()):
            what = "expression used in training must be finite: the fold's panel of genes imputes it"
            raise UsageError(what, path=self.patient_id)


@dataclass(frozen=True)
class BagBatch:
    """B slides of N tiles together, their graphs side by side (block-diagonal): no edge leads from one to another.

    :param x: (N, D) float32.
    :param edges: (2, E) int64, source and target, sorted by source.
    :param sizes: tiles of each slide; the slides lie one after the other.
    """

    x: Tensor
    edges: Tensor
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, slides: Sequence[AnyBag], device: torch.device | str = "cpu") -> BagBatch:
        """Join slides, in their order, on a device."""
        bags = [slide.read() for slide in slides]
        sizes = tuple(len(bag.features) for bag in bags)
        if len(bags) == 1:
            return cls(bags[0].features.to(device).float(), bags[0].edges.to(device).long(), sizes)
        begins = torch.tensor([0, *sizes[:-1]]).cumsum(0).tolist()
        edges = [bag.edges.to(device).long() + begin for bag, begin in zip(bags, begins, strict=True)]
        return cls(torch.cat([bag.features.to(device) for bag in bags]).float(), torch.cat(edges, dim=1), sizes)

    @cached_property
    def member(self) -> Tensor:
        """(B, N) bool, true if a tile belongs to a slide."""
        slides = torch.arange(len(self.sizes), device=self.x.device)
        return slides[:, None] == self.slide_of_tile[None, :]

    @cached_property
    def slide_of_tile(self) -> Tensor:
        """(N) int64, the index of each tile's slide."""
        slides = torch.arange(len(self.sizes), device=self.x.device)
        sizes = torch.tensor(self.sizes, device=self.x.device)
        return torch.repeat_interleave(slides, sizes, output_size=len(self.x))

    def softmax(self, scores: Tensor) -> Tensor:
        """Softmax of scores (N) within each slide; (B, N), zero for the tiles of other slides.

        Dense, because B × N is small and sums over rows, unlike scattered ones, have a fixed order on every device.
        """
        return scores.masked_fill(~self.member, -torch.inf).softmax(dim=1)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over each slide's tiles; (N) → (B), (N, H) → (B, H). Mixed precision does not touch it."""
        sizes = torch.tensor(self.sizes, dtype=values.dtype, device=values.device)
        with in_float32(values):
            sums = self.member.to(values.dtype) @ values
        return sums / (sizes if values.ndim == 1 else sizes[:, None])

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Split values of all tiles (N, …) into one tensor per slide."""
        return torch.split(values, list(self.sizes))


def bag_tensors(bag: Bag, neighbours: int) -> BagTensors:
    """Build a slide's tensors, with a graph from each tile to its nearest ``neighbours`` on the slide."""
    edges = knn_edges(bag.coords, neighbours).to(torch.int32)
    return BagTensors(bag.slide_id, torch.from_numpy(bag.features), edges, bag.facts)
