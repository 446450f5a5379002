"""Slide encoders, with weights in their published names, against the sums of those who published them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command import wsipipe
from published_files import State, filled, linear, norm
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from wsipipe.data.errors import BackboneError, BundleError, StoreError, UsageError
from wsipipe.data.features.store import Bag, FeatureFacts, SlideEncoding
from wsipipe.models.backbones.backbone import find_backbone
from wsipipe.models.slide_encoders.loading import EncoderChoice
from wsipipe.models.slide_encoders.registry import EncoderCard, registry

CPU, STORE = torch.device("cpu"), Path("S1.zarr")
TILES = 9


def bag_of(backbone: str, width: int, tiles: int = TILES, **facts: object) -> Bag:
    """A slide's tiles as waves."""
    x = np.sin(np.arange(tiles * width) * 0.61).reshape(tiles, width).astype(np.float16)
    known = FeatureFacts(
        slide_id="S1",
        slide_digest="sha256:1",
        tiles_digest="sha256:2",
        mpp=0.5,
        tile_px=512,
        tile_size_level0=1024,
        backbone=backbone,
        architecture="waves",
        pooling="cls",
        width=width,
        weights_digest="sha256:3",
        precision="fp32",
        transform={},
    )
    return Bag("S1", x, np.zeros((tiles, 2), np.int64), known.model_copy(update=facts))


def encoded(name: str, file: Path | None, bag: Bag, backbone: str | None = None) -> np.ndarray:
    choice = EncoderChoice.of(name, weights=file, backbone=backbone)
    return choice.load(CPU).encode(bag, STORE)


def gated(prefix: str, width: int, hidden: int, attention: int, names: tuple[str, str]) -> State:
    """FEATHER's or CHIEF's tensors."""
    embedding, pooling = names
    return filled(
        (f"{prefix}{name}", shape)
        for name, shape in [
            *linear(embedding, hidden, width),
            *linear(f"{pooling}.attention_a.0", attention, hidden),
            *linear(f"{pooling}.attention_b.0", attention, hidden),
            *linear(f"{pooling}.attention_c", 1, attention),
        ]
    )


def attention_of(state: State, pooling: str, h: Tensor) -> Tensor:
    """a = softmax(w · (tanh V h ⊙ sigm U h)) of tiles h (N, H)."""

    def layer(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, state[f"{pooling}.{name}.weight"], state[f"{pooling}.{name}.bias"])

    return layer("attention_c", layer("attention_a.0", h).tanh() * layer("attention_b.0", h).sigmoid()).softmax(dim=0)


@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
def test_feather_pools_the_embedded_tiles(tmp_path: Path, prefix: str) -> None:
    """z = Σ a_i ReLU(W x_i + b), 512 wide, of tiles of CONCH v1.5."""
    state = gated("", 768, 512, 384, ("patch_embed.0", "global_attn"))
    save_file({prefix + k: v for k, v in (state | filled(linear("classifier", 108, 512))).items()}, tmp_path / "f.st")
    (tmp_path / "f.st").rename(tmp_path / "feather.safetensors")
    bag = bag_of("conch-v1.5", 768)
    x = torch.from_numpy(bag.features).float()
    h = functional.linear(x, state["patch_embed.0.weight"], state["patch_embed.0.bias"]).relu()
    expected = (attention_of(state, "global_attn", h) * h).sum(dim=0)
    vector = encoded("feather", tmp_path / "feather.safetensors", bag)
    assert (vector.shape, vector.dtype) == ((512,), np.float32)
    np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)


def test_chief_pools_the_tiles_themselves(tmp_path: Path) -> None:
    """z = Σ a_i x_i with the attention of embedded tiles; layers of its pretraining are left out."""
    state = gated("", 768, 512, 256, ("attention_net.0", "attention_net.3"))
    beside = filled(
        [
            *linear("classifiers", 2, 512),
            *linear("instance_classifiers.0", 2, 512),
            *linear("att_head.fc1", 256, 512),
            *linear("att_head.fc2", 1, 256),
            *linear("text_to_vision.0", 512, 768),
            ("organ_embedding", (19, 768)),
        ]
    )
    torch.save(state | beside, tmp_path / "CHIEF_pretraining.pth")
    bag = bag_of("ctranspath", 768)
    x = torch.from_numpy(bag.features).float()
    h = functional.linear(x, state["attention_net.0.weight"], state["attention_net.0.bias"]).relu()
    expected = (attention_of(state, "attention_net.3", h) * x).sum(dim=0)
    vector = encoded("chief", tmp_path / "CHIEF_pretraining.pth", bag)
    assert vector.shape == (768,)
    np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)
    torch.save(state | filled([("queue", (3, 3))]), tmp_path / "other.pth")
    with pytest.raises(BundleError, match="it has queue"):
        encoded("chief", tmp_path / "other.pth", bag)


