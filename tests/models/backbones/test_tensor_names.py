"""Published files that are not timm's: they load by the table of names, and give what their own code gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from published_files import (
    DEPTH,
    GRID,
    HEADS,
    TINY,
    WIDTH,
    State,
    bare_dinov2,
    beit3,
    clip_vision,
    filled,
    linear,
    norm,
    picture,
    transformers_dinov2,
    transformers_vit,
)
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from wsipipe.data.errors import BackboneError
from wsipipe.models.backbones.backbone import Backbone, Embedder, embed, load_embedder, registry
from wsipipe.models.backbones.heads import AttentionPooled, Projected
from wsipipe.models.backbones.tensor_names import naming_rules

CPU = torch.device("cpu")


def tiny(name: str, **changes: Any) -> Backbone:
    """A row of the table, its network two blocks deep and 24 wide on 3 × 3 patches."""
    row = registry()[name]
    patch = {"plip": 32, "midnight-12k": 14, "hibou-b": 14, "openmidnight": 14, "gpfm": 14}.get(name, 16)
    arguments = {**row.arguments, **TINY, "img_size": GRID * patch}
    update = {"arguments": arguments, "resize": GRID * patch, "crop": None, "width": None}
    return row.model_copy(update={**update, **changes})


def load(backbone: Backbone, content: Any, folder: Path) -> Embedder:
    torch.save(content, folder / "w.pt")
    return load_embedder(backbone, device=CPU, file=folder / "w.pt")


@torch.inference_mode()
def features(embedder: Embedder) -> Tensor:
    return embed(embedder.model, picture(embedder.backbone.resize), embedder.backbone.pooling)


# ----- known answers: of transformers 5.24 and torchscale 0.3, for these files and this picture -----

PROJECTED = {"head": {"kind": "projection", "widths": [8], "bias": False, "unit": False}}
KNOWN: dict[str, tuple[dict[str, Any], Callable[[], State], list[float]]] = {
    "phikon": ({}, lambda: transformers_vit(16), [-1.440132, -1.30359, 0.944565, -0.973145]),
    "phikon-v2": ({}, lambda: transformers_dinov2(16, gated=False), [0.78852, -0.72101, -2.393367, -1.507159]),
    "midnight-12k": (  # positions of 5 × 5 patches, which transformers resamples for each picture
        {},
        lambda: transformers_dinov2(14, gated=True, grid=5),
        [-0.902969, -2.374732, -2.2047, 0.287752],
    ),
    "hibou-b": (
        {},
        lambda: transformers_dinov2(14, gated=True, registers=4),
        [-0.877176, -2.501173, -2.124826, 0.429526],
    ),
    "plip": (PROJECTED, lambda: clip_vision(32, 8), [-1.630915, 1.337821, 0.398304, -1.704801]),
    "musk": ({}, lambda: beit3(16), [0.13351, 1.748129, -0.876525, -1.144343]),
}


@pytest.mark.parametrize("name", KNOWN)
def test_features_are_those_of_the_authors_library(tmp_path: Path, name: str) -> None:
    changes, state, wanted = KNOWN[name]
    embedder = load(tiny(name, **changes), state(), tmp_path)
    assert features(embedder)[0, :4].tolist() == pytest.approx(wanted, abs=1e-5)
    assert any(f"from the names of {embedder.backbone.tensor_names}" in note for note in embedder.weights.notes)


def test_the_mean_of_patch_tokens_leaves_out_what_comes_first(tmp_path: Path) -> None:
    """Midnight's second half: transformers' own mean over all tokens but the class token."""
    found = features(load(tiny("midnight-12k"), transformers_dinov2(14, gated=True, grid=5), tmp_path))
    assert found.shape == (2, 2 * WIDTH)
    assert found[0, WIDTH : WIDTH + 4].tolist() == pytest.approx([0.019675, -0.499976, -0.525332, -0.081684], abs=1e-5)


def test_positions_of_another_size_are_resampled_as_the_authors_do_and_said(tmp_path: Path) -> None:
    state = transformers_dinov2(14, gated=True, grid=5)
    theirs, timms = (
        load(tiny("midnight-12k", **c), state, tmp_path) for c in ({}, {"positions": "bicubic antialiased"})
    )
    assert "from 5 × 5 to 3 × 3 patches, bicubic, as its authors do" in "; ".join(theirs.weights.notes)
    assert "patches, as timm does" in "; ".join(timms.weights.notes)
    assert not torch.allclose(features(theirs), features(timms), atol=1e-3)


# ----- wrappers -----


def named(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def other(state: State) -> State:
    return {name: tensor + 1 for name, tensor in state.items()}


WRAPPED: dict[str, Callable[[State], Any]] = {
    "module.": lambda s: named("module.", s),
    "backbone.": lambda s: named("backbone.", s),
    "teacher.backbone.": lambda s: named("teacher.backbone.", s),
    "teacher": lambda s: {"teacher": named("backbone.", s), "student": named("backbone.", other(s))},
    "EMA": lambda s: {"model": other(s), "model_ema": s, "optimizer": {}},
    "state_dict": lambda s: {"state_dict": named("model.", s), "epoch": 3},
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_prefixes_and_averages_are_as_with_timms_own_files(tmp_path: Path, name: str, wrapper: str) -> None:
    changes, state, wanted = KNOWN[name]
    embedder = load(tiny(name, **changes), WRAPPED[wrapper](state()), tmp_path)
    assert features(embedder)[0, :4].tolist() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("name", KNOWN)
def test_parts_of_safetensors_are_one_file(tmp_path: Path, name: str) -> None:
    changes, state, wanted = KNOWN[name]
    tensors = {key: tensor.clone().contiguous() for key, tensor in state().items()}
    parts = {
        "model-00001-of-00002.safetensors": list(tensors)[::2],
        "model-00002-of-00002.safetensors": list(tensors)[1::2],
    }
    for file, own in parts.items():
        save_file({key: tensors[key] for key in own}, tmp_path / file)
    places = {key: file for file, own in parts.items() for key in own}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    embedder = load_embedder(tiny(name, **changes), device=CPU, file=tmp_path)
    assert features(embedder)[0, :4].tolist() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("name", KNOWN)
def test_what_does_not_fit_names_what_is_missing_and_what_is_too_much(tmp_path: Path, name: str) -> None:
    changes, state, _ = KNOWN[name]
    kept = state()
    last = next(key for key in reversed(kept) if "norm" in key and ".B." not in key and "text" not in key)
    query = next(key for key in kept if "q_proj" in key or ".query." in key)
    del kept[query]
    kept["encoder.adapter.weight"] = kept.pop(last)
    with pytest.raises(BackboneError, match="tensors") as caught:
        load(tiny(name, **changes), kept, tmp_path)
    assert "missing: " in caught.value.what
    assert "adapter.weight" in caught.value.what
    assert "qkv" in caught.value.what


# ----- one network under several names -----


@pytest.mark.parametrize("chunks", [False, True])
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("gpfm", transformers_dinov2(14, gated=False)),
        ("openmidnight", transformers_dinov2(14, gated=True, registers=4)),
    ],
)
def test_bare_dinov2_is_the_network_that_transformers_names(
    tmp_path: Path, name: str, theirs: State, chunks: bool
) -> None:
    wanted = load(tiny(name, tensor_names="transformers-dinov2"), theirs, tmp_path)
    bare = bare_dinov2(theirs, chunks=chunks)
    for content in (bare, {"teacher": named("backbone.", bare) | {"dino_head.last_layer.weight": torch.ones(2)}}):
        assert torch.equal(features(load(tiny(name), content, tmp_path)), features(wanted))


def trunk_of(patch: int, prefix: str, *, scales: str = "") -> State:
    """A network under timm's names, with layer scales if they have a name."""
    shapes: list[tuple[str, tuple[int, ...]]] = [
        (f"{prefix}cls_token", (1, 1, WIDTH)),
        (f"{prefix}pos_embed", (1, GRID**2 + 1, WIDTH)),
        (f"{prefix}patch_embed.proj.weight", (WIDTH, 3, patch, patch)),
        (f"{prefix}patch_embed.proj.bias", (WIDTH,)),
        *norm(f"{prefix}norm"),
    ]
    for block in range(DEPTH):
        place = f"{prefix}blocks.{block}"
        shapes += norm(f"{place}.norm1") + norm(f"{place}.norm2")
        shapes += linear(f"{place}.attn.qkv", 3 * WIDTH, WIDTH) + linear(f"{place}.attn.proj", WIDTH, WIDTH)
        shapes += linear(f"{place}.mlp.fc1", 4 * WIDTH, WIDTH) + linear(f"{place}.mlp.fc2", WIDTH, 4 * WIDTH)
        if scales:
            shapes += [(f"{place}.ls{number}.{scales}", (WIDTH,)) for number in (1, 2)]
    return filled(shapes)


