"""A trained model on disk: a folder of safetensors and JSON, which cannot run code.

    fold-0/
      bundle.json            the question, how slides become bags, the network, threshold, training
      model.safetensors      the network's histology side, such as encoder, projections, memory, head
      genes.safetensors      the fitted gene panel (only if RNA was used)

Its training patients are stored as hashes (:mod:`.patient_hashes`): enough to keep a fold from predicting them, without
a list of names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..data.artifact import whole
from ..data.cohort.ids import id_key
from ..data.errors import BundleError
from ..data.features.store import Bag, FeatureFacts
from ..data.plain_files import refuse_pipe
from ..data.surroundings import patiently
from .backbones.backbone import Pooling, find_backbone
from .mil.bag_tensors import BagBatch, bag_tensors
from .mil.network import SlideNetwork
from .patient_hashes import bytes_hash, patient_hash, slide_hash, unsalted_hash
from .tasks.prediction import EVEN, log_odds
from .tasks.task import Task, find_task
from .training.methods import network_for_inference

ENCODING_TYPE = "wsipipe-bundle"
ENCODING_VERSION = "2"
_READ: Final = ("1", ENCODING_VERSION)
"""Versions that can be read. The first has no prevalence, and hashes patients quickly and without a salt."""
_SAME_MPP: Final = 0.02  # relative: scanners' resolutions differ by as much


class Question(BaseModel):
    """The question a model answers: the label column and its positive and negative values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    label_column: str
    positive: list[str]
    negative: list[str]

    @property
    def task(self) -> Task:
        """The task of the question; bundles of this version are always binary and do not store it."""
        return find_task("binary")


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
        """Refuse features of another backbone, other weights, other tiles, another resolution, or another width.

        :raises BundleError: they differ; the message names the values.
        """
        own = {name: getattr(self, name) for name in ("backbone", "pooling", "weights_digest", "tile_px", "width")}
        other = [f"{n} is {getattr(facts, n)}, not {value}" for n, value in own.items() if getattr(facts, n) != value]
        wanted = self.tile.get("mpp")
        if wanted is not None and abs(facts.mpp / wanted - 1) > self._mpp_tolerance:
            other.append(f"mpp is {facts.mpp:.6g}, not {wanted:g}")
        if other:
            raise BundleError(
                f"these features are not what the model was trained on: {'; '.join(other)}",
                path=path,
                hint=_IMPORT_AGAIN if "unknown: " in self.weights_digest + self.pooling else _EXTRACT_AGAIN,
            )

    @property
    def _mpp_tolerance(self) -> float:
        """How far a slide's tiles may be from the wanted mpp: as a level read without resampling, and by rounding."""
        return max(_SAME_MPP, float(self.tile.get("native_tolerance", 0))) + 1 / self.tile_px

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
    prevalence: float | None = Field(None, gt=0, lt=1)
    """Share of positives among the training patients; None if it is unknown, or if the task has no two classes."""
    threshold: float
    """Probability from which a patient is called positive, at even prevalence as the network's scores are; chosen on
    the fold's validation patients."""
    seen: list[str]
    """Hashes of the training and validation patients, of their slides' ids and of their bytes, sorted; the fold must
    not predict them. Empty in a model without this record."""
    hashed_by: Literal["sha256", "scrypt"] = "sha256"
    """How they are hashed: quickly, as in bundles of the first version, or slowly and with the model's salt."""
    patients: dict[str, int]
    """Number of training, validation and test patients."""
    genes: list[str]
    gene_panel: dict[str, Any]
    training: dict[str, Any]
    """Settings, learning curve, best epoch, use of the memory, soft targets."""
    versions: dict[str, str]

    def saw(self, patient_id: str | None, slide_digest: str | None, slide_id: str | None = None) -> bool:
        """Whether this fold was trained or validated on the patient, or on a slide with these bytes or this id."""
        if not self.seen:
            return False
        seen, salt = set(self.seen), self.splits_digest
        if self.hashed_by == "sha256":
            spellings = (patient_id, id_key(patient_id)) if patient_id else ()
            names = [*spellings, slide_digest, slide_id and f"slide\0{id_key(slide_id)}"]
            return any(unsalted_hash(name) in seen for name in names if name)
        return bool(
            (slide_digest and bytes_hash(slide_digest, salt) in seen)
            or (patient_id and patient_hash(patient_id, salt) in seen)
            or (slide_id and slide_hash(slide_id, salt) in seen)
        )


@dataclass(frozen=True)
class SlideReading:
    """A model's output for one slide."""

    logit: float
    """The slide's score; of a binary task the log-odds of positive at even prevalence."""
    attention: NDArray[np.float32]
    """(P), sums to 1."""
    scores: NDArray[np.float32]
    """(P), the evidence of each tile; of a binary task above zero if it is for positive."""


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
        return SlideReading(float(self.network.task.score(output.logits[0].double())), attention, scores)


def write_bundle(
    path: Path, facts: BundleFacts, network: SlideNetwork, gene_arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write a bundle, completely or not at all. Equal content gives equal bytes."""
    content = {
        "encoding-type": ENCODING_TYPE,
        "encoding-version": ENCODING_VERSION,
        **facts.model_dump(mode="json"),
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
        if kind != ENCODING_TYPE or version not in _READ:
            raise BundleError(
                f"is {kind} version {version}, not {ENCODING_TYPE} version {' or '.join(_READ)}",
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
    task = facts.question.task
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


def prevalence_of(bundles: Sequence[tuple[Path, BundleFacts]], given: float | None) -> float:
    """Find the prevalence at which a model's probabilities are shown: the given one, else its training patients'.

    The mean over the folds: one number for all patients, so that their order does not depend on who read them.

    :param given: the user's; None for the model's own.
    :raises BundleError: none is given and a bundle does not say it, being of an earlier version, or imported.
    :raises UsageError: the given one does not lie between 0 and 1.
    """
    if given is not None:
        log_odds(given)
        return given
    if not bundles[0][1].question.task.has_prevalence:
        return EVEN
    known = [facts.prevalence for _, facts in bundles]
    for (path, _), prevalence in zip(bundles, known, strict=True):
        if prevalence is None:
            raise BundleError(
                "does not say how many of its training patients were positive, which its probabilities depend on",
                path=path,
                hint="give --prevalence, the share of positive patients where it is used (with 0.5, probabilities are "
                "those of earlier versions of wsipipe); or train it again",
            )
    return fmean(prevalence for prevalence in known if prevalence is not None)
