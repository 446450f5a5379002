"""Small files that name their tensors as published ones do, with the same numbers each time."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor

State = dict[str, Tensor]

WIDTH, HEADS, DEPTH, GRID = 24, 2, 2, 3
"""Of the small networks: width of the tokens, heads, blocks, patches along a side."""
TINY = {"embed_dim": WIDTH, "num_heads": HEADS, "depth": DEPTH}


def filled(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> State:
    """Tensors of these shapes: waves whose phase depends on the name."""
    state = {}
    for name, shape in shapes:
        size = torch.Size(shape).numel()
        wave = torch.sin(torch.arange(size, dtype=torch.float64) * 0.7 + zlib.crc32(name.encode()) % 1000)
        offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        state[name] = (0.3 * wave + offset).reshape(shape).float()
    return state


def linear(name: str, out: int, into: int) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"{name}.weight", (out, into)), (f"{name}.bias", (out,))]


def norm(name: str, width: int = WIDTH) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"{name}.weight", (width,)), (f"{name}.bias", (width,))]


def transformers_vit(patch: int) -> State:
    """``transformers.ViTModel`` with its pooler."""
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("embeddings.cls_token", (1, 1, WIDTH)),
        ("embeddings.position_embeddings", (1, GRID**2 + 1, WIDTH)),
        ("embeddings.patch_embeddings.projection.weight", (WIDTH, 3, patch, patch)),
        ("embeddings.patch_embeddings.projection.bias", (WIDTH,)),
        *norm("layernorm"),
        *linear("pooler.dense", WIDTH, WIDTH),
    ]
    for block in range(DEPTH):
        place = f"encoder.layer.{block}"
        shapes += norm(f"{place}.layernorm_before") + norm(f"{place}.layernorm_after")
        for kind in ("query", "key", "value"):
            shapes += linear(f"{place}.attention.attention.{kind}", WIDTH, WIDTH)
        shapes += linear(f"{place}.attention.output.dense", WIDTH, WIDTH)
        shapes += linear(f"{place}.intermediate.dense", 4 * WIDTH, WIDTH)
        shapes += linear(f"{place}.output.dense", WIDTH, 4 * WIDTH)
    return filled(shapes)


GATED = 64
"""Width inside of SwiGLU: two thirds of four times the width, in eights."""


def transformers_dinov2(patch: int, *, gated: bool, registers: int = 0, grid: int = GRID) -> State:
    """``transformers.Dinov2Model``, or ``Dinov2WithRegistersModel``."""
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("embeddings.cls_token", (1, 1, WIDTH)),
        ("embeddings.mask_token", (1, WIDTH)),
        ("embeddings.position_embeddings", (1, grid**2 + 1, WIDTH)),
        ("embeddings.patch_embeddings.projection.weight", (WIDTH, 3, patch, patch)),
        ("embeddings.patch_embeddings.projection.bias", (WIDTH,)),
        *([("embeddings.register_tokens", (1, registers, WIDTH))] if registers else []),
        *norm("layernorm"),
    ]
    for block in range(DEPTH):
        place = f"encoder.layer.{block}"
        shapes += norm(f"{place}.norm1") + norm(f"{place}.norm2")
        shapes += [(f"{place}.layer_scale{number}.lambda1", (WIDTH,)) for number in (1, 2)]
        for kind in ("query", "key", "value"):
            shapes += linear(f"{place}.attention.attention.{kind}", WIDTH, WIDTH)
        shapes += linear(f"{place}.attention.output.dense", WIDTH, WIDTH)
        first, second = ("weights_in", "weights_out") if gated else ("fc1", "fc2")
        shapes += linear(f"{place}.mlp.{first}", 2 * GATED if gated else 4 * WIDTH, WIDTH)
        shapes += linear(f"{place}.mlp.{second}", WIDTH, GATED if gated else 4 * WIDTH)
    return filled(shapes)


def bare_dinov2(theirs: State, *, chunks: bool) -> State:
    """The same network as in Meta's own code, with its blocks in one list or in chunks of one."""
    bare = {}
    for name, tensor in theirs.items():
        _, _, inner = name.partition("encoder.layer.")
        block, _, kind = inner.partition(".")
        if not inner or ".attention.attention." in name:
            whole = {"embeddings.position_embeddings": "pos_embed"}
            plain = name.removeprefix("embeddings.").replace("patch_embeddings.projection", "patch_embed.proj")
            if ".attention.attention." not in name:
                bare[whole.get(name, plain.replace("layernorm.", "norm."))] = tensor
            continue
        for old, new in {
            "attention.output.dense": "attn.proj",
            "layer_scale1.lambda1": "ls1.gamma",
            "layer_scale2.lambda1": "ls2.gamma",
            "mlp.weights_in": "mlp.w12",
            "mlp.weights_out": "mlp.w3",
        }.items():
            kind = kind.replace(old, new)
        bare[f"blocks.{f'{block}.{block}' if chunks else block}.{kind}"] = tensor
    for block in range(DEPTH):
        for kind in ("weight", "bias"):
            parts = [theirs[f"encoder.layer.{block}.attention.attention.{n}.{kind}"] for n in ("query", "key", "value")]
            bare[f"blocks.{f'{block}.{block}' if chunks else block}.attn.qkv.{kind}"] = torch.cat(parts)
    return bare


