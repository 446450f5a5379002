"""A trained model on disk: a folder of safetensors and JSON, which cannot run code.

    fold-0/
      bundle.json            the question, how slides become bags, the network, threshold, training
      model.safetensors      the network's histology side, such as encoder, projections, memory, head
      genes.safetensors      the fitted gene panel (only if RNA was used)

``bundle.json`` holds the digest of each file, its own among them: a bundle of which a byte was changed is refused. One
of a version that did not write them is read all the same, and a warning says that it cannot be checked.

Its training patients are stored as hashes (:mod:`.patient_hashes`): enough to keep a fold from predicting them, without
a list of names.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator
from safetensors import SafetensorError
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load, save_file
from torch import Tensor

from ..data.artifact import digest_of, whole
from ..data.cohort.ids import id_key
from ..data.cohort.splits import MOST_FOLDS
from ..data.errors import BundleError, UsageError
from ..data.features.store import Bag
from ..data.json_text import fault, parse_json, read_bytes
from ..data.molecular.signature_target import Signature
from ..data.surroundings import patiently
from .feature_recipe import FeatureRecipe
from .mil.bag_tensors import BagBatch, bag_tensors
from .mil.network import MOST_GENES, SlideNetwork
from .model_question import Question as Question
from .model_question import not_needed
from .patient_hashes import bytes_hash, patient_hash, slide_hash, unsalted_hash
from .target_facts import Share, TargetFacts, refuse_other_scale
from .tasks.multitask import MultiTask
from .tasks.prediction import EVEN, Prevalence, Score, log_odds
from .tasks.task import Task
from .training.methods import network_for_inference

ENCODING_TYPE = "wsipipe-bundle"
ENCODING_VERSION = "2"
_WITHOUT_DIGESTS: Final = "1"
"""The first encoding version, whose bundles do not hold the digests of their files."""
_READ: Final = (_WITHOUT_DIGESTS, "1.1", ENCODING_VERSION)
"""Versions that can be read. Those before 2 have no prevalence, and hash patients quickly and without a salt."""

_MOST_NAMES: Final = 10_000_000
"""Of patients and slides, with their spellings."""
_AGAIN: Final = "copy it again, or train again"
_DIGESTS: Final = "digests"


class BundleFacts(BaseModel):
    """Everything in a bundle that is not a tensor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: Question
    fold: int = Field(ge=0)
    folds: int = Field(ge=1, le=MOST_FOLDS)
    splits_digest: str
    """All folds of one model share it."""
    recipe: FeatureRecipe
    method: str
    """Which network it is (:data:`~wsipipe.models.training.methods.METHODS`)."""
    network: dict[str, Any]
    """Its configuration."""
    prevalence: Share | tuple[Share, ...] | None = None
    """Share of positives, or of each of several classes, among the training patients; None if it is unknown, or if the
    task has no classes."""
    threshold: FiniteFloat
    """Probability from which a patient is called positive, at even prevalence as the network's scores are, or risk from
    which one is called high; chosen on the fold's validation patients."""
    seen: list[str] = Field(max_length=_MOST_NAMES)
    """Hashes of the training and validation patients, of their slides' ids and of their bytes, sorted; the fold must
    not predict them. Empty in a model without this record."""
    hashed_by: Literal["sha256", "scrypt"] = "sha256"
    """How they are hashed: quickly, as in bundles of the first version, or slowly and with the model's salt."""
    patients: dict[str, int]
    """Number of training, validation and test patients."""
    genes: list[str] = Field(max_length=MOST_GENES)
    gene_panel: dict[str, Any]
    task_state: dict[str, Any] = {}
    """What the task has learned from the fold's training patients, such as the scale of a number."""
    signature: Signature | None = None
    """Of a signature's question: its genes, and what it has taken from the fold's training patients."""
    of_targets: dict[str, TargetFacts] = {}
    """Of a model of several targets: what it holds of each."""
    training: dict[str, Any]
    """Settings, learning curve, best epoch, use of the memory, soft targets."""
    versions: dict[str, str]

    @property
    def task(self) -> Task:
        """The task, with what it has learned from the fold's training patients."""
        return self.question.asked(self.task_state)

    def of_target(self, name: str) -> Self:
        """The facts of one target, as of a model of that target alone."""
        own = self.of_targets[name]
        changed = {
            "question": self.question.of_target(name),
            "threshold": own.threshold,
            "prevalence": own.prevalence,
            "task_state": self.task_state[name],
            "patients": self.patients | own.patients,
            "of_targets": {},
            "training": self.training | {"soft_targets": self.training.get("soft_targets", {}).get(name, {})},
        }
        return self.model_copy(update=changed)

    @model_validator(mode="after")
    def _fold_is_one_of_the_folds(self) -> Self:
        if self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} is none of {self.folds}, counted from 0")
        return self

    @model_validator(mode="after")
    def _task_is_one(self) -> Self:
        try:
            task = self.task
        except BundleError as error:
            raise ValueError(error.what) from error
        refuse_other_scale(task, self.threshold, self.prevalence)
        if bool(self.question.signature) != (self.signature is not None):
            raise ValueError("its question is of a signature, or its target is one, but not both")
        if self.of_targets.keys() != set(self.question.targets):
            raise ValueError(f"it has facts of the targets {list(self.of_targets)}, not of {self.question.targets}")
        if isinstance(task, MultiTask):
            for name, own in self.of_targets.items():
                refuse_other_scale(task.targets[name], own.threshold, own.prevalence)
        return self

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

    logit: Score
    """The slide's score; of a binary task the log-odds of positive at even prevalence."""
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
        score = self.network.task.slide_scores(output.logits[0].double()).tolist()
        return SlideReading(tuple(score) if isinstance(score, list) else score, attention, scores)