def tokens(embedder: Embedder) -> Tensor:
    assert isinstance(embedder.model, AttentionPooled | Projected)
    with torch.inference_mode():
        return embedder.model.trunk.forward_features(picture(embedder.backbone.resize))  # type: ignore[operator]


def test_keep_is_projected_and_of_length_one(tmp_path: Path) -> None:
    head = {"kind": "projection", "widths": [10, 6], "bias": True, "unit": True}
    state = trunk_of(16, "visual.", scales="weight") | filled(
        [
            *linear("visual_head.0", 10, WIDTH),
            *linear("visual_head.2", 6, 10),
            ("text.embeddings.weight", (3, 3)),
            ("logit_scale", ()),
        ]
    )
    embedder = load(tiny("keep", head=head), named("module.", state), tmp_path)
    x = tokens(embedder)[:, 0]
    x = functional.gelu(x @ state["visual_head.0.weight"].T + state["visual_head.0.bias"])
    x = x @ state["visual_head.2.weight"].T + state["visual_head.2.bias"]
    torch.testing.assert_close(features(embedder), x / x.norm(dim=1, keepdim=True), rtol=1e-5, atol=1e-6)


def test_conch_is_pooled_as_torchs_own_attention_does(tmp_path: Path) -> None:
    pooled, width = nn.MultiheadAttention(16, 2, kdim=WIDTH, vdim=WIDTH, batch_first=True), 16
    names = {f"visual.attn_pool_contrast.attn.{name}": value for name, value in pooled.state_dict().items()}
    pool = filled((name, tuple(value.shape)) for name, value in names.items()) | filled(
        [
            ("visual.attn_pool_contrast.query", (1, width)),
            *norm("visual.attn_pool_contrast.ln_q", width),
            *norm("visual.attn_pool_contrast.ln_k"),
            *norm("visual.ln_contrast", width),
        ]
    )
    rest = filled(
        [
            ("visual.proj_contrast", (16, 16)),
            ("visual.ln_caption.weight", (5,)),
            ("text.cls_emb", (4,)),
            ("logit_scale", ()),
        ]
    )
    head = {"kind": "attention", "width": width, "heads": 2, "bias": True}
    embedder = load(tiny("conch", head=head), trunk_of(16, "visual.trunk.") | pool | rest, tmp_path)
    pooled.load_state_dict({name.rpartition("attn.")[2]: value for name, value in pool.items() if ".attn." in name})
    with torch.inference_mode():
        place = "visual.attn_pool_contrast"
        query = functional.layer_norm(
            pool[f"{place}.query"], (width,), pool[f"{place}.ln_q.weight"], pool[f"{place}.ln_q.bias"]
        )
        keys = functional.layer_norm(
            tokens(embedder), (WIDTH,), pool[f"{place}.ln_k.weight"], pool[f"{place}.ln_k.bias"]
        )
        out = pooled(query.expand(2, 1, width), keys, keys)[0][:, 0]
        wanted = functional.layer_norm(
            out, (width,), pool["visual.ln_contrast.weight"], pool["visual.ln_contrast.bias"]
        )
    torch.testing.assert_close(features(embedder), wanted, rtol=1e-5, atol=1e-5)
    assert embedder.width == width
    assert "logit_scale" in "; ".join(embedder.weights.notes)