HEADS, E, WIDTH = 4, 32, 512


def madeleine() -> State:
    """MADELEINE's tensors with a narrow embedding, its published width, and the layers of its pretraining."""
    sizes = [(E, 512), (E, E), (E * HEADS, E)]
    shapes: list[tuple[str, tuple[int, ...]]] = []
    for place, (out, into) in zip((0, 4, 8), sizes, strict=True):
        shapes += linear(f"wsi_embedders.pre_attn.{place}", out, into)
        shapes += norm(f"wsi_embedders.pre_attn.{place + 1}", out)
    for head in range(HEADS):
        own = f"wsi_embedders.attn.{head}"
        shapes += linear(f"{own}.attention_a.0", 48, E) + linear(f"{own}.attention_b.0", 48, E)
        shapes += linear(f"{own}.attention_c", 1, 48)
    return filled([*shapes, *linear("projector", WIDTH, E * HEADS), *linear("token_projector", 16, E * HEADS)])


@pytest.mark.parametrize("prefix", ["", "module."])
def test_madeleine_mixes_its_heads(tmp_path: Path, prefix: str) -> None:
    """Each head pools its own numbers of the embedding, every fourth one; the projection reads number by number."""
    state = madeleine()
    torch.save({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "model.pt")
    bag = bag_of("conch", 512)
    h = torch.from_numpy(bag.features).float()
    for place in (0, 4, 8):
        own = f"wsi_embedders.pre_attn.{place}"
        h = functional.linear(h, state[f"{own}.weight"], state[f"{own}.bias"])
        own = f"wsi_embedders.pre_attn.{place + 1}"
        h = functional.gelu(functional.layer_norm(h, h.shape[1:], state[f"{own}.weight"], state[f"{own}.bias"]))
    flat = torch.zeros(E * HEADS)
    for head in range(HEADS):
        own_h = h[:, head::HEADS]
        flat[head::HEADS] = (attention_of(state, f"wsi_embedders.attn.{head}", own_h) * own_h).sum(dim=0)
    expected = functional.linear(flat, state["projector.weight"], state["projector.bias"])
    vector = encoded("madeleine", tmp_path / "model.pt", bag)
    assert vector.shape == (WIDTH,)
    np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)


def changed(name: str, tensor: Tensor | None) -> State:
    state = madeleine()
    if tensor is None:
        return {key: value for key, value in state.items() if not key.startswith(name)}
    return state | {name: tensor}


NOT_MADELEINE = {
    "no attention": (changed("wsi_embedders.attn", None), "lacks layers of its attention"),
    "no projection": (changed("projector", None), "lacks layers of its attention"),
    "one norm less": (changed("wsi_embedders.pre_attn.5", None), "2 tensors missing: embedding.5"),
    "another layer": (changed("logit_scale", torch.ones(1)), "not expected: logit_scale"),
    "another shape": (changed("wsi_embedders.attn.2.attention_c.weight", torch.ones(2, 48)), "of another shape"),
    "not finite": (changed("projector.bias", torch.full((WIDTH,), torch.inf)), "not finite"),
    "something else": ({"x": torch.ones(2)}, "lacks layers"),
}


@pytest.mark.parametrize("case", NOT_MADELEINE)
def test_what_is_not_madeleine_is_refused(tmp_path: Path, case: str) -> None:
    state, message = NOT_MADELEINE[case]
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(BundleError, match=message):
        encoded("madeleine", tmp_path / "model.pt", bag_of("conch", 512))


def test_means() -> None:
    bag = bag_of("uni2-h", 6)
    x = bag.features.astype(np.float64)
    np.testing.assert_allclose(encoded("mean", None, bag), x.mean(axis=0), atol=1e-7)
    both = encoded("mean-std", None, bag)
    np.testing.assert_allclose(both, np.concatenate([x.mean(axis=0), x.std(axis=0)]), atol=1e-7)
    single = encoded("mean-std", None, bag_of("uni2-h", 6, tiles=1))
    assert single[6:].tolist() == [0.0] * 6
    turned = Bag(bag.slide_id, bag.features[::-1].copy(), bag.coords, bag.facts)
    assert encoded("mean", None, turned).tobytes() == encoded("mean", None, bag).tobytes()  # whatever their order


