"""A trained model on disk: a folder of safetensors and JSON, which cannot run code.

    fold-0/
      bundle.json            the question, how slides become bags, the network, threshold, training
      model.safetensors      the network's histology side, such as encoder, projections, memory, head
      genes.safetensors      the fitted gene panel (only if RNA was used)

Its training patients are stored as hashes: enough to keep a fold from predicting them, without a list of names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..data.artifact import whole
from ..data.cohort.ids import id_key
from ..data.errors import BundleError
from ..data.features.store import Bag, FeatureFacts
from ..data.molecular.signature_target import Signature
from ..data.plain_files import refuse_pipe
from ..data.surroundings import patiently
from .backbones.backbone import Pooling, find_backbone
from .mil.bag_tensors import BagBatch, bag_tensors
from .mil.network import SlideNetwork
from .tasks.prediction import Score
from .tasks.question import TaskName, class_names
from .tasks.task import Task, find_task
from .training.methods import network_for_inference

ENCODING_TYPE = "wsipipe-bundle"
ENCODING_VERSION = "1"


class Question(BaseModel):
    """The question a model answers: the task, the columns, and which values mean which class.

    A bundle of a binary question stores no task.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    label_column: str
    positive: list[str]
    negative: list[str]
    task: TaskName = "binary"
    classes: list[str] = []
    robust: bool = False
    time_column: str = ""
    event_column: str = ""
    signature: str = ""
    signature_score: str = "auto"
    cut: str = ""

    def asked(self, state: Mapping[str, Any] | None = None) -> Task:
        """Return the task.

        :param state: what it has learned from training patients (:attr:`BundleFacts.task_state`).
        """
        return find_task(self.task, class_names(self.classes), state, robust=self.robust)


_OF_OTHER_TASKS = {"task", "classes", "robust", "time_column", "event_column"}
_OF_SIGNATURES = {"signature", "signature_score", "cut"}
_EXTRACT_AGAIN = "extract with the model's own backbone and weights (pass them with --weights FILE)"
_IMPORT_AGAIN = "its features were imported: import them again with --weights FILE, train again, and predict"


class FeatureRecipe(BaseModel):
    """How a slide's features were made: the settings of both stages, and the values that must match exactly."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tile: dict[str, Any]
    extract: dict[str, Any]
    tile_px: int
    backbone: str
    pooling: str
    weights_digest: str
    width: int
    neighbours: int

    @property
    def pooling_text(self) -> str:
        """The pooling in words, for reports."""
        return {"pooled": "its own pooling", "cls": "class token", "mean": "mean of patch tokens"}.get(
            self.pooling, "class token and mean of patch tokens"
        )

    def refuse_other(self, facts: FeatureFacts, path: Path) -> None:
        """Refuse features of another backbone, other weights, other tiles, or another width.

        :raises BundleError: they differ; the message names the values.
        """
        own = {name: getattr(self, name) for name in ("backbone", "pooling", "weights_digest", "tile_px", "width")}
        other = [f"{n} is {getattr(facts, n)}, not {value}" for n, value in own.items() if getattr(facts, n) != value]
        if other:
            raise BundleError(
                f"these features are not what the model was trained on: {'; '.join(other)}",
                path=path,
                hint=_IMPORT_AGAIN if "unknown: " in self.weights_digest + self.pooling else _EXTRACT_AGAIN,
            )

    def refuse_other_width(self, path: Path) -> None:
        """Refuse a model whose width its own backbone cannot give, before days of extraction for it.

        :param path: the model's folder.
        :raises BundleError: the backbone gives features of another width than the model takes.
        """
        pooling = next((known for known in get_args(Pooling) if known == self.pooling), None)
        widths = find_backbone(self.backbone, pooling).widths() if pooling is not None else {self.width}
        if self.width not in widths:
            gives = " or ".join(map(str, sorted(widths)))
            raise BundleError(
                f"it takes features of {self.width} numbers, and its backbone {self.backbone} gives {gives}",
                path=path,
                hint="its features were of another backbone: import them under its name, and train again",
            )


class BundleFacts(BaseModel):
    """Everything in a bundle that is not a tensor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: Question
    fold: int
    folds: int
    splits_digest: str
    """All folds of one model share it."""
    recipe: FeatureRecipe
    method: str
    """Which network it is (:data:`~wsipipe.models.training.methods.METHODS`)."""
    network: dict[str, Any]
    """Its configuration."""
    threshold: float
    """Probability from which a patient is called positive; chosen on the fold's validation patients."""
    seen: list[str]
    """Hashes of the training and validation patients, of their slides' ids and of their bytes, sorted; the fold must
    not predict them. Empty in a model without this record."""
    patients: dict[str, int]
    """Number of training, validation and test patients."""
    genes: list[str]
    gene_panel: dict[str, Any]
    task_state: dict[str, Any] = {}
    """What the task has learned from the fold's training patients, such as the scale of a number."""
    signature: Signature | None = None
    """Of a signature's question: its genes, and what it has taken from the fold's training patients."""
    training: dict[str, Any]
    """Settings, learning curve, best epoch, use of the memory, soft targets."""
    versions: dict[str, str]

    @property
    def task(self) -> Task:
        """The task, with what it has learned from the fold's training patients."""
        return self.question.asked(self.task_state)

    def saw(self, patient_id: str | None, slide_digest: str | None, slide_id: str | None = None) -> bool:
        """Whether this fold was trained or validated on the patient, or on a slide with these bytes or this id."""
        names = [*(_spellings(patient_id) if patient_id else ()), slide_digest, slide_id and _slide_name(slide_id)]
        return bool({anonymous(name) for name in names if name} & set(self.seen))


