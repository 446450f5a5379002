"""The methods that can be trained: which network, fitted how. All read the same bags, on the same splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any, Final

from pydantic import ValidationError
from torch import Tensor

from ...data.errors import BundleError, UsageError
from ..mil.abmil import ABMIL
from ..mil.clam import CLAM
from ..mil.evidence_memory import EvidenceMemory
from ..mil.feature_matching import FeatureMatching
from ..mil.mean_pooling import MeanPooling
from ..mil.momkd import MoMKD
from ..mil.network import NetworkConfig, SlideNetwork
from ..mil.transmil import TransMIL
from .fit import Fit, fit
from .logistic import fit_mean


@dataclass(frozen=True)
class Method:
    """A way to learn to read slides."""

    title: str
    """For tables and reports."""
    source: str
    """What it is, or whose."""
    network: type[SlideNetwork]
    fit: Callable[..., Fit] = fit
    """With the signature of :func:`.fit.fit`."""
    uses_rna: bool = False
    """Whether patients' expression enters its training, beside soft targets."""


METHODS: Final[dict[str, Method]] = {
    "momkd": Method("MoMKD", "momentum memory knowledge distillation, CVPR 2026", MoMKD, uses_rna=True),
    "evidence": Method(
        "Evidence memory", "slots in which a slide meets its own RNA; ours", EvidenceMemory, uses_rna=True
    ),
    "matching": Method("Feature matching", "distillation within the batch", FeatureMatching, uses_rna=True),
    "abmil": Method("ABMIL", "gated attention, Ilse et al. 2018", ABMIL),
    "clam-sb": Method("CLAM-SB", "attention with instance clustering, Lu et al. 2021", CLAM),
    "transmil": Method("TransMIL", "transformer over tiles, Shao et al. 2021", TransMIL),
    "mean": Method("Mean pooling", "logistic regression on the mean tile", MeanPooling, fit_mean),
}


def find_method(name: str) -> Method:
    """A method by its name.

    :raises UsageError: there is none of that name.
    """
    if name not in METHODS:
        raise UsageError(f"no method is called {name!r}", hint=f"there are {', '.join(METHODS)}")
    return METHODS[name]


def network_for_inference(
    method: str, config: Mapping[str, Any], state: Mapping[str, Tensor], *, path: str | PathLike[str]
) -> SlideNetwork:
    """A network for inference, on the CPU, from a bundle's words and tensors.

    :param path: the file the state is from, for messages.
    :raises BundleError: no such method, a configuration that is not its own, or tensors that do not fit it.
    """
    hint = "use the wsipipe that wrote it, or copy it again"
    if method not in METHODS:
        raise BundleError(f"its method {method!r} is not known here", path=path, hint=hint)
    network = METHODS[method].network
    try:
        checked: NetworkConfig = network.Config.model_validate(config)
    except ValidationError as error:
        what = f"its configuration is not that of {method}: {str(error).splitlines()[0]}"
        raise BundleError(what, path=path, hint=hint) from error
    return network.for_inference(checked, state, path=path)
