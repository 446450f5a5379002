"""Backbones: the embedded weights are the right ones, tokens are pooled as told, wrong weights are refused.

Small networks of timm with random weights stand for the large ones; the embedded default is the real one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from wsipipe.data.errors import BackboneError
from wsipipe.models.backbones.backbone import Backbone, Embedder, embed, find_backbone, load_embedder, ready
from wsipipe.models.backbones.weights import Weights, find_weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    """The embedded default with its real weights."""
    return load_embedder(find_backbone("efficientnet-lite0"), device=CPU)


def textured(number: int, side: int, seed: int = 0) -> Tensor:
    """(number, side, side, 3) uint8, colours that change smoothly with a little noise, as tissue does."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 250, (number, side // 16 + 1, side // 16 + 1, 3), dtype=np.uint8)
    tiles = [np.asarray(Image.fromarray(c).resize((side, side), Image.Resampling.BICUBIC), np.float64) for c in coarse]
    return torch.from_numpy(
        np.clip(np.stack(tiles) + rng.normal(0, 6, (number, side, side, 3)), 0, 255).astype(np.uint8)
    )


# ----- the embedded default -----


def timm_name(name: str) -> str:
    """Where a tensor of the package belongs in timm's network, by what the layers are.

    Both follow EfficientNet-Lite0 (seven stages of 1, 2, 2, 3, 3, 4, 1 blocks). A block of the first stage is a
    depthwise convolution and a projection; the others widen first. Batch norms are named after what they follow.
    """
    *layer, kind = name.split(".")
    if layer[0] != "_blocks":
        whole = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
        return f"{whole[layer[0]]}.{kind}"
    block = int(layer[1])
    stage = 0
    for stage, blocks in enumerate((1, 2, 2, 3, 3, 4, 1)):  # noqa: B007
        if block < blocks:
            break
        block -= blocks
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    later = {
        "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
        "_project_conv": "conv_pwl", "_bn2": "bn3",
    }  # fmt: skip
    return f"blocks.{stage}.{block}.{(later if stage else first)[layer[2]]}.{kind}"


def test_every_embedded_tensor_is_where_its_layer_is(embedder: Embedder) -> None:
    package = torch.load(find_weights("efficientnet-lite0", None).path, weights_only=True)
    own = {timm_name(name): tensor for name, tensor in package.items() if not name.startswith("_fc.")}
    loaded = embedder.model.state_dict()
    assert own.keys() == loaded.keys()
    for name, tensor in own.items():
        assert torch.equal(loaded[name], tensor), name


def test_the_embedded_default_gives_what_plain_timm_gives(embedder: Embedder) -> None:
    package = torch.load(find_weights("efficientnet-lite0", None).path, weights_only=True)
    plain = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    plain.load_state_dict({timm_name(name): tensor for name, tensor in package.items() if not name.startswith("_fc.")})
    tiles = textured(3, 224)
    with torch.inference_mode():
        wanted = plain.eval()((tiles.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)
    given = embedder(tiles)
    assert (given.shape, given.dtype, embedder.width) == ((3, 1280), torch.float32, 1280)
    torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-5)
    assert (embedder.weights.source, embedder.precision) == ("package", "fp32")


def test_the_embedded_weights_know_what_they_see(embedder: Embedder) -> None:
    """Known answers: with the classifier that we leave out, a photograph of a cat is a cat, and coffee is espresso."""
    package = torch.load(find_weights("efficientnet-lite0", None).path, weights_only=True)
    for photograph, classes in ((skimage.data.chelsea(), range(281, 286)), (skimage.data.coffee(), [967])):
        height, width, _ = photograph.shape
        left = (width - height) // 2
        square = torch.from_numpy(photograph[:, left : left + height].copy())
        logits = embedder(square[None]) @ package["_fc.weight"].T + package["_fc.bias"]
        assert torch.softmax(logits, dim=1)[0, list(classes)].sum() > 0.8


# ----- pixels -----


