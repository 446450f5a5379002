"""MADELEINE (Jaume et al., Multistain Pretraining for Slide Representation Learning in Pathology, ECCV 2024).

Three layers embed each tile, gated attention with several heads pools them, each head a part of the embedding, and a
linear layer mixes the heads. All sizes follow from the weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from os import PathLike
from typing import Final

from torch import Tensor, nn

from ...data.errors import BundleError
from ..backbones.state_dicts import difference, unwrapped, without_common_prefix
from ..mil.abmil import GatedAttention
from ..mil.checkpoint_file import read_checkpoint
from .networks import SlideEncoder

_HINT: Final = "give model.pt of MahmoodLab/madeleine"
_OF_TRAINING: Final = ("token_projector.", "embedding.")
"""Layers of the pretraining, and stains' encodings, which the vector of an H&E slide does not need."""
_RENAMED: Final = (
    (re.compile(r"^wsi_embedders\.pre_attn\."), "embedding."),
    (re.compile(r"^wsi_embedders\.attn\.(\d+)\.attention_a\.0\."), r"heads.\1.V."),
    (re.compile(r"^wsi_embedders\.attn\.(\d+)\.attention_b\.0\."), r"heads.\1.U."),
    (re.compile(r"^wsi_embedders\.attn\.(\d+)\.attention_c\."), r"heads.\1.w."),
)
"""Names in the published file → names here."""
_MOST_HEADS: Final = 64


class Madeleine(SlideEncoder):
    """Gated attention with several heads over tiles embedded by three layers.

    :param hidden: E, the width of the embedding that a head sees.
    :param attention: width of the attention's hidden layer.
    """

    def __init__(self, tile_width: int, hidden: int, attention: int, heads: int, width: int) -> None:
        super().__init__(tile_width)
        widths = (tile_width, hidden, hidden, hidden * heads)
        self.embedding = nn.Sequential(
            *(
                layer
                for before, after in pairwise(widths)
                for layer in (nn.Linear(before, after), nn.LayerNorm(after), nn.GELU(), nn.Dropout(0.1))
            )
        )
        self.heads = nn.ModuleList(GatedAttention(hidden, attention, 0.25) for _ in range(heads))
        self.projector = nn.Linear(hidden * heads, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x).unflatten(1, (-1, len(self.heads)))  # (N, E, heads): neighbours are of different heads
        pooled = h.new_empty(h.shape[1:])
        for number, head in enumerate(self.heads):
            own = h[:, :, number]
            pooled[:, number] = head(own).softmax(dim=0) @ own
        vector: Tensor = self.projector(pooled.flatten())
        return vector


def read_madeleine(path: str | PathLike[str]) -> Madeleine:
    """Read MADELEINE's published weights; no code in the file is run.

    :raises BundleError: no such file, or not one of this network; the message lists what differs.
    """
    found = without_common_prefix(unwrapped(read_checkpoint(path, _HINT)).tensors)
    tensors = {_own_name(name): t.float() for name, t in found.items() if not name.startswith(_OF_TRAINING)}
    heads = len({name.split(".")[1] for name in tensors if name.startswith("heads.")})
    first, gate, last = (tensors.get(name) for name in ("embedding.0.weight", "heads.0.V.weight", "projector.weight"))
    if first is None or gate is None or last is None or not first.ndim == gate.ndim == last.ndim == 2:
        raise BundleError("is not MADELEINE: it lacks layers of its attention", path=path, hint=_HINT)
    if heads > _MOST_HEADS:
        raise BundleError(f"is not MADELEINE: it has {heads} heads of attention", path=path, hint=_HINT)
    network = Madeleine(first.shape[1], first.shape[0], gate.shape[0], heads, last.shape[0])
    _refuse_other(network.state_dict(), tensors, path)
    network.load_state_dict(tensors)
    return network


def _own_name(name: str) -> str:
    for theirs, ours in _RENAMED:
        name = theirs.sub(ours, name)
    return name


def _refuse_other(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], path: str | PathLike[str]) -> None:
    if what := difference(wanted, found):
        raise BundleError(f"is not MADELEINE: {what}", path=path, hint=_HINT)
    for name, tensor in found.items():
        if not tensor.isfinite().all():
            raise BundleError(f"{name} holds values that are not finite", path=path, hint="copy the file again")
