"""Backbones: networks that turn a tile into a feature vector, described as data and loaded by one function.

``backbones.toml`` lists the pathology foundation models that labs use; any other name is looked up in timm.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ...data.errors import BackboneError, is_out_of_memory
from .heads import Headed
from .pixels import resized
from .registry import Backbone as Backbone
from .registry import Pooling as Pooling
from .registry import Positions
from .registry import Precision as Precision
from .registry import backbone_called as backbone_called
from .registry import find_backbone as find_backbone
from .registry import registry as registry
from .registry import same_backbone as same_backbone
from .registry import same_name as same_name
from .state_dicts import SeveralNetworks, StateDict, difference, of_network
from .tensor_names import as_timm_names_them
from .weights import SAVE_ONE, Weights, find_weights, load_state_dict

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def embed(model: nn.Module, pixels: Tensor, pooling: Pooling) -> Tensor:
    """Compute the feature vectors of normalised pixels.

    :param pixels: (B, 3, side, side) float.
    :returns: (B, width): timm's own pooled output, or class token (B, C), mean of the patch tokens (B, C), or both
        side by side (B, 2C), as published with Virchow (Vorontsov et al. 2024). Register tokens are left out.
    """
    if pooling == "pooled":
        return torch.as_tensor(model(pixels))
    tokens: Tensor = model.forward_features(pixels)  # type: ignore[operator]
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    if tokens.ndim != 3 or (prefix == 0 and pooling != "mean"):
        raise BackboneError(
            f"this network has no {'class token' if tokens.ndim == 3 else 'tokens'} for pooling {pooling!r}",
            hint="leave --pooling out",
        )
    patches = tokens[:, prefix:].mean(1)
    if pooling == "mean":
        return patches
    return tokens[:, 0] if pooling == "cls" else torch.cat([tokens[:, 0], patches], dim=1)


@dataclass(frozen=True)
class Embedder:
    """A loaded backbone, ready for tiles."""

    backbone: Backbone
    model: nn.Module
    weights: Weights
    device: torch.device
    precision: Precision
    width: int
    compiled: bool = False
    """Whether torch.compile makes the network's kernels, at its first batch of each shape."""

    @torch.inference_mode()
    def __call__(self, tiles: Tensor) -> Tensor:
        """Compute the features of tiles.

        :param tiles: (B, side, side, 3) uint8 RGB, on any device.
        :returns: (B, width) float32, on this embedder's device.
        """
        pixels = self.pixels(tiles)
        if self.precision == "fp32":
            return self._network(self.model, pixels, self.backbone.pooling)
        with torch.autocast(self.device.type, dtype=_DTYPES[self.precision]):
            return self._network(self.model, pixels, self.backbone.pooling).float()

    def pixels(self, tiles: Tensor) -> Tensor:
        """Resize (antialiased), crop and normalise on the device: (B, 3, crop, crop) float32.

        The grey values are those of the backbone's own transform with Pillow, on every device.

        :raises BackboneError: the tiles are not square.
        """
        backbone = self.backbone
        with torch.autocast(self.device.type, enabled=False):  # half precision would round grey values
            x = resized(tiles, backbone.resize, backbone.interpolation, self.device).div_(255)
        if backbone.crop and backbone.crop != backbone.resize:
            edge = round((backbone.resize - backbone.crop) / 2)  # of halves the even one, as torchvision's CenterCrop
            x = x[..., edge : edge + backbone.crop, edge : edge + backbone.crop]
        mean, std = self._mean_and_std
        return x.sub_(mean).div_(std).contiguous(memory_format=_memory_format(self.model))

    def warm_up(self, batch_size: int) -> None:
        """Compute one batch of the final shape, so that a failure of torch.compile is reported before the work.

        Where the batch does not fit the memory nothing is said: it is computed in halves when it comes.

        :raises BackboneError: torch.compile fails on this machine or network.
        """
        side = self.backbone.resize
        try:
            self(torch.zeros((batch_size, side, side, 3), dtype=torch.uint8))
        except RuntimeError as error:  # what torch.compile raises, whichever of its parts fails
            if is_out_of_memory(error):
                return
            if not self.compiled:
                raise
            raise BackboneError(
                f"torch.compile fails on {self.backbone.name}: {(str(error).splitlines() or [repr(error)])[0]}",
                hint="leave --compile out",
            ) from error

    @cached_property
    def _network(self) -> Callable[[nn.Module, Tensor, Pooling], Tensor]:
        return torch.compile(embed, dynamic=False) if self.compiled else embed

    @cached_property
    def _mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation on the device, copied once: a copy with each batch would make the GPU wait."""
        mean, std = (
            torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in (self.backbone.mean, self.backbone.std)
        )
        return mean, std


def load_embedder(
    backbone: Backbone,
    *,
    device: str | torch.device,
    precision: Literal["auto"] | Precision = "auto",
    file: str | Path | None = None,
    compile: bool = False,
) -> Embedder:
    """Build a backbone and load its weights.

    :param file: weights file to use instead of the package's or the hub's.
    :param compile: have torch.compile make the kernels; see :meth:`Embedder.warm_up`.
    :returns: the embedder; ``weights.notes`` lists adaptations of the file (prefixes removed, averaged weights chosen,
        a classifier left out).
    :raises BackboneError: weights that are missing, not accessible, or do not fit; missing and unexpected tensors are
        listed.
    """
    file, device = None if file is None else Path(file), torch.device(device)
    weights = find_weights(backbone.name, backbone.hub_id, gated=backbone.gated, file=file, hub_file=backbone.hub_file)
    model = backbone.build("cpu", empty=True)
    notes = _fit(model, load_state_dict(weights, like=model.state_dict()), weights, backbone)
    weights = replace(weights, notes=notes)
    return ready(backbone, model, weights, device=device, precision=precision, compile=compile)


def ready(
    backbone: Backbone,
    model: nn.Module,
    weights: Weights,
    *,
    device: torch.device,
    precision: Literal["auto"] | Precision = "auto",
    compile: bool = False,
) -> Embedder:
    """Move a network with loaded weights to its device and precision.

    Autocast would cast the weights of convolutions and linear layers at every batch; casting them once here gives the
    same bits in half the memory. Norms, embeddings and scales stay in fp32, as under autocast.
    """
    precision = backbone.precision_on(device.type, precision)
    if precision != "fp32":
        for module in model.modules():
            if type(module) in (nn.Linear, nn.Conv2d):
                module.to(_DTYPES[precision])
    model = model.to(device).to(memory_format=_memory_format(model)).requires_grad_(False)
    side = backbone.crop or backbone.resize
    embedder = Embedder(backbone, model, weights, device, precision, 0)
    width = embedder(torch.zeros((1, side, side, 3), dtype=torch.uint8)).shape[1]
    return replace(embedder, width=width, compiled=compile)


def _memory_format(model: nn.Module) -> torch.memory_format:
    """Choose channels-last memory for convolutional networks, which are then faster; transformers do not benefit."""
    return torch.contiguous_format if hasattr(model, "patch_embed") else torch.channels_last


def _fit(model: nn.Module, found: StateDict, weights: Weights, backbone: Backbone) -> tuple[str, ...]:
    """Load a network's tensors into it, and return notes on how they were adapted."""
    from timm.models.vision_transformer import VisionTransformer

    wanted = model.state_dict()
    kind = backbone.tensor_names or ("dinov2" if isinstance(model, VisionTransformer) else "")
    try:
        own = of_network(as_timm_names_them(found, kind) if kind else found, wanted)
    except SeveralNetworks as error:
        raise BackboneError(f"holds {error}", path=weights.path, hint=SAVE_ONE) from error
    tensors, notes = own.tensors, own.notes
    if difference(wanted, tensors) and (converted := _as_timm_reads_it(model, own, backbone.positions)) is not None:
        tensors, notes = converted.tensors, converted.notes
    if wrong := difference(wanted, tensors):
        hint = "these are the weights of another network: check --backbone and --weights"
        raise BackboneError(wrong, path=weights.path, hint=hint)
    own_memory = {
        name: torch.empty_like(like, device="cpu").copy_(tensors[name]) for name, like in wanted.items()
    }  # those of the file may lie in the file
    model.load_state_dict(own_memory, assign=True)
    return notes