def test_conch_v1_5_is_pooled_as_its_formula_says(tmp_path: Path) -> None:
    width, heads = 16, 8
    pool = filled(
        [
            ("attn_pool_contrast.query", (1, width)),
            *norm("attn_pool_contrast.ln_q", width),
            *norm("attn_pool_contrast.ln_k"),
            ("attn_pool_contrast.to_q.weight", (width, width)),
            ("attn_pool_contrast.to_kv.weight", (2 * width, WIDTH)),
            ("attn_pool_contrast.to_out.weight", (width, width)),
            *norm("ln_contrast", width),
        ]
    )
    head = {"kind": "attention", "width": width, "heads": heads, "bias": False}
    state = trunk_of(16, "trunk.", scales="gamma") | pool
    embedder = load(tiny("conch-v1.5", head=head), state, tmp_path)
    layer_norm, place = functional.layer_norm, "attn_pool_contrast"
    with torch.inference_mode():
        query = layer_norm(pool[f"{place}.query"], (width,), pool[f"{place}.ln_q.weight"], pool[f"{place}.ln_q.bias"])
        seen = layer_norm(tokens(embedder), (WIDTH,), pool[f"{place}.ln_k.weight"], pool[f"{place}.ln_k.bias"])
        q = (pool[f"{place}.to_q.weight"] @ query[0]).view(heads, -1)
        k, v = ((seen @ w.T).unflatten(-1, (heads, -1)) for w in pool[f"{place}.to_kv.weight"].chunk(2))
        weights = torch.softmax(torch.einsum("hd,bnhd->bhn", q, k) * q.shape[1] ** -0.5, dim=-1)
        out = torch.einsum("bhn,bnhd->bhd", weights, v).flatten(1) @ pool[f"{place}.to_out.weight"].T
        wanted = layer_norm(out, (width,), pool["ln_contrast.weight"], pool["ln_contrast.bias"])
    torch.testing.assert_close(features(embedder), wanted, rtol=1e-5, atol=1e-5)


