"""Reader of the checkpoints that the authors' public MoMKD code writes (a state dict saved with ``torch.save``)."""

from __future__ import annotations

from os import PathLike

import torch
from torch import Tensor

from ...data.errors import BundleError
from ..backbones.state_dicts import without_common_prefix
from .checkpoint_file import read_checkpoint
from .memory import NEGATIVE, POSITIVE
from .momkd import HEADS, MoMKD, MoMKDConfig
from .network import require_same_tensors

_NAMES = {
    "wsi_encoder.gat1": "histology_encoder.graph1",
    "wsi_encoder.ln1": "histology_encoder.norm1",
    "wsi_encoder.res_proj1": "histology_encoder.residual1",
    "wsi_encoder.gat2": "histology_encoder.graph2",
    "wsi_encoder.ln2": "histology_encoder.norm2",
    "wsi_patch_projector": "patch_projection",
    "wsi_pool_projector": "pool_projection",
    "wsi_classifier_proto": "head",
    "rna_tower.encoder": "omics_encoder",
    "rna_decoder.decoder": "omics_decoder",
    "rna_projector": "omics_projection",
}
"""Module in the public code → module here; the rest of a tensor's name is the same."""
_SLOTS = {NEGATIVE: "mem_neg._codebook.embed", POSITIVE: "mem_pos._codebook.embed"}
_VQ_STATE = {
    f"mem_{side}._codebook.{name}" for side in ("pos", "neg") for name in ("initted", "cluster_size", "embed_avg")
}
"""State of the public code's vector quantiser for its moving average, which the method does not use."""
_HINT = "only the state dict that the public MoMKD code saves (s_<fold>_mkd_checkpoint.pt) can be read here"


def read_momkd_checkpoint(path: str | PathLike[str]) -> tuple[MoMKDConfig, dict[str, Tensor]]:
    """Read the configuration and the state dict (float32, CPU) from one of the authors' checkpoints.

    Sizes come from the tensors' shapes; dropouts and loss weights are the public code's, since no shape shows them.
    No code in the file is run: it is read with ``weights_only=True``.

    :raises BundleError: no file, not a checkpoint, or not of this network.
    """
    tensors = _tensors(path)
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        module = next((module for module in _NAMES if name.startswith(module + ".")), None)
        if module is not None:
            state[_NAMES[module] + name.removeprefix(module)] = tensor
        elif name == "attn_log_tau":
            state["log_tau"] = tensor
        elif name not in _VQ_STATE and name not in _SLOTS.values():
            raise BundleError(f"not a MoMKD checkpoint: it has a tensor {name}", path=path, hint=_HINT)
    config = _config(tensors, path)
    state["memory.slots"] = torch.cat([tensors[_SLOTS[NEGATIVE]], tensors[_SLOTS[POSITIVE]]])
    with torch.device("meta"):
        wanted = MoMKD(config).state_dict()
    require_same_tensors(wanted, state, path)
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise BundleError(f"{name} holds values that are not finite", path=path, hint="the training had failed")
    return config, state


def _tensors(path: str | PathLike[str]) -> dict[str, Tensor]:
    content = read_checkpoint(path, _HINT)
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise BundleError("is not a state dict (names and tensors)", path=path, hint=_HINT)
    return {name: tensor.float() for name, tensor in without_common_prefix(content).items()}


def _config(tensors: dict[str, Tensor], path: str | PathLike[str]) -> MoMKDConfig:
    """Derive the sizes from the shapes of a few tensors; :func:`require_same_tensors` then checks all the others."""

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        if name not in tensors or tensors[name].ndim != dimensions:
            raise BundleError(f"not a MoMKD checkpoint: it has no {name} with {dimensions} axes", path=path, hint=_HINT)
        return tuple(tensors[name].shape)

    hidden, in_features = shape("wsi_encoder.gat1.lin_l.weight", 2)
    _, heads, _ = shape("wsi_encoder.gat1.att", 3)
    omics_hidden, n_genes = shape("rna_tower.encoder.0.weight", 2)
    shared, omics_embedding = shape("rna_projector.weight", 2)
    head_hidden, _ = shape("wsi_classifier_proto.1.weight", 2)
    _, slots, _ = shape(_SLOTS[POSITIVE], 3)
    if tensors[_SLOTS[POSITIVE]].shape != shape(_SLOTS[NEGATIVE], 3):
        raise BundleError("its two memories differ in shape", path=path, hint=_HINT)
    if heads != HEADS or hidden % HEADS:
        raise BundleError(f"its graph layers have {heads} attention heads, MoMKD has {HEADS}", path=path, hint=_HINT)
    return MoMKDConfig(
        in_features=in_features,
        n_genes=n_genes,
        hidden=hidden,
        shared=shared,
        slots=slots,
        omics_hidden=omics_hidden,
        omics_embedding=omics_embedding,
        head_hidden=head_hidden,
    )