def _as_timm_reads_it(model: nn.Module, own: StateDict, positions: Positions) -> StateDict | None:
    """Convert a transformer's tensors by timm's own rules for foreign files; None if these do not apply.

    The rules rename DINOv2's tensors, and resample the position embedding of another image size. They would also
    resample patches of another size, which is never intended here; such files are refused.
    """
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

    if isinstance(model, Headed):
        inner = {name.removeprefix("trunk."): t for name, t in own.tensors.items() if name.startswith("trunk.")}
        converted = _as_timm_reads_it(model.trunk, StateDict(inner, own.notes), positions)
        outer = {name: t for name, t in own.tensors.items() if not name.startswith("trunk.")}
        named = {f"trunk.{name}": t for name, t in converted.tensors.items()} if converted else {}
        return StateDict(outer | named, converted.notes) if converted else None
    if isinstance(model, SwinTransformer) and "layers.0.downsample.reduction.weight" in own.tensors:
        return _of_an_older_swin(own)
    patches = own.tensors.get("patch_embed.proj.weight")
    if not isinstance(model, VisionTransformer) or patches is None:
        return None
    tensors, notes = dict(own.tensors), list(own.notes)
    before = tensors.get("pos_embed")
    if patches.shape != model.patch_embed.proj.weight.shape or model.pos_embed is None or before is None:
        return None
    of_tokens = 1 if "register_tokens" in tensors else 0 if model.no_embed_class else model.num_prefix_tokens
    if before.ndim != 3 or math.isqrt(before.shape[1] - of_tokens) ** 2 != before.shape[1] - of_tokens:
        return None
    if "register_tokens" in tensors or any(".mlp.w12." in name for name in tensors):
        notes.append("renamed DINOv2's tensors as timm does")
        tensors["mask_token"] = torch.zeros(1)  # timm recognises such files by it
    interpolation, _, antialiased = positions.partition(" ")
    try:
        converted = checkpoint_filter_fn(dict(tensors), model, interpolation=interpolation, antialias=bool(antialiased))
    except (RuntimeError, ValueError, LookupError, AssertionError):
        return None
    side, (height, width) = math.isqrt(before.shape[1] - of_tokens), model.patch_embed.grid_size
    if (side, side) != (height, width):
        how = "as timm does" if positions == "bicubic antialiased" else f"{positions}, as its authors do"
        notes.append(
            f"resampled its position embedding from {side} × {side} to {height} × {width} patches, {how}: "
            f"it was trained on images of another size"
        )
    return StateDict(converted, tuple(notes))


def _of_an_older_swin(own: StateDict) -> StateDict:
    """Rename the tensors of timm before 0.9, which joined patches at the end of a stage and kept what it computes."""
    computed = re.compile(r"\.(attn_mask|relative_position_index)$")
    tensors = {
        re.sub(r"^layers\.(\d+)\.downsample", lambda stage: f"layers.{int(stage[1]) + 1}.downsample", name): tensor
        for name, tensor in own.tensors.items()
        if not computed.search(name)
    }
    return StateDict(tensors, (*own.notes, "renamed an older Swin transformer's tensors as timm does"))