def test_ctranspaths_file_is_that_of_an_older_swin(tmp_path: Path) -> None:
    """timm 0.5 kept masks and indices, and joined patches at the end of a stage (checked against it: equal)."""
    torch.manual_seed(0)
    row = registry()["ctranspath"].model_copy(
        update={
            "arguments": {"embed_layer": "ConvStem", "embed_dim": 16, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 2, 4)}
        }
    )
    network = row.build("cpu")
    older = {}
    for name, tensor in network.state_dict().items():
        parts = name.split(".")
        if "downsample" in parts:
            parts[1] = str(int(parts[1]) - 1)
        older[".".join(parts)] = tensor
    older["layers.1.blocks.1.attn_mask"] = torch.ones(2, 2)
    older["layers.0.blocks.0.attn.relative_position_index"] = torch.ones(2, 2)
    embedder = load(row, {"model": older}, tmp_path)
    state = network.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in embedder.model.state_dict().items())
    with pytest.raises(BackboneError, match="missing: patch_embed"):
        load(row, {name: tensor for name, tensor in older.items() if "patch_embed" not in name}, tmp_path)
    wrong = older | {"layers.0.blocks.0.attn.relative_position_bias_table": torch.ones(25, 1)}
    with pytest.raises(BackboneError, match="relative_position_bias_table"):
        load(row, wrong, tmp_path)


def test_every_row_names_a_kind_of_file_that_is_described() -> None:
    assert naming_rules().keys() == {backbone.tensor_names for backbone in registry().values() if backbone.tensor_names}


def test_tokens_of_a_network_with_a_head_can_be_pooled_otherwise(tmp_path: Path) -> None:
    state = trunk_of(16, "visual.", scales="weight") | filled(
        [*linear("visual_head.0", 768, WIDTH), *linear("visual_head.2", 768, 768)]
    )
    embedder = load(tiny("keep").with_pooling("cls"), state, tmp_path)
    assert torch.equal(features(embedder), tokens(embedder)[:, 0])
    assert embedder.width == WIDTH
    assert (HEADS, registry()["keep"].with_pooling("cls").widths()) == (2, {1024})


def test_the_page_lists_every_row() -> None:
    page = (Path(__file__).parents[3] / "docs" / "features.md").read_text(encoding="utf-8")
    for name, backbone in registry().items():
        assert f"| `{name}` | {backbone.width} {backbone.pooling} | {backbone.resize}" in page
