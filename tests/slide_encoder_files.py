"""Weights of slide encoders in the names of those who publish them, small."""

from __future__ import annotations

from pathlib import Path

from published_files import filled, linear
from safetensors.torch import save_file

HIDDEN = 24
"""Width of the vectors of :func:`feather`."""


def feather(path: Path, width: int, seed: int = 0) -> Path:
    """Weights in the names of FEATHER; another seed gives others."""
    shapes = [
        *linear("patch_embed.0", HIDDEN, width),
        *linear("global_attn.attention_a.0", 16, HIDDEN),
        *linear("global_attn.attention_b.0", 16, HIDDEN),
        *linear("global_attn.attention_c", 1, 16),
    ]
    save_file({name: tensor + 0.1 * seed for name, tensor in filled(shapes).items()}, path)
    return path