def write_bundle(
    path: Path, facts: BundleFacts, network: SlideNetwork, gene_arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write a bundle, completely or not at all. Equal content gives equal bytes."""
    content = {
        "encoding-type": ENCODING_TYPE,
        "encoding-version": ENCODING_VERSION,
        **facts.model_dump(mode="json", exclude=not_needed(facts.question)),
    }
    with whole(path) as scratch:
        scratch.mkdir()
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(network.inference_state().items())}
        save_file(state, scratch / "model.safetensors")
        if gene_arrays:
            save_arrays(dict(sorted(gene_arrays.items())), scratch / "genes.safetensors")
        digests = {file.name: digest_of(file) for file in sorted(scratch.iterdir())}
        digests["bundle.json"] = _digest(_text(content))
        (scratch / "bundle.json").write_bytes(_text({**content, _DIGESTS: digests}))


def _text(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def read_facts(path: Path) -> BundleFacts:
    """Read a bundle's facts.

    :raises BundleError: it is not a bundle, one of another version, or its ``bundle.json`` was changed.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[BundleFacts, dict[str, str]]:
    """Read a bundle's facts and the digests of its files; a bundle of an earlier version has none."""
    file = path / "bundle.json"
    text = patiently(lambda: _bytes(path, file), file)
    try:
        content = parse_json(text)
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        kind, version = content.get("encoding-type"), content.get("encoding-version")
        if kind != ENCODING_TYPE or version not in _READ:
            raise BundleError(
                f"is {kind} version {version}, not {ENCODING_TYPE} version {' or '.join(_READ)}",
                path=file,
                hint="use the wsipipe that wrote it",
            )
        facts = BundleFacts.model_validate(
            {
                name: value
                for name, value in content.items()
                if name not in ("encoding-type", "encoding-version", _DIGESTS)
            }
        )
    except ValueError as error:
        raise BundleError(f"is damaged or not a bundle: {fault(error)}", path=file, hint=_AGAIN) from error

    takes = facts.network.get("in_features")
    if takes != facts.recipe.width:
        raise BundleError(
            f"contradicts itself: its network takes features of {takes} numbers, and its backbone gives them of "
            f"{facts.recipe.width}",
            path=file,
            hint=_AGAIN,
        )
    as_written = _text(content) == text  # blanks and the order of the keys are bytes of it too
    digests = content.pop(_DIGESTS, {})
    if version == _WITHOUT_DIGESTS and not digests:
        return facts, {}
    if not isinstance(digests, dict) or digests.get(file.name) != _digest(_text(content)) or not as_written:
        raise _changed(file)
    return facts, digests


def _bytes(path: Path, file: Path) -> bytes:
    if path.is_dir() and file.exists():
        return read_bytes(file, BundleError, hint=_AGAIN)
    raise BundleError(
        "there is no bundle here", path=path, hint="`wsipipe train` makes one per fold"
    ) from FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _changed(file: Path) -> BundleError:
    return BundleError(
        "was changed since the bundle was written: its bytes are not those of its digest", path=file, hint=_AGAIN
    )


def read_bundle(path: str | Path, device: str | torch.device = "cpu") -> Bundle:
    """Read a bundle's facts and its network, in evaluation mode.

    :raises BundleError: it is not a bundle, a file of it was changed, or facts and weights do not match.
    """
    facts, digests = _read(path := Path(path))
    file = path / "model.safetensors"
    contents = {name: _file(path / name) for name in (file.name, "genes.safetensors") if name in (file.name, *digests)}
    state = _tensors(contents[file.name], file)
    for name, content in contents.items():
        if digests and digests.get(name) != _digest(content):
            raise _changed(path / name)
    task = facts.task
    network = network_for_inference(facts.method, facts.network, state, task=task, path=file)
    return Bundle(facts, network.to(device))


def _file(file: Path) -> bytes:
    hint, most = _AGAIN, _MOST_TENSORS
    return patiently(lambda: read_bytes(file, BundleError, hint=hint, most=most), file)


_MOST_TENSORS: Final = 8 << 30
"""Bytes of a file of tensors; those of the largest network that can be trained here are a hundredth of it."""


def _tensors(content: bytes, file: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load(content)
        return tensors
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise BundleError(f"cannot be read: {error}", path=file, hint=_AGAIN) from error


def folds_of(model: Path) -> list[tuple[Path, BundleFacts]]:
    """Read the bundles of a trained model, one per fold, in order.

    A warning says if an earlier version wrote them, which did not store the digests of their files.

    :raises BundleError: there are none, one is missing or of another fold, or they are from different trainings.
    """
    if not model.is_dir():
        hint = "give the folder of a model, such as work/models/her2"
        raise BundleError("there is no model here", path=model, hint=hint)
    if (model / "bundle.json").exists() and not (model / "fold-0").exists():
        above = f"give the folder above: {model.absolute().parent}"
        raise BundleError("is one fold of a model, and not the model", path=model, hint=above)
    first = read_facts(model / "fold-0")
    bundles, unchecked = [], False
    for fold in range(first.folds):
        path = model / f"fold-{fold}"
        facts, digests = _read(path)
        if facts.splits_digest != first.splits_digest or facts.recipe != first.recipe:
            raise BundleError(
                "is from another training than fold-0", path=path, hint="run wsipipe train to the end, or copy it whole"
            )
        if (facts.fold, facts.folds) != (fold, first.folds):
            wrong = f"is fold {facts.fold} of {facts.folds}, and lies where fold {fold} of {first.folds} should be"
            raise BundleError(wrong, path=path, hint="copy the model again, or train again")
        bundles.append((path, facts))
        unchecked |= not digests
    if unchecked:
        warnings.warn(f"{model}: {_UNCHECKED}", stacklevel=2)
    return bundles


_UNCHECKED: Final = (
    "an earlier version wrote this model, without the digests of its files: that nobody changed them cannot be checked"
)


def prevalence_of(bundles: Sequence[tuple[Path, BundleFacts]], given: float | None) -> Prevalence:
    """Find the prevalence at which a model's probabilities are shown: the given one, else its training patients'.

    The mean over the folds: the same for all patients, so that their order does not depend on who read them. A model of
    several classes that an earlier version trained does not say it: its classes count as equally frequent, as then.

    :param given: the user's; None for the model's own.
    :raises BundleError: none is given and a bundle does not say it, being of an earlier version, or imported.
    :raises UsageError: the given one does not lie between 0 and 1, or the model's task is not of two classes.
    """
    path, first = bundles[0]
    task = first.task
    if given is not None:
        if task.name != "binary":
            raise UsageError(
                f"a prevalence is of two classes, positive and negative, and this model's question is {task.name}",
                path=path.parent,
                hint="leave --prevalence out",
            )
        log_odds(given)
        return given
    known = [facts.prevalence for _, facts in bundles]
    if task.name != "binary":
        of_classes = [shares for shares in known if isinstance(shares, tuple)]
        if task.has_prevalence and len(of_classes) == len(known):
            return tuple(fmean(own) for own in zip(*of_classes, strict=True))
        return () if task.has_prevalence else EVEN
    for (path, _), prevalence in zip(bundles, known, strict=True):
        if prevalence is None:
            raise BundleError(
                "does not say how many of its training patients were positive, which its probabilities depend on",
                path=path,
                hint="give --prevalence, the share of positive patients where it is used (with 0.5, probabilities are "
                "those of earlier versions of wsipipe); or train it again",
            )
    return fmean(prevalence for prevalence in known if isinstance(prevalence, float))
