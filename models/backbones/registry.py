"""The table of backbones: what each network is, which pixels it expects, its names. Any other name is one of timm's.

timm is imported where a network is built or looked up in it: that takes as long as PyTorch, and training needs neither.
"""

from __future__ import annotations

import difflib
import math
import re
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.resources import files
from typing import Any, Literal, cast, get_args

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ...data.errors import BackboneError
from .heads import HEADS, ConvStem
from .pixels import Interpolation

Pooling = Literal["cls", "mean", "cls+mean", "pooled"]
Precision = Literal["fp32", "bf16", "fp16"]

Positions = Literal["bicubic antialiased", "bicubic", "bilinear"]


class Backbone(BaseModel):
    """The description of one network: architecture, pooling of its tokens, and the pixels it expects."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    architecture: str
    arguments: dict[str, Any] = {}
    head: dict[str, Any] = {}
    """What follows the network: a ``kind`` of :data:`~wsipipe.models.backbones.heads.HEADS` and its arguments."""
    hub_id: str | None = None
    hub_file: str | None = None
    """The name of its file at the hub, where it is not one of the usual ones."""
    tensor_names: str = ""
    """The kind of ``tensor_names.toml`` by which the published file names its tensors; empty: timm's names."""
    positions: Positions = "bicubic antialiased"
    """How a position embedding of another image size is resampled; the first is timm's way."""
    also: tuple[str, ...] = ()
    """Its names in other programs, beside ``name`` and its name at the hub."""
    parameters: int | None = None
    width: int | None = None
    pooling: Pooling
    resize: int
    """Side in pixels to which a tile is resized."""
    crop: int | None = None
    """Side of the centre crop that the network sees; None for no crop."""
    interpolation: Interpolation
    """Pillow's way of resizing, antialiased."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    mpp: float = 0.5
    tile_px: int = 224
    precision: Precision = "fp32"
    """Recommended arithmetic on a GPU."""
    gated: bool = False
    licence: str = "see the model card"
    source: str
    """Where its authors publish transform, pooling and licence: a page or repository, with date or commit."""
    disagreement: str = ""
    """Which other sources say otherwise, and what could not be checked."""
    formerly: dict[str, Any] = {}
    """Settings of the transform as they were before; see :attr:`former_transform`."""
    note: str = ""

    def build(self, device: str | torch.device, *, empty: bool = False) -> nn.Module:
        """Build the network without its weights; on torch's ``meta`` device this takes no memory.

        :param empty: leave its parameters on the ``meta`` device, to be assigned from a file: random values for some
            hundred million of them take ten seconds. Buffers are computed, since files do not hold all of them. A
            network that computes with its parameters while it is built has random values.
        """
        if empty:
            with suppress(RuntimeError), _parameters_without_values():
                bare = self.build(device)
                if not any(buffer.is_meta for buffer in bare.buffers()):
                    return bare
        import timm
        from timm.layers import SwiGLUPacked

        layers = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU, "ConvStem": ConvStem}
        arguments = {key: layers.get(v, v) if isinstance(v, str) else v for key, v in self.arguments.items()}
        with torch.device(device):
            model: nn.Module = timm.create_model(self.architecture, pretrained=False, num_classes=0, **arguments)
            if self.head:
                head = dict(self.head)
                model = HEADS[head.pop("kind")](model, **head)
        return model.eval()

    @property
    def transform(self) -> dict[str, Any]:
        """The settings that turn a tile into the network's input, as JSON values."""
        return self.model_dump(mode="json", include={"resize", "crop", "interpolation", "mean", "std"})

    @property
    def former_transform(self) -> dict[str, Any]:
        """The transform before 27 November 2026, by which features of models without a recorded one were made."""
        return {name: value or None for name, value in {**self.transform, **self.formerly}.items()}

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


@contextmanager
def _parameters_without_values() -> Iterator[None]:
    """Have the modules that this thread makes keep their parameters on the ``meta`` device, from their first moment."""
    thread = threading.get_ident()

    def without_values(_: nn.Module, __: str, parameter: nn.Parameter) -> nn.Parameter | None:
        if threading.get_ident() != thread:
            return None
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    hook = register_module_parameter_registration_hook(cast("Callable[..., None]", without_values))  # or a parameter
    try:
        yield
    finally:
        hook.remove()


def same_name(one: str, other: str) -> bool:
    """Whether two names differ in case and punctuation at most."""
    one, other = (re.sub(r"[^a-z0-9]", "", name.casefold()) for name in (one, other))
    return one == other


def backbone_called(name: str) -> Backbone | None:
    """Find the backbone of ``backbones.toml`` with this name, here or in another program."""
    return next((backbone for backbone in registry().values() if backbone.is_called(name)), None)


def same_backbone(one: str, other: str) -> bool:
    """Whether two names are of one backbone, here or in other programs."""
    known = [backbone_called(name) for name in (one, other)]
    if known[0] is not None and known[1] is not None:
        return known[0].name == known[1].name
    return same_name(one, other)


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
    import timm

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
    return Backbone(
        name=name,
        architecture=name,
        hub_id=config.hf_hub_id,
        pooling="pooled",
        **_transform_of_timm(name, config.to_dict()),
        licence=config.license or "see the model card",
        source=f"timm {timm.__version__}, its evaluation transform",
    )


def _transform_of_timm(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the transform with which timm evaluates a model, for square tiles.

    timm resizes to ``side / crop_pct`` and cuts the side out of the centre; its three crop modes differ only for
    pictures that are not square.

    :raises BackboneError: the transform is one that square RGB tiles cannot have, or that is not known here.
    """
    from timm.data import resolve_data_config

    data = resolve_data_config(pretrained_cfg=dict(config))
    channels, height, width = data["input_size"]
    resize = math.floor(width / data["crop_pct"])
    for odd, is_so in {
        f"pictures of {width} × {height} px": height != width,
        f"{channels} channels": channels != 3,
        f"the interpolation {data['interpolation']}": data["interpolation"] not in get_args(Interpolation),
        f"a black margin (crop_pct {data['crop_pct']:g})": resize < width,
    }.items():
        if is_so:
            hint = "choose a backbone that is evaluated on square RGB pictures without a margin"
            raise BackboneError(f"timm evaluates {name} on {odd}", hint=hint)
    return {
        "resize": resize,
        "crop": width if resize != width else None,
        "interpolation": data["interpolation"],
        "mean": tuple(data["mean"]),
        "std": tuple(data["std"]),
        "formerly": {"resize": width, "crop": 0},
    }