def clip_vision(patch: int, projected: int) -> State:
    """``transformers.CLIPModel`` with a little of its text tower."""
    vision = "vision_model"
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("logit_scale", ()),
        ("text_projection.weight", (projected, 5)),
        *norm("text_model.final_layer_norm", 5),
        ("visual_projection.weight", (projected, WIDTH)),
        (f"{vision}.embeddings.class_embedding", (WIDTH,)),
        (f"{vision}.embeddings.patch_embedding.weight", (WIDTH, 3, patch, patch)),
        (f"{vision}.embeddings.position_embedding.weight", (GRID**2 + 1, WIDTH)),
        *norm(f"{vision}.pre_layrnorm"),
        *norm(f"{vision}.post_layernorm"),
    ]
    for block in range(DEPTH):
        place = f"{vision}.encoder.layers.{block}"
        shapes += norm(f"{place}.layer_norm1") + norm(f"{place}.layer_norm2")
        for kind in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes += linear(f"{place}.self_attn.{kind}", WIDTH, WIDTH)
        shapes += linear(f"{place}.mlp.fc1", 4 * WIDTH, WIDTH) + linear(f"{place}.mlp.fc2", WIDTH, 4 * WIDTH)
    return filled(shapes)


def beit3(patch: int) -> State:
    """torchscale's BEiT3 with the branch of texts (B) of one layer, and MUSK's heads."""
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("logit_scale", ()),
        ("vision_head.weight", (WIDTH, WIDTH)),
        ("language_head.weight", (WIDTH, WIDTH)),
        ("beit3.text_embed.weight", (7, WIDTH)),
        ("beit3.vision_embed.mask_token", (1, 1, WIDTH)),
        ("beit3.vision_embed.cls_token", (1, 1, WIDTH)),
        ("beit3.vision_embed.proj.weight", (WIDTH, 3, patch, patch)),
        ("beit3.vision_embed.proj.bias", (WIDTH,)),
        ("beit3.encoder.embed_positions.A.weight", (GRID**2 + 3, WIDTH)),
        ("beit3.encoder.embed_positions.B.weight", (1024, WIDTH)),
        *norm("beit3.encoder.layer_norm.A"),
        *norm("beit3.encoder.layer_norm.B"),
    ]
    for block in range(DEPTH):
        place = f"beit3.encoder.layers.{block}"
        for branch in ("A", "B"):
            shapes += norm(f"{place}.self_attn_layer_norm.{branch}") + norm(f"{place}.final_layer_norm.{branch}")
            for kind in ("q_proj", "k_proj", "v_proj", "out_proj"):
                shapes += linear(f"{place}.self_attn.{kind}.{branch}", WIDTH, WIDTH)
            shapes += norm(f"{place}.self_attn.inner_attn_ln.{branch}")
            shapes += linear(f"{place}.ffn.{branch}.fc1", 4 * WIDTH, WIDTH)
            shapes += linear(f"{place}.ffn.{branch}.fc2", WIDTH, 4 * WIDTH)
            shapes += norm(f"{place}.ffn.{branch}.ffn_layernorm", 4 * WIDTH)
    return filled(shapes)


def picture(side: int) -> Tensor:
    """(2, 3, side, side): a picture of waves, already normalised."""
    return torch.sin(torch.arange(2 * 3 * side * side, dtype=torch.float64) * 0.37).reshape(2, 3, side, side).float()