def anonymous(name: str) -> str:
    """Hash a patient's or slide's id for a bundle. Different spellings of an id give different hashes."""
    return hashlib.sha256(b"wsipipe\0" + name.encode()).hexdigest()[:24]


def _slide_name(slide_id: str) -> str:
    """The normalised form of a slide's id, marked so that a patient with the same id has another hash."""
    return f"slide\0{id_key(slide_id)}"


@dataclass(frozen=True)
class SlideReading:
    """A model's output for one slide."""

    logit: Score
    """The slide's score; of a binary task the log-odds of positive."""
    attention: NDArray[np.float32]
    """(P), sums to 1."""
    scores: NDArray[np.float32]
    """(P), or (P, C) of several classes, the evidence of each tile; above zero if it is for positive, or the class."""


@dataclass(frozen=True)
class Bundle:
    """A model of one fold, ready to predict."""

    facts: BundleFacts
    network: SlideNetwork

    def read(self, bag: Bag, path: Path) -> SlideReading:
        """Compute a slide's score, attention and tile scores.

        :param path: the bag's store, for messages.
        :raises BundleError: the features are not what the model was trained on.
        """
        self.facts.recipe.refuse_other(bag.facts, path)
        tensors = bag_tensors(bag, self.facts.recipe.neighbours)
        with torch.inference_mode():
            output = self.network(BagBatch.of([tensors], self.network.device))
        attention, scores = (t.float().cpu().numpy() for t in (output.attention, output.scores))
        score = self.network.task.score(output.logits[0].double()).tolist()
        return SlideReading(tuple(score) if isinstance(score, list) else score, attention, scores)


def _not_needed(question: Question) -> dict[str, Any]:
    """What a bundle of this question leaves out: what only other tasks, or only signatures, need."""
    binary = question.task == "binary"
    fields = (_OF_OTHER_TASKS if binary else set()) | (set() if question.signature else _OF_SIGNATURES)
    left_out: dict[str, Any] = {"question": fields} | ({"task_state": True} if binary else {})
    return left_out if question.signature else left_out | {"signature": True}


