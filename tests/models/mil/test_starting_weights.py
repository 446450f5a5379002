"""Weights to start from, in the names and with the sums of those who published them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from wsipipe.data.errors import BundleError
from wsipipe.models.mil.abmil import ABMIL, ABMILConfig
from wsipipe.models.mil.bag_tensors import BagBatch, BagTensors
from wsipipe.models.mil.starting_weights import read_starting_weights

D, H, L, CLASSES = 12, 8, 6, 108
FEATHER = {
    "embedding.0": "patch_embed.0",
    "attention.V": "global_attn.attention_a.0",
    "attention.U": "global_attn.attention_b.0",
    "attention.w": "global_attn.attention_c",
}
CLAM = {name: theirs.replace("global_attn", "attention_net.3") for name, theirs in FEATHER.items()} | {
    "embedding.0": "attention_net.0"
}
SHAPES = {"embedding.0": (H, D), "attention.V": (L, H), "attention.U": (L, H), "attention.w": (1, L)}


def published(names: dict[str, str], prefix: str = "", heads: int = 1) -> dict[str, Tensor]:
    """Random weights under published names, with the classifier of another question."""
    draw = torch.Generator().manual_seed(0)
    tensors = {f"{prefix}classifier.weight": torch.randn(CLASSES, H), f"{prefix}classifier.bias": torch.randn(CLASSES)}
    for ours, theirs in names.items():
        rows, columns = SHAPES[ours]
        rows *= heads if ours == "attention.w" else 1
        tensors[f"{prefix}{theirs}.weight"] = torch.randn(rows, columns, generator=draw)
        tensors[f"{prefix}{theirs}.bias"] = torch.randn(rows, generator=draw)
    return tensors


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "module.model."])
@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_feather_is_read_and_pools_as_its_equations_say(tmp_path: Path, prefix: str, ending: str) -> None:
    """z = Σ a_i ReLU(W x_i + b), a = softmax(w · (tanh V h_i ⊙ sigm U h_i))."""
    tensors = published(FEATHER, prefix)
    file = tmp_path / f"feather.{ending}"
    save_file(tensors, file) if ending == "safetensors" else torch.save({"state_dict": tensors}, file)
    start = read_starting_weights(file)
    assert (start.in_features, start.sizes) == (D, {"hidden": H, "attention": L})
    network = ABMIL(ABMILConfig(in_features=D, **start.sizes)).eval()
    head = network.head.weight.clone()
    start.copy_to(network, frozen=False)
    x = torch.randn(20, D)
    output = network(BagBatch.of([BagTensors("S", x, torch.zeros(2, 0, dtype=torch.int32))]))

    def linear(name: str, values: Tensor) -> Tensor:
        layer = f"{prefix}{FEATHER[name]}"
        return values @ tensors[f"{layer}.weight"].T + tensors[f"{layer}.bias"]

    h = linear("embedding.0", x).relu()
    a = linear("attention.w", linear("attention.V", h).tanh() * linear("attention.U", h).sigmoid()).softmax(dim=0)
    torch.testing.assert_close(output.attention, a[:, 0])
    torch.testing.assert_close(output.logits[0], (a * h).sum(dim=0) @ head.T + network.head.bias)


def test_clam_and_a_bundle_are_read_too(tmp_path: Path) -> None:
    torch.save(published(CLAM), tmp_path / "clam.pt")
    network = ABMIL(ABMILConfig(in_features=D, hidden=H, attention=L))
    read_starting_weights(tmp_path / "clam.pt").copy_to(network, frozen=True)
    assert {name for name, p in network.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    again = read_starting_weights(tmp_path / "model.safetensors")
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in again.tensors.items())


def without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in published(FEATHER).items() if not key.startswith(name)}


REFUSED = {
    "several heads": (published(FEATHER, heads=2), "it has 2 attentions, ABMIL has one"),
    "no attention": (without("global_attn"), "it has no attention.V.weight"),
    "two layers of embedding": (
        published(FEATHER) | {"patch_embed.3.weight": torch.ones(H, H)},
        "patch_embed.3.weight",
    ),
    "layers that do not fit": (
        published(FEATHER) | {"global_attn.attention_a.0.weight": torch.ones(L, H + 1)},
        "attention.V has another shape",
    ),
    "not numbers": (published(FEATHER) | {"patch_embed.0.bias": torch.full((H,), torch.nan)}, "not finite"),
    "a picture": (published(FEATHER) | {"patch_embed.0.weight": torch.ones(H, D, 1, 1)}, "not linear"),
    "something else": ({"x": torch.ones(2)}, "it has no embedding.0.weight"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_gated_attention_is_refused(tmp_path: Path, case: str) -> None:
    tensors, message = REFUSED[case]
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(BundleError, match=message):
        read_starting_weights(tmp_path / "x.safetensors")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such file"):
        read_starting_weights(tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes(b"nothing")
    with pytest.raises(BundleError, match="not a checkpoint"):
        read_starting_weights(tmp_path / "x.pth")
    save_file(published(FEATHER), tmp_path / "x.safetensors")
    other = ABMIL(ABMILConfig(in_features=D + 1, hidden=H, attention=L))
    with pytest.raises(BundleError, match="the network's is"):
        read_starting_weights(tmp_path / "x.safetensors").copy_to(other, frozen=False)