def test_pixels_that_fit_are_only_normalised(embedder: Embedder) -> None:
    tiles = textured(2, 224)
    back = (embedder.pixels(tiles).permute(0, 2, 3, 1) * 0.5 + 0.5) * 255
    assert torch.equal(back.round().to(torch.uint8), tiles)


def test_a_tiles_features_do_not_depend_on_its_company(embedder: Embedder) -> None:
    """At one batch shape, bit for bit: whatever else is in the batch, padding too, and wherever the tile stands."""
    tiles = textured(8, 224)
    alone = torch.zeros_like(tiles)
    alone[0] = tiles[5]
    together, reverse, padded = embedder(tiles), embedder(tiles.flip(0)), embedder(alone)
    assert torch.equal(together, reverse.flip(0))
    assert torch.equal(together[5], padded[0])
    assert torch.equal(together, embedder(tiles))
    torch.testing.assert_close(embedder(tiles[5:6])[0], together[5], rtol=1e-5, atol=1e-5)  # another batch shape


# ----- number formats and kernels -----


def random_vit(precision: Any = "fp32") -> Embedder:
    """A small transformer with the same random weights each time."""
    torch.manual_seed(0)
    backbone = find_backbone("vit_tiny_patch16_224", "cls")
    return ready(backbone, backbone.build("cpu"), Weights(Path("none"), "random"), device=CPU, precision=precision)


@pytest.mark.parametrize("network", ["embedded", "vit"])
def test_weights_cast_once_give_the_bits_of_autocast(embedder: Embedder, network: str) -> None:
    """bf16 is near fp32, and what torch.autocast makes of the fp32 network, in half the memory."""
    full = embedder if network == "embedded" else random_vit()
    half = (
        load_embedder(embedder.backbone, device=CPU, precision="bf16") if network == "embedded" else random_vit("bf16")
    )
    tiles = textured(3, 224)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = embed(full.model, full.pixels(tiles), full.backbone.pooling).float()
    given = half(tiles)
    assert (given.dtype, half.precision, half.width) == (torch.float32, "bf16", full.width)
    assert torch.equal(given, wanted)
    cosine = torch.nn.functional.cosine_similarity(given, full(tiles))
    assert not torch.equal(given, full(tiles))
    assert cosine.min() > 0.998
    size = [sum(p.nbytes for p in its.model.parameters()) for its in (half, full)]
    assert size[0] < 0.6 * size[1]


def test_convolutional_networks_have_channels_last(embedder: Embedder) -> None:
    tiles = textured(2, 224)
    assert embedder.pixels(tiles).is_contiguous(memory_format=torch.channels_last)
    assert random_vit().pixels(tiles).is_contiguous()


class OneLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.as_tensor(self.layer(pixels.mean((2, 3))).relu())


def compiled(backbone: Backbone) -> tuple[Embedder, Embedder]:
    """A small network as it is, and compiled."""
    torch.manual_seed(0)
    network, weights = OneLayer(), Weights(Path("none"), "random")
    plain = ready(backbone, network, weights, device=CPU)
    return plain, ready(backbone, network, weights, device=CPU, compile=True)


def test_compiled_it_gives_the_same(embedder: Embedder) -> None:
    plain, fast = compiled(embedder.backbone)
    fast.warm_up(4)
    tiles = textured(4, 224)
    torch.testing.assert_close(fast(tiles), plain(tiles), rtol=1e-5, atol=1e-5)


def test_a_warm_up_that_does_not_fit_the_memory_leaves_it_to_the_batches(embedder: Embedder) -> None:
    class Large(OneLayer):
        def forward(self, pixels: Tensor) -> Tensor:
            if len(pixels) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(pixels)

    large = ready(embedder.backbone, Large(), Weights(Path("none"), "random"), device=CPU)
    large.warm_up(4)
    with pytest.raises(torch.OutOfMemoryError):
        large(textured(4, 224))


