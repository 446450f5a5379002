"""Backbones: networks that turn a tile into a feature vector, described as data and loaded by one function.

``backbones.toml`` holds the pathology foundation models that labs use; any other name is taken for timm's own.
"""

from __future__ import annotations

import difflib
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
from torch import Tensor, nn
from torch.nn import functional

from ...data.errors import BackboneError, is_out_of_memory
from .weights import Weights, find_weights, load_tensors

Pooling = Literal["cls", "mean", "cls+mean", "pooled"]
Precision = Literal["fp32", "bf16", "fp16"]

_LAYERS = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU}
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Backbone(BaseModel):
    """One network: how it is built, how its tokens become one vector, what pixels it expects."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    architecture: str
    arguments: dict[str, Any] = {}
    hub_id: str | None = None
    parameters: int | None = None
    width: int | None = None
    pooling: Pooling
    resize: int
    """Side in pixels that a tile is brought to."""
    crop: int | None = None
    """Side of the centre that the network sees; None: all of it."""
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
        """The network without its weights; on torch's ``meta`` device it costs nothing."""
        arguments = {key: _LAYERS.get(v, v) if isinstance(v, str) else v for key, v in self.arguments.items()}
        with torch.device(device):
            model: nn.Module = timm.create_model(self.architecture, pretrained=False, num_classes=0, **arguments)
        return model.eval()

    def precision_on(self, device: str, asked: Literal["auto"] | Precision) -> Precision:
        """The arithmetic asked for; ``auto`` is fp32 on a CPU, and elsewhere what the card recommends.

        :param device: its type, such as ``cuda``.
        """
        if asked != "auto":
            return asked
        return "fp32" if device == "cpu" else self.precision

    def with_pooling(self, pooling: Pooling | None) -> Backbone:
        """The same network, its tokens pooled otherwise. ``width`` is then known after :meth:`output_width` only."""
        return self if pooling in (None, self.pooling) else self.model_copy(update={"pooling": pooling, "width": None})


@cache
def registry() -> Mapping[str, Backbone]:
    """The backbones of ``backbones.toml``, by name."""
    text = files(__package__).joinpath("backbones.toml").read_text(encoding="utf-8")
    return {name: Backbone(name=name, **fields) for name, fields in tomllib.loads(text).items()}


def find_backbone(name: str, pooling: Pooling | None = None) -> Backbone:
    """The registry's entry, or one made from timm's own description of the model of that name.

    :raises BackboneError: nobody knows the name; the message suggests near ones.
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
    """Feature vectors of normalised pixels.

    :param pixels: (B, 3, side, side) float.
    :returns: (B, width): timm's own pooled output, or class token (B, C), mean of the patch tokens (B, C), or both
        side by side (B, 2C), as published with Virchow (Vorontsov et al. 2024). Registers belong to neither.
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
        """Features of tiles.

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

        Pixels are those of the backbone's own transform, which Pillow makes: it resizes one axis after the other, and
        brings both results to whole grey values. Near a half, a value here and there is rounded the other way.
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
        return resized.clamp_(0, 255).add_(0.5).floor_()

    def warm_up(self, batch_size: int) -> None:
        """Compute one batch of the shape that will come, so that what cannot be compiled is told before the work.

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
        """On the device once: a copy from ordinary memory with each batch would make the GPU wait for it."""
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
    :raises BackboneError: weights that are not there, may not be had, or do not fit; missing and unexpected tensors
        are listed.
    """
    weights = find_weights(backbone.name, backbone.hub_id, gated=backbone.gated, file=file)
    model = backbone.build("cpu")
    tensors = load_tensors(weights, like=model.state_dict())
    _fit(model, tensors, weights)
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
    """A network with its weights in it, on its device and in its number format.

    Under autocast, the weights of convolutions and linear layers are cast at every batch; cast here, once, they give
    the same bits in half the memory. Norms, embeddings and scales stay in fp32, as autocast leaves them.
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
    """Convolutional networks are faster with channels last in memory; transformers have one convolution, at the start,
    and do not care."""
    return torch.contiguous_format if hasattr(model, "patch_embed") else torch.channels_last


def _fit(model: nn.Module, tensors: Mapping[str, Tensor], weights: Weights) -> None:
    wanted = model.state_dict()
    # A classifier is not part of a feature extractor; whatever else is left over means another network.
    heads = ("head.", "fc.", "classifier.", "head_dist.")
    extra = [n for n in tensors if n not in wanted and not n.startswith(heads)]
    missing = [n for n in wanted if n not in tensors]
    shapes = [n for n in wanted if n in tensors and tensors[n].shape != wanted[n].shape]
    if extra or missing or shapes:
        raise BackboneError(
            "; ".join(
                f"{len(names)} tensors {what}: {', '.join(names[:4])}{' …' if len(names) > 4 else ''}"
                for what, names in (("missing", missing), ("not expected", extra), ("of another shape", shapes))
                if names
            ),
            path=weights.path,
            hint="these are the weights of another network: check --backbone and --weights",
        )
    model.load_state_dict({n: tensors[n] for n in wanted})