def write_bundle(
    path: Path, facts: BundleFacts, network: SlideNetwork, gene_arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write a bundle, completely or not at all. Equal content gives equal bytes."""
    content = {
        "encoding-type": ENCODING_TYPE,
        "encoding-version": ENCODING_VERSION,
        **facts.model_dump(mode="json", exclude=_not_needed(facts.question)),
    }
    with whole(path) as scratch:
        scratch.mkdir()
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(network.inference_state().items())}
        save_file(state, scratch / "model.safetensors")
        if gene_arrays:
            save_arrays(dict(sorted(gene_arrays.items())), scratch / "genes.safetensors")
        text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        (scratch / "bundle.json").write_text(text + "\n", encoding="utf-8")


def read_facts(path: Path) -> BundleFacts:
    """Read a bundle's facts.

    :raises BundleError: it is not a bundle, or one of another version.
    """
    file = path / "bundle.json"
    try:
        content = json.loads(patiently(lambda: _text(path, file), file))
        kind, version = content.pop("encoding-type", None), content.pop("encoding-version", None)
        if (kind, version) != (ENCODING_TYPE, ENCODING_VERSION):
            raise BundleError(
                f"is {kind} version {version}, not {ENCODING_TYPE} version {ENCODING_VERSION}",
                path=file,
                hint="use the wsipipe that wrote it",
            )
        facts = BundleFacts.model_validate(content)
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise BundleError(
            f"is damaged or not a bundle: {first}", path=file, hint="copy it again, or train again"
        ) from error

    takes = facts.network.get("in_features")
    if takes != facts.recipe.width:
        raise BundleError(
            f"contradicts itself: its network takes features of {takes} numbers, and its backbone gives them of "
            f"{facts.recipe.width}",
            path=file,
            hint="copy it again, or train again",
        )
    return facts


def _text(path: Path, file: Path) -> str:
    refuse_pipe(file, BundleError)
    try:
        return file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError("there is no bundle here", path=path, hint="`wsipipe train` makes one per fold") from error


def read_bundle(path: Path, device: torch.device) -> Bundle:
    """Read a bundle's facts and its network, in evaluation mode.

    :raises BundleError: it is not a bundle, or facts and weights do not match.
    """
    facts = read_facts(path)
    file = path / "model.safetensors"
    state = patiently(lambda: _tensors(file), file)
    task = facts.task
    network = network_for_inference(facts.method, facts.network, state, task=task, path=file)
    return Bundle(facts, network.to(device))


def _tensors(file: Path) -> dict[str, Tensor]:
    refuse_pipe(file, BundleError)
    try:
        tensors: dict[str, Tensor] = load_file(file)
        return tensors
    except (FileNotFoundError, SafetensorError) as error:
        raise BundleError(f"cannot be read: {error}", path=file, hint="copy it again, or train again") from error


def folds_of(model: Path) -> list[tuple[Path, BundleFacts]]:
    """Read the bundles of a trained model, one per fold, in order.

    :raises BundleError: there are none, one is missing, or they are from different trainings.
    """
    folder = model
    first = read_facts(folder / "fold-0") if folder.is_dir() else None
    if first is None:
        raise BundleError(
            "there is no model here", path=model, hint="give the folder of a model, such as work/models/her2"
        )
    bundles = [(folder / f"fold-{fold}", read_facts(folder / f"fold-{fold}")) for fold in range(first.folds)]
    for path, facts in bundles:
        if facts.splits_digest != first.splits_digest or facts.recipe != first.recipe:
            raise BundleError(
                "is from another training than fold-0", path=path, hint="run wsipipe train to the end, or copy it whole"
            )
    return bundles


def seen_hashes(patients: Iterable[str], slide_digests: Iterable[str], slide_ids: Iterable[str] = ()) -> list[str]:
    """Compute the hashes for :attr:`BundleFacts.seen`, sorted."""
    spellings = [spelling for patient in patients for spelling in _spellings(patient)]
    return sorted({anonymous(name) for name in (*spellings, *slide_digests, *map(_slide_name, slide_ids))})


def _spellings(patient: str) -> tuple[str, str]:
    """A patient's id as given, which bundles of earlier versions hash, and its normalised form."""
    return patient, id_key(patient)