def test_where_nothing_can_be_compiled_the_way_out_is_told(embedder: Embedder) -> None:
    torch.compiler.reset()
    _, fast = compiled(embedder.backbone.model_copy(update={"resize": 48}))
    without = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}
    refused = pytest.raises(BackboneError, match=r"torch\.compile fails on efficientnet-lite0")
    with torch._inductor.config.patch(without), refused as caught:
        fast.warm_up(3)
    assert "--compile" in caught.value.hint
    torch.compiler.reset()


# ----- pooling -----


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    """A small random transformer with a class token and four registers: nine tokens of a 32 px image."""
    torch.manual_seed(0)
    sizes = {"img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 2, "reg_tokens": 4, "no_embed_class": True}
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, **sizes)
    nn.init.normal_(model.reg_token)
    nn.init.normal_(model.cls_token)
    return model.eval()


def tokens_by_hand(vit: Any, pixels: Tensor) -> dict[str, Tensor]:
    """The transformer's last tokens, the network spelt out."""
    patches = vit.patch_embed(pixels) + vit.pos_embed  # (B, 4, C)
    first = torch.cat([vit.cls_token, vit.reg_token], dim=1).expand(len(pixels), -1, -1)
    x = torch.cat([first, patches], dim=1)
    for block in vit.blocks:
        x = block(x)
    x = vit.norm(x)
    return {"cls": x[:, 0], "registers": x[:, 1:5], "patches": x[:, 5:]}


@torch.inference_mode()
def test_pooling_against_the_network_spelt_out(vit: nn.Module) -> None:
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    tokens = tokens_by_hand(vit, pixels)
    assert tokens["patches"].shape == (3, 4, 24)
    mean = tokens["patches"].mean(dim=1)
    torch.testing.assert_close(embed(vit, pixels, "cls"), tokens["cls"])
    torch.testing.assert_close(embed(vit, pixels, "mean"), mean)
    torch.testing.assert_close(embed(vit, pixels, "cls+mean"), torch.cat([tokens["cls"], mean], dim=1))
    torch.testing.assert_close(embed(vit, pixels, "pooled"), tokens["cls"])  # timm's own default for this network
    assert not torch.allclose(mean, torch.cat([tokens["registers"], tokens["patches"]], dim=1).mean(dim=1), atol=1e-3)


@torch.inference_mode()
def test_pooling_that_a_network_cannot_do() -> None:
    pixels = torch.zeros(1, 3, 32, 32)
    convolutional = timm.create_model("test_efficientnet", pretrained=False, num_classes=0).eval()
    for pooling in ("cls", "mean", "cls+mean"):
        with pytest.raises(BackboneError, match="no tokens"):
            embed(convolutional, pixels, pooling)  # type: ignore[arg-type]
    tokenless = timm.create_model(
        "test_vit", pretrained=False, num_classes=0, img_size=32, class_token=False, global_pool="avg"
    )
    with pytest.raises(BackboneError, match="no class token"):
        embed(tokenless, pixels, "cls")
    assert embed(tokenless, pixels, "mean").shape == (1, 64)


# ----- names -----


def test_names_of_ours_and_of_timm() -> None:
    assert find_backbone("uni2-h").width == 1536
    assert find_backbone("virchow2").pooling == "cls+mean"
    other = find_backbone("virchow2", "cls")
    assert (other.pooling, other.width) == ("cls", None)
    assert find_backbone("virchow2", "cls+mean").width == 2560
    for name in ("test_vit", "test_vit.r160_in1k"):
        backbone = find_backbone(name)
        assert (backbone.architecture, backbone.hub_id) == (name, "timm/test_vit.r160_in1k")
        assert (backbone.resize, backbone.crop) == (168, 160)  # timm's crop_pct is 0.95
        assert backbone.pooling == "pooled"


@pytest.mark.parametrize(
    ("name", "near"),
    [("uni2h", "uni2-h"), ("resnet5O", "resnet50"), ("resnet18.a1_in2k", "resnet18.a1_in1k"), ("", "")],
)
def test_a_name_that_nobody_knows(name: str, near: str) -> None:
    with pytest.raises(BackboneError, match="no backbone is called") as caught:
        find_backbone(name)
    assert near in caught.value.hint
    assert "efficientnet-lite0" in caught.value.hint
