"""Settings of feature extraction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from ..settings import Judgement, Runtime, Settings


class ExtractSettings(Settings):
    """Turn tiles into feature vectors with a backbone: one zarr store per slide."""

    backbone: str = Field(
        "efficientnet-lite0", description="a name from `wsipipe backbones`, or the name of any timm model"
    )
    weights: Path | None = Runtime(
        None,
        examples=["weights/model.safetensors"],
        description="weights file (safetensors or a PyTorch checkpoint); default: the package's or the hub cache's",
    )
    pooling: Literal["cls", "mean", "cls+mean"] | None = Field(
        None,
        examples=["cls"],
        description="how a transformer's tokens become one vector; default: as the backbone's card recommends",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="arithmetic; auto is fp32 on a CPU and what the backbone's card recommends on a GPU"
    )
    store_dtype: Literal["float16", "float32"] = Field("float16", description="number format of the stored features")
    max_bad_tiles: float = Judgement(
        0.01,
        ge=0,
        le=1,
        description="largest fraction of undecodable tiles, which are left out; with more a slide fails",
    )
    device: str = Runtime(
        "auto", description="cpu, cuda, cuda:1 or mps; several as cuda:0,cuda:1; auto takes the first GPU there is"
    )
    batch_size: int | None = Runtime(
        None, ge=1, examples=[64], description="tiles per batch; default: 4 on a CPU, 128 on a CUDA GPU"
    )
    threads: int | None = Runtime(
        None,
        ge=1,
        examples=[8],
        description="threads for decoding and, on a CPU, for the network (with a CUDA GPU processes, of which one core "
        "is spared); default: one per core",
    )
    tile_timeout: float = Runtime(
        300.0, gt=0, description="time limit for reading a tile, in seconds; a slide with a slower tile fails"
    )
    compile: bool = Runtime(False, description="compile the network with torch.compile (takes minutes, once)")
    profile: Path | None = Runtime(
        None, examples=["trace.json"], description="write a trace of some batches, for chrome://tracing or Perfetto"
    )

    @field_validator("backbone")
    @classmethod
    def _is_a_name(cls, backbone: str) -> str:
        if not re.match("[A-Za-z0-9]", backbone) or len(backbone) > 150:
            raise ValueError("must be a name from `wsipipe backbones`, or that of a timm model")
        return backbone

    def folder_name(self) -> str:
        """Name of the features' folder: ``uni2-h`` or, with another pooling than the default, ``uni2-h-cls+mean``."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", self.backbone)
        return name + (f"-{self.pooling}" if self.pooling else "")

    def judge(self, stats: Mapping[str, Any]) -> str:
        bad = int(stats.get("bad_tiles", 0))
        tiles = bad + int(stats.get("tiles", 0))
        if bad <= self.max_bad_tiles * tiles:
            return ""
        return f"{bad} of {tiles} tiles are missing, over the {self.max_bad_tiles:.1%} allowed (max_bad_tiles)"
