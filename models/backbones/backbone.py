"""Backbones: networks that turn a tile into a feature vector, described as data and loaded by one function.

``backbones.toml`` lists the pathology foundation models that labs use; any other name is looked up in timm.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from pydantic import BaseModel, ConfigDict
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn
from torch.nn import functional

from ...data.errors import BackboneError, is_out_of_memory
from .state_dicts import SeveralNetworks, StateDict, difference, of_network
from .weights import SAVE_ONE, Weights, find_weights, load_state_dict

Pooling = Literal["cls", "mean", "cls+mean", "pooled"]
Precision = Literal["fp32", "bf16", "fp16"]

_LAYERS = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU}
_ABOVE_HALF = 2**-12
"""Added before rounding. Of the sums that are a half exactly, float32 puts some below and some above it, not the same
ones on a CPU and on a GPU; so all are rounded up, as Pillow's integers are. Pixels that differ from Pillow's, of smooth
pictures of 256 px with bicubic weights: 1.2 % without it, 0.02 % with it."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Backbone(BaseModel):
    """The description of one network: architecture, pooling of its tokens, and the pixels it expects."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    architecture: str
    arguments: dict[str, Any] = {}
    hub_id: str | None = None
    also: tuple[str, ...] = ()
    """Its names in other programs, beside ``name`` and its name at the hub."""
    parameters: int | None = None
    width: int | None = None
    pooling: Pooling
    resize: int
    """Side in pixels to which a tile is resized."""
    crop: int | None = None
    """Side of the centre crop that the network sees; None for no crop."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    mpp: float = 0.5
    tile_px: int = 224
    precision: Precision = "fp32"
    """Recommended arithmetic on a GPU."""
    gated: bool = False
    licence: str = "see the model card"
    note: str = ""

    def build(self, device: str | torch.device) -> nn.Module:
        """Build the network without its weights; on torch's ``meta`` device this takes no memory."""
        arguments = {key: _LAYERS.get(v, v) if isinstance(v, str) else v for key, v in self.arguments.items()}
        with torch.device(device):
            model: nn.Module = timm.create_model(self.architecture, pretrained=False, num_classes=0, **arguments)
        return model.eval()

    def precision_on(self, device: str, asked: Literal["auto"] | Precision) -> Precision:
        """Resolve the requested precision; ``auto`` is fp32 on a CPU, and elsewhere this backbone's recommendation.

        :param device: its type, such as ``cuda``.
        """
        if asked != "auto":
            return asked
        return "fp32" if device == "cpu" else self.precision

    def is_called(self, name: str) -> bool:
        """Whether a name is one of its names, ignoring case and punctuation (``hoptimus0``, ``H-optimus-0``)."""
        hub = self.hub_id or ""
        return any(same_name(name, own) for own in (self.name, hub, hub.split("/")[-1], *self.also) if own)

    def widths(self) -> frozenset[int]:
        """The possible widths of its features: ``width``, or without it the widths that its pooling can give."""
        if self.width is not None:
            return frozenset({self.width})
        model = self.build("meta")
        last = int(getattr(model, "num_features", 0))
        wide = {"cls": {last}, "mean": {last}, "cls+mean": {2 * last}}
        return frozenset(wide.get(self.pooling, {last, int(getattr(model, "head_hidden_size", 0) or last)}))

    def with_pooling(self, pooling: Pooling | None) -> Backbone:
        """Return the same network with another pooling. Its ``width`` is then None, and known once it is loaded."""
        return self if pooling in (None, self.pooling) else self.model_copy(update={"pooling": pooling, "width": None})


def same_name(one: str, other: str) -> bool:
    """Whether two names differ in case and punctuation at most."""
    one, other = (re.sub(r"[^a-z0-9]", "", name.casefold()) for name in (one, other))
    return one == other


def backbone_called(name: str) -> Backbone | None:
    """Find the backbone of ``backbones.toml`` with this name, here or in another program."""
    return next((backbone for backbone in registry().values() if backbone.is_called(name)), None)


@cache
def registry() -> Mapping[str, Backbone]:
    """Read the backbones of ``backbones.toml``, by name."""
    text = files(__package__).joinpath("backbones.toml").read_text(encoding="utf-8")
    return {name: Backbone(name=name, **fields) for name, fields in tomllib.loads(text).items()}


