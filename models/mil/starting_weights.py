"""Weights of another training from which gated attention starts, such as those of FEATHER.

FEATHER is ABMIL, trained to tell 108 diagnoses apart (Shao et al., Do Multiple Instance Learning Models Transfer?, ICML
2025). Its embedding and its attention are the start; its classifier is left out, since the question is another one. A
file of CLAM's authors or a bundle of this project (``model.safetensors``) serves as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Final

from torch import Tensor

from ...data.errors import BundleError
from ...data.wording import some
from ..backbones.state_dicts import unwrapped, without_common_prefix
from .abmil import ABMIL
from .checkpoint_file import read_checkpoint

_EMBEDDING: Final = "embedding.0"
_ATTENTION: Final = ("attention.V", "attention.U", "attention.w")
_NAMES: Final = {
    "patch_embed.0": _EMBEDDING,
    "attention_net.0": _EMBEDDING,
    **{
        f"{place}.{theirs}": ours
        for place in ("global_attn", "attention_net.2", "attention_net.3")
        for theirs, ours in zip(("attention_a.0", "attention_b.0", "attention_c"), _ATTENTION, strict=True)
    },
    **{name: name for name in (_EMBEDDING, *_ATTENTION)},
}
"""Layer in the files of FEATHER, of CLAM (with and without dropout) and of ours → layer here."""
_OF_ITS_QUESTION: Final = ("classifier", "classifiers", "instance_classifiers", "head")
"""Layers that answer the question of the other training."""
_HINT: Final = "FEATHER's weights, CLAM's, or model.safetensors of a bundle with method abmil can be the start"


@dataclass(frozen=True)
class StartingWeights:
    """The embedding and the attention of a network of gated attention, float32 on the CPU, under the names of ABMIL."""

    path: str
    tensors: Mapping[str, Tensor]

    @property
    def in_features(self) -> int:
        """D, the width of the features that it reads."""
        return self.tensors[f"{_EMBEDDING}.weight"].shape[1]

    @property
    def sizes(self) -> dict[str, int]:
        """Widths of its layers, by the names of :class:`.ABMILConfig`."""
        attention, hidden = self.tensors[f"{_ATTENTION[0]}.weight"].shape
        return {"hidden": hidden, "attention": attention}

    def copy_to(self, network: ABMIL, *, frozen: bool) -> None:
        """Give a network these weights, in place; its head stays as it is.

        :param frozen: whether training leaves them as they are, so that the head alone learns.
        :raises BundleError: the network has other sizes.
        """
        own = dict(network.named_parameters())
        for name, tensor in self.tensors.items():
            if own[name].shape != tensor.shape:
                what = f"{name} has the shape {(*tensor.shape,)}, and the network's is {(*own[name].shape,)}"
                raise BundleError(f"cannot be the start: {what}", path=self.path, hint=_HINT)
            own[name].data.copy_(tensor)
            own[name].requires_grad_(not frozen)


def read_starting_weights(path: str | PathLike[str], *, beside: Sequence[str] = ()) -> StartingWeights:
    """Read weights to start from; no code in the file is run.

    :param beside: further layers of the file that are left out.
    :raises BundleError: no such file, or not one of a single gated attention over an embedding of one layer.
    """
    found = without_common_prefix(unwrapped(read_checkpoint(path, _HINT)).tensors)
    tensors: dict[str, Tensor] = {}
    unknown = []
    for full, tensor in found.items():
        name = full.removeprefix("model.")  # of a network in another's class
        layer, _, kind = name.rpartition(".")
        if layer in _NAMES:
            tensors[f"{_NAMES[layer]}.{kind}"] = tensor.float()
        elif name.partition(".")[0] not in (*_OF_ITS_QUESTION, *beside):
            unknown.append(name)
    wanted = [f"{layer}.{kind}" for layer in (_EMBEDDING, *_ATTENTION) for kind in ("weight", "bias")]
    if missing := [name for name in wanted if name not in tensors]:
        raise BundleError(f"cannot be the start: it has no {some(missing, 3)}", path=path, hint=_HINT)
    if unknown:
        what = f"it has {some(unknown, 3)}, which ABMIL has not"
        raise BundleError(f"cannot be the start: {what}", path=path, hint=_HINT)
    _refuse_other_shapes(tensors, path)
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise BundleError(f"{name} holds values that are not finite", path=path, hint="copy the file again")
    return StartingWeights(str(path), tensors)


def _refuse_other_shapes(tensors: Mapping[str, Tensor], path: str | PathLike[str]) -> None:
    """Refuse layers that do not fit each other, or attention with several heads."""
    embedding, attention = tensors[f"{_EMBEDDING}.weight"], tensors[f"{_ATTENTION[0]}.weight"]
    if embedding.ndim != 2 or attention.ndim != 2:
        raise BundleError("cannot be the start: its layers are not linear ones", path=path, hint=_HINT)
    hidden, width = embedding.shape[0], attention.shape[0]
    if (heads := len(tensors[f"{_ATTENTION[2]}.weight"])) != 1:
        raise BundleError(f"cannot be the start: it has {heads} attentions, ABMIL has one", path=path, hint=_HINT)
    wanted = {
        _EMBEDDING: (*embedding.shape,),
        **dict.fromkeys(_ATTENTION[:2], (width, hidden)),
        _ATTENTION[2]: (1, width),
    }
    for layer, shape in wanted.items():
        if (*tensors[f"{layer}.weight"].shape,) != shape or (*tensors[f"{layer}.bias"].shape,) != shape[:1]:
            raise BundleError(
                f"cannot be the start: {layer} has another shape than its neighbours", path=path, hint=_HINT
            )
