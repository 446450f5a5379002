"""The table of slide encoders: what each reads, where its weights are, and why some cannot be run here."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ...data.errors import UsageError
from ..backbones.registry import same_name

Network = Literal["mean", "mean-std", "gated-attention", "attention-of-tiles", "madeleine"]


class EncoderCard(BaseModel):
    """The description of a slide encoder; ``encoders.toml`` says what the fields mean."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    network: Network | None = None
    also: tuple[str, ...] = ()
    backbone: str | None = None
    other_backbones: tuple[str, ...] = ()
    width: int | None = None
    mpp: float | None = None
    tile_px: int | None = None
    coordinates: bool = False
    """Whether it needs the places of the tiles."""
    hub_id: str | None = None
    hub_file: str | None = None
    gated: bool = False
    weights: str = ""
    licence: str
    source: str
    not_checked: str = ""
    why_not: str = ""
    instead: str = ""

    def is_called(self, name: str) -> bool:
        """Whether a name is one of its names, here or in other programs, ignoring case and punctuation."""
        return any(same_name(name, own) for own in (self.name, *self.also))

    def refuse_backbone(self, backbone: str) -> None:
        """Refuse a backbone whose features it does not read.

        :param backbone: a name from ``wsipipe backbones``.
        :raises UsageError: it reads those of another one.
        """
        able = [name for name in (self.backbone, *self.other_backbones) if name]
        if able and backbone not in able:
            what = f"{self.name} reads features of {' or '.join(able)}, not of {backbone}"
            raise UsageError(what, hint="correct --encoder or --backbone")

    @property
    def needs_weights(self) -> bool:
        """Whether it has weights to load."""
        return self.network not in ("mean", "mean-std")


@cache
def registry() -> Mapping[str, EncoderCard]:
    """Read the encoders of ``encoders.toml``, by name."""
    text = files(__package__).joinpath("encoders.toml").read_text(encoding="utf-8")
    return {name: EncoderCard(name=name, **fields) for name, fields in tomllib.loads(text).items()}


def encoder_called(name: str) -> EncoderCard | None:
    """Find the encoder of ``encoders.toml`` with this name, here or in another program."""
    return next((card for card in registry().values() if card.is_called(name)), None)


def find_encoder(name: str) -> EncoderCard:
    """Find an encoder that can be run.

    :raises UsageError: there is none of that name, or it cannot be run here; the message says why.
    """
    card = registry().get(name)
    able = [card.name for card in registry().values() if card.network]
    if card is None:
        near = difflib.get_close_matches(name, registry(), 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(able)}"
        raise UsageError(f"no slide encoder is called {name!r}", hint=hint)
    if card.network is None:
        raise UsageError(f"{name} cannot be run here: {card.why_not}", hint=f"instead: {card.instead}")
    return card
