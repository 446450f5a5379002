"""The table of methods that can be trained: a network and its fitting function each, on the same bags and splits.

A row holds the import path of its network, so that settings and ``--help`` can list the table without loading PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from os import PathLike
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from ...data.errors import BundleError, UsageError, about
from ...data.json_text import fault

if TYPE_CHECKING:  # all that is heavy to import
    from torch import Tensor

    from ..mil.network import NetworkConfig, SlideNetwork
    from ..tasks.task import Task
    from .fit import Fit

BY_STEPS: Final = "training.fit:fit"
"""Module and function of the fit by gradient descent."""


@dataclass(frozen=True)
class Method:
    """A way to train a slide model."""

    title: str
    """Its name in tables and reports."""
    source: str
    """A short description, or the paper."""
    network_at: str
    """Module below ``models`` and class of its network."""
    fit_at: str = BY_STEPS
    """Module below ``models`` and function that fits it, with the signature of :func:`.fit.fit`."""
    uses_rna: bool = False
    """Whether its training uses patients' expression directly, beside soft targets."""
    uses_graph: bool = False
    """Whether it uses the graph of a slide's tiles."""
    can_start: bool = False
    """Whether it may start from weights of another training (:mod:`.mil.starting_weights`)."""
    of_targets_at: str = ""
    """As ``network_at``, of its network for several targets, if that is another one."""
    otherwise: str = ""
    """Its description for tasks other than the binary one, if it differs."""
    of_slide_vectors: bool = False
    """Whether it reads one vector a slide, as a slide encoder makes it, and not the tiles of a slide."""
    not_for: Mapping[str, str] = field(default_factory=dict)
    """Task → why the method cannot carry it."""

    @property
    def network(self) -> type[SlideNetwork]:
        """The class of its network."""
        network: type[SlideNetwork] = _load(self.network_at)
        return network

    def network_for(self, task: Task) -> type[SlideNetwork]:
        """The class of its network for a task."""
        network: type[SlideNetwork] = self.network
        if task.name == "multitask" and self.of_targets_at:
            network = _load(self.of_targets_at)
        return network

    @property
    def fit(self) -> Callable[..., Fit]:
        """The function that fits it."""
        fit: Callable[..., Fit] = _load(self.fit_at)
        return fit


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(f"{__package__.rpartition('.')[0]}.{module}"), name)


def _not_for_values(why: str) -> dict[str, str]:
    """The same reason for both tasks whose labels are no classes."""
    return {"regression": why, "survival": why}


_CLASSES: Final = "its memory has slots for classes, and these labels have none"
_ENDS: Final = "its clustering has a classifier for each class, and these labels have none"
_CUMULATIVE: Final = "its attentions are of single classes, and the logits are of all classes above one"
_PANEL: Final = "its RNA side chooses genes between classes"
_ONE_LABEL: Final = "the genes of its RNA side are chosen between the classes of one label"
_ONE_EVIDENCE: Final = "its slots weigh evidence for positive against evidence for negative, in one number"

METHODS: Final[dict[str, Method]] = {
    "momkd": Method(
        "MoMKD",
        "momentum memory knowledge distillation, CVPR 2026",
        "mil.momkd:MoMKD",
        uses_rna=True,
        uses_graph=True,
        not_for={**_not_for_values(_CLASSES), "multitask": _ONE_LABEL},
    ),
    "evidence": Method(
        "Evidence memory",
        "slots in which a slide meets its own RNA; ours",
        "mil.evidence_memory:EvidenceMemory",
        uses_rna=True,
        uses_graph=True,
        not_for={
            **dict.fromkeys(("multiclass", "ordinal", "regression", "survival"), _ONE_EVIDENCE),
            "multitask": _ONE_LABEL,
        },
    ),
    "matching": Method(
        "Feature matching",
        "distillation within the batch",
        "mil.feature_matching:FeatureMatching",
        uses_rna=True,
        uses_graph=True,
        not_for={**_not_for_values(_PANEL), "multitask": _ONE_LABEL},
    ),
    "abmil": Method("ABMIL", "gated attention, Ilse et al. 2018", "mil.abmil:ABMIL", can_start=True),
    "clam-sb": Method(
        "CLAM-SB",
        "attention with instance clustering, Lu et al. 2021",
        "mil.clam:CLAM",
        can_start=True,
        not_for=_not_for_values(_ENDS),
    ),
    "clam-mb": Method(
        "CLAM-MB",
        "attention and clustering of each class, Lu et al. 2021",
        "mil.clam:CLAMMB",
        not_for={"ordinal": _CUMULATIVE, **_not_for_values(_ENDS)},
    ),
    "transmil": Method(
        "TransMIL",
        "transformer over tiles, Shao et al. 2021, without its convolution over values",
        "mil.transmil:TransMIL",
    ),
    "mean": Method(
        "Mean pooling",
        "logistic regression on the mean tile",
        "mil.mean_pooling:MeanPooling",
        "training.logistic:fit_mean",
        of_targets_at="mil.mean_pooling:MeanPoolingOfTargets",
        otherwise="the task's linear model on the mean tile",
    ),
    "linear": Method(
        "Linear probe",
        "logistic regression on slide vectors",
        "mil.mean_pooling:MeanPooling",
        "training.logistic:fit_mean",
        of_targets_at="mil.mean_pooling:MeanPoolingOfTargets",
        otherwise="the task's linear model on slide vectors",
        of_slide_vectors=True,
    ),
}
"""Methods by name. The linear probe is the fit of mean pooling: a slide vector is a bag of one, and its own mean."""