def find_backbone(name: str, pooling: Pooling | None = None) -> Backbone:
    """Find a backbone in the registry, or describe timm's model of that name.

    :raises BackboneError: the name is unknown; the message suggests similar ones.
    """
    backbone = registry().get(name) or _from_timm(name)
    return backbone.with_pooling(pooling)


def _from_timm(name: str) -> Backbone:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture) or (tag and name not in timm.list_pretrained(f"{architecture}.*")):
        names = [*registry(), *timm.list_models(), *timm.list_pretrained(f"{architecture}.*")]
        near = difflib.get_close_matches(name, names, 3, cutoff=0.6)
        raise BackboneError(
            f"no backbone is called {name!r}",
            hint=(f"did you mean {', '.join(near)}? " if near else "")
            + f"known here: {', '.join(registry())}; any model of timm {timm.__version__} works too",
        )
    config = timm.get_pretrained_cfg(name)
    side = config.input_size[-1]
    return Backbone(
        name=name,
        architecture=name,
        hub_id=config.hf_hub_id,
        pooling="pooled",
        resize=side,
        interpolation="bilinear" if config.interpolation == "bilinear" else "bicubic",
        mean=config.mean,
        std=config.std,
        licence=config.license or "see the model card",
    )


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

        The result equals the backbone's own transform with Pillow, which resizes one axis after the other and rounds
        both results to whole grey values; a few values near a half are rounded the other way. A CPU and a GPU give the
        same grey values.
        """
        backbone = self.backbone
        x = tiles.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        side = backbone.resize
        if x.shape[-1] != side:
            x = self._resized(self._resized(x, (x.shape[-2], side)), (side, side))
        x = x.div_(255)
        if backbone.crop and backbone.crop != backbone.resize:
            edge = (backbone.resize - backbone.crop) // 2
            x = x[..., edge : edge + backbone.crop, edge : edge + backbone.crop]
        mean, std = self._mean_and_std
        return x.sub_(mean).div_(std).contiguous(memory_format=_memory_format(self.model))

    def _resized(self, grey: Tensor, size: tuple[int, int]) -> Tensor:
        resized = functional.interpolate(grey, size=size, mode=self.backbone.interpolation, antialias=True)
        return resized.clamp_(0, 255).add_(0.5 + _ABOVE_HALF).floor_()

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
    device: torch.device,
    precision: Literal["auto"] | Precision = "auto",
    file: Path | None = None,
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
    weights = find_weights(backbone.name, backbone.hub_id, gated=backbone.gated, file=file)
    model = backbone.build("cpu")
    notes = _fit(model, load_state_dict(weights, like=model.state_dict()), weights)
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


def _fit(model: nn.Module, found: StateDict, weights: Weights) -> tuple[str, ...]:
    """Load a network's tensors into it, and return notes on how they were adapted."""
    wanted = model.state_dict()
    try:
        own = of_network(found, wanted)
    except SeveralNetworks as error:
        raise BackboneError(f"holds {error}", path=weights.path, hint=SAVE_ONE) from error
    tensors, notes = own.tensors, own.notes
    if difference(wanted, tensors) and (converted := _as_timm_reads_it(model, own)) is not None:
        tensors, notes = converted.tensors, converted.notes
    if wrong := difference(wanted, tensors):
        hint = "these are the weights of another network: check --backbone and --weights"
        raise BackboneError(wrong, path=weights.path, hint=hint)
    model.load_state_dict({name: tensors[name] for name in wanted})
    return notes


def _as_timm_reads_it(model: nn.Module, own: StateDict) -> StateDict | None:
    """Convert a transformer's tensors by timm's own rules for foreign files; None if these do not apply.

    The rules rename DINOv2's tensors, and resample the position embedding of another image size. They would also
    resample patches of another size, which is never intended here; such files are refused.
    """
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
    try:
        converted = checkpoint_filter_fn(dict(tensors), model)
    except (RuntimeError, ValueError, LookupError, AssertionError):
        return None
    side, (height, width) = math.isqrt(before.shape[1] - of_tokens), model.patch_embed.grid_size
    if (side, side) != (height, width):
        notes.append(
            f"resampled its position embedding from {side} × {side} to {height} × {width} patches, as timm does: "
            f"it was trained on images of another size"
        )
    return StateDict(converted, tuple(notes))