def test_features_of_another_backbone_are_refused_by_both_names(tmp_path: Path) -> None:
    save_file(gated("", 768, 512, 384, ("patch_embed.0", "global_attn")), tmp_path / "f.safetensors")
    file = tmp_path / "f.safetensors"
    with pytest.raises(StoreError, match=r"feather reads features of conch-v1\.5, and these are of uni2-h"):
        encoded("feather", file, bag_of("uni2-h", 768))
    assert encoded("feather", file, bag_of("conch_v15", 768)).shape == (512,)  # another program's name for it
    with pytest.raises(StoreError, match="reads features of 768 numbers, and these have 767"):
        encoded("feather", file, bag_of("conch-v1.5", 767))
    with pytest.raises(StoreError, match="has no tile"):
        encoded("feather", file, bag_of("conch-v1.5", 768, tiles=0))
    already = SlideEncoding(encoder="mean", weights_digest="", tile_width=768, tiles=3, features_digest="sha256:4")
    with pytest.raises(StoreError, match="the vector of a whole slide already, by mean"):
        encoded("feather", file, bag_of("conch-v1.5", 768, tiles=1, encoding=already))
    bag = bag_of("conch-v1.5", 768)
    endless = Bag(bag.slide_id, np.full_like(bag.features, np.inf), bag.coords, bag.facts)
    with pytest.raises(StoreError, match="its vector is not finite"):
        encoded("feather", file, endless)


def test_weights_of_another_width_than_the_encoders_are_refused(tmp_path: Path) -> None:
    save_file(gated("", 768, 256, 384, ("patch_embed.0", "global_attn")), tmp_path / "f.safetensors")
    with pytest.raises(BundleError, match="have 256 numbers, and feather's have 512"):
        encoded("feather", tmp_path / "f.safetensors", bag_of("conch-v1.5", 768))
    assert encoded("abmil", tmp_path / "f.safetensors", bag_of("conch-v1.5", 768), "conch-v1.5").shape == (256,)


def test_what_is_missing_or_too_much_is_said(tmp_path: Path) -> None:
    save_file(gated("", 768, 512, 384, ("patch_embed.0", "global_attn")), tmp_path / "f.safetensors")
    file = tmp_path / "f.safetensors"
    for name, weights, backbone, message in (
        ("abmil", None, None, "abmil needs weights"),
        ("chief", None, None, "chief needs weights"),
        ("abmil", file, None, "does not say on which backbone"),
        ("feather", file, "uni2-h", "was trained on features of conch-v1.5, not of uni2-h"),
        ("mean", file, None, "has no weights"),
        ("mean", None, "uni2-h", "has no weights"),
        ("feathers", None, None, "no slide encoder is called 'feathers'"),
    ):
        with pytest.raises(UsageError, match=message):
            EncoderChoice.of(name, weights=weights, backbone=backbone)
    with pytest.raises(BundleError, match="no such file"):
        encoded("abmil", tmp_path / "none.pth", bag_of("uni2-h", 4), "uni2-h")


@pytest.mark.parametrize("card", registry().values(), ids=lambda card: card.name)
def test_a_row_is_whole(card: EncoderCard) -> None:
    """It can be run, or says why not and what else can; its backbone is one of ours."""
    assert bool(card.network) != bool(card.why_not)
    assert bool(card.why_not) == bool(card.instead)
    if card.why_not:
        with pytest.raises(UsageError, match="cannot be run here"):
            EncoderChoice.of(card.name, weights=None, backbone=None)
    if card.backbone:
        assert find_backbone(card.backbone).name == card.backbone


def test_weights_on_request_say_where_to_ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BackboneError, match="grant access on request"):
        EncoderChoice.of("madeleine", weights=None, backbone=None)


def test_the_table_lists_them_all() -> None:
    rows = json.loads(wsipipe("encoders", "--json").stdout)["encoders"]
    assert [row["name"] for row in rows] == list(registry())
    by_name = {row["name"]: row for row in rows}
    assert by_name["titan"]["backbone"] == "conch-v1.5"
    assert all(row["source"] and row["licence"] for row in rows)
    shown = wsipipe("encoders").output
    for name, reason in itertools.product(["titan"], ["code from there is not run", "instead"]):
        assert name in shown
        assert reason in " ".join(shown.split())
