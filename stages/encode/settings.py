"""Settings of slide encoding."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from pydantic import Field, field_validator

from ..settings import Runtime, Settings

ENCODER_NAME: Final = r"^[a-z0-9][a-z0-9.-]{0,60}$"
"""What a slide encoder can be called: the name is part of a folder's."""


class EncodeSettings(Settings):
    """Turn the tiles' features of each slide into one vector with a slide encoder: one small zarr store per slide."""

    encoder: str = Field("mean", description="a name from `wsipipe encoders`")
    weights: Path | None = Runtime(
        None,
        examples=["feather.safetensors"],
        description="the encoder's weights file, or fold-0 of a model trained with abmil; default: the hub cache's",
    )
    weights_backbone: str | None = Field(
        None,
        examples=["uni2-h"],
        description="of abmil: the backbone on whose features its weights were trained, if they do not say it",
    )
    device: str = Runtime(
        "auto", description="cpu, cuda, cuda:1 or mps; several as cuda:0,cuda:1; auto takes the first GPU there is"
    )

    @field_validator("encoder")
    @classmethod
    def _is_a_name(cls, encoder: str) -> str:
        if not re.fullmatch(ENCODER_NAME, encoder):
            raise ValueError("must be a name from `wsipipe encoders`")
        return encoder