OF_TILES: Final = tuple(name for name, method in METHODS.items() if not method.of_slide_vectors)
"""Methods that read the tiles of a slide."""


def find_method(name: str) -> Method:
    """Find a method by its name.

    :raises UsageError: there is none of that name.
    """
    if name not in METHODS:
        raise UsageError(f"no method is called {name!r}", hint=f"there are {', '.join(METHODS)}")
    return METHODS[name]


def refuse_task(name: str, task: str) -> None:
    """Refuse a method that cannot carry a task.

    :raises UsageError: it cannot; the message has the reason, and the hint the methods that can.
    """
    why = find_method(name).not_for.get(task)
    if why is not None:
        able = [other for other, method in METHODS.items() if task not in method.not_for]
        raise UsageError(f"{name} cannot answer a {task} question: {why}", hint=f"--method {', '.join(able)} can")


def refuse_features(name: str, *, slide_vectors: bool) -> None:
    """Refuse a method that reads tiles where there is one vector a slide, and the other way round.

    :raises UsageError: it does not go with the features; the hint has the methods that do.
    """
    if find_method(name).of_slide_vectors == slide_vectors:
        return
    able = ", ".join(other for other in METHODS if (other in OF_TILES) != slide_vectors)
    if slide_vectors:
        raise UsageError(f"{name} reads tiles, and these features are one vector a slide", hint=f"--method {able}")
    what = f"{name} reads slide vectors, and these are features of tiles"
    raise UsageError(what, hint=f"wsipipe encode makes slide vectors, and --features names them; of tiles: {able}")


def refuse_start(name: str) -> None:
    """Refuse a method that cannot start from weights of another training.

    :raises UsageError: it cannot; the hint has the methods that can.
    """
    if not find_method(name).can_start:
        able = [other for other, method in METHODS.items() if method.can_start]
        what = f"{name} cannot start from weights of another training: its layers are not those of gated attention"
        raise UsageError(what, hint=f"--method {', '.join(able)} can; or leave --init out")


def refuse_targets(name: str, targets: Mapping[str, str]) -> None:
    """Refuse a method that cannot carry one of several targets.

    :param targets: name → task.
    :raises UsageError: it cannot; the message names the target.
    """
    refuse_task(name, "multitask")
    for target, task in targets.items():
        with about(f"biomarkers.{target}"):
            refuse_task(name, task)


def network_for_inference(
    method: str, config: Mapping[str, Any], state: Mapping[str, Tensor], *, task: Task, path: str | PathLike[str]
) -> SlideNetwork:
    """Build a network for inference, on the CPU, from a bundle's configuration and tensors.

    :param path: the file the state is from, for messages.
    :raises BundleError: unknown method, a configuration of another method, or tensors that do not fit it.
    """
    hint = "use the wsipipe that wrote it, or copy it again"
    if method not in METHODS:
        raise BundleError(f"its method {method!r} is not known here", path=path, hint=hint)
    network = METHODS[method].network_for(task)
    try:
        checked: NetworkConfig = network.Config.model_validate(config)
    except ValidationError as error:
        what = f"its configuration is not that of {method}: {fault(error)}"
        raise BundleError(what, path=path, hint=hint) from error
    return network.for_inference(checked, state, task=task, path=path)
