"""A backbone's weights: files of many shapes give the same network, and what is none is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from wsipipe.data.errors import BackboneError
from wsipipe.models.backbones.backbone import Backbone, Embedder, find_backbone, load_embedder
from wsipipe.models.backbones.weights import Weights, digest_of_weights, load_tensors

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def small() -> Backbone:
    return find_backbone("test_vit")


@pytest.fixture
def state(small: Backbone) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return small.build("cpu").state_dict()


def load(backbone: Backbone, file: Path) -> Embedder:
    return load_embedder(backbone, device=CPU, file=file)


WRAPPERS: list[Callable[[dict[str, Tensor]], Any]] = [
    lambda s: s,
    lambda s: {"state_dict": s, "epoch": 3},
    lambda s: {"model": s},
    lambda s: {"teacher": s, "student": {}},
    lambda s: s | {"head.weight": torch.zeros(1000, 64), "head.bias": torch.zeros(1000)},
]


@pytest.mark.parametrize("wrap", WRAPPERS, ids=["plain", "state_dict", "model", "teacher", "with a classifier"])
def test_a_weights_file_is_used_as_it_is(tmp_path: Path, small: Backbone, state: dict[str, Tensor], wrap: Any) -> None:
    torch.save(wrap(state), tmp_path / "w.pt")
    loaded = load(small, tmp_path / "w.pt")
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.model.state_dict().items())
    assert (loaded.weights.source, loaded.width) == ("file", 64)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


SMALL_NETWORKS: dict[str, dict[str, Any]] = {
    "test_vit": {},
    "test_resnet": {},
    "vit_small_patch16_rope_224": {"depth": 1, "embed_dim": 64, "num_heads": 2},
    "swin_tiny_patch4_window7_224": {"depths": (2, 2), "embed_dim": 24, "num_heads": (1, 2)},
    "swinv2_tiny_window8_256": {"depths": (2, 2), "embed_dim": 24, "num_heads": (1, 2)},
}


HAVE_VALUES = ("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256")
"""Networks that compute with their parameters while they are built, in newer versions of timm."""


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_no_values_are_made_for_weights_that_a_file_holds(tmp_path: Path, name: str) -> None:
    """Buffers that are in no file are computed all the same, also by networks that do so where their parameters lie."""
    backbone = find_backbone(name).model_copy(update={"arguments": SMALL_NETWORKS[name]})
    whole = backbone.build("cpu")
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    loaded = load(backbone, tmp_path / "w.safetensors").model
    if name not in HAVE_VALUES:
        assert all(parameter.is_meta for parameter in backbone.build("cpu", empty=True).parameters())
    for kind in ("named_parameters", "named_buffers"):
        one, other = dict(getattr(whole, kind)()), dict(getattr(loaded, kind)())
        assert one.keys() == other.keys()
        assert all(torch.equal(tensor, other[key]) and tensor.dtype == other[key].dtype for key, tensor in one.items())
    assert dict(whole.named_buffers()).keys() - whole.state_dict().keys() or name.startswith("test_")


def test_a_network_does_not_change_with_the_file_that_it_came_from(
    tmp_path: Path, small: Backbone, state: dict[str, Tensor]
) -> None:
    """A file that is read where it lies would end the process when a share goes away."""
    file = tmp_path / "w.safetensors"
    save_file(state, file)
    loaded = load(small, file)
    with file.open("r+b") as stream:
        stream.write(bytes(file.stat().st_size))
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.model.state_dict().items())


def test_the_digest_is_of_the_tensors_and_not_of_the_file(tmp_path: Path, state: dict[str, Tensor]) -> None:
    state |= {"half": torch.ones(3).half(), "bf": torch.ones(2).bfloat16(), "count": torch.tensor(7)}
    torch.save(state, tmp_path / "a.pt")
    torch.save({"model": dict(reversed(state.items()))}, tmp_path / "b.bin")
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "c.safetensors", {"made": "by us"})
    digest = digest_of_weights(tmp_path / "a.pt")
    assert digest == digest_of_weights(tmp_path / "b.bin") == digest_of_weights(tmp_path / "c.safetensors")
    others = [
        state | {"count": torch.tensor(8)},
        state | {"count": torch.tensor([7])},
        state | {"count": torch.tensor(7, dtype=torch.int32)},
        {name: tensor for name, tensor in state.items() if name != "count"},
        {{"half": "bf", "bf": "half"}.get(name, name): tensor for name, tensor in state.items()},
        {name: tensor.t() if name == "patch_embed.proj.bias" else tensor for name, tensor in state.items()}
        | {"x": torch.ones(1)},
    ]
    digests = {digest}
    for number, other in enumerate(others):
        torch.save(other, tmp_path / f"{number}.pt")
        digests.add(digest_of_weights(tmp_path / f"{number}.pt"))
    assert len(digests) == 1 + len(others)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("norm.weight"), "1 tensors missing: norm.weight"),
        (lambda s: s.update({"mask": torch.ones(1)}), "1 tensors not expected: mask"),
        (lambda s: s.update({"norm.weight": torch.ones(65)}), "1 tensors of another shape: norm.weight"),
        (
            lambda s: (s.pop("norm.weight"), s.update({"ln.weight": torch.ones(64), "cls_token": torch.ones(3)})),
            "1 tensors missing: norm.weight; 1 tensors not expected: ln.weight; 1 tensors of another shape: cls_token",
        ),
        (lambda s: (s.clear(), s.update(other=torch.ones(1))), " …; 1 tensors not expected: other"),
    ],
)
def test_weights_of_another_network_are_refused(
    tmp_path: Path, small: Backbone, state: dict[str, Tensor], change: Callable[[dict[str, Tensor]], object], said: str
) -> None:
    change(state)
    torch.save(dict(state), tmp_path / "w.pt")
    with pytest.raises(BackboneError) as caught:
        load(small, tmp_path / "w.pt")
    assert said in caught.value.what
    assert caught.value.path == str(tmp_path / "w.pt")


class Malice:
    """What a pickle may hold: a call."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.file}'",)


def test_a_checkpoint_never_runs_code(tmp_path: Path, small: Backbone, state: dict[str, Tensor]) -> None:
    torch.save(state | {"extra": Malice(tmp_path / "ran")}, tmp_path / "w.pt")
    with pytest.raises(BackboneError, match=r"it holds \w+\.system, which is not a tensor and may run code") as caught:
        load(small, tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()
    assert "weights_only" not in str(caught.value)  # torch's own advice is to run it


def test_files_that_are_no_weights(tmp_path: Path, small: Backbone, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "good.pt")
    good = (tmp_path / "good.pt").read_bytes()
    rng = np.random.default_rng(0)
    contents = [b"", b"hello\n", b"<html>", good[: len(good) // 2], rng.bytes(5000), b"PK\x03\x04" + rng.bytes(500)]
    contents += [bytes([first]) + rng.bytes(300) for first in range(0, 256, 5)]
    for content in contents:
        for name in ("bad.pt", "bad.safetensors"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(BackboneError, match="cannot be read as weights") as caught:
                load_tensors(Weights(tmp_path / name, "file"), state)
            assert caught.value.path == str(tmp_path / name)
    with pytest.raises(BackboneError, match="cannot be read as weights"):
        load(small, tmp_path / "bad.pt")
    for nothing in ([1, 2], {}, {"a": 1}, torch.ones(2), {1: torch.ones(2)}):
        torch.save(nothing, tmp_path / "none.pt")
        with pytest.raises(BackboneError, match="holds no tensors"):
            load(small, tmp_path / "none.pt")
    for missing, said in ((tmp_path / "gone.pt", "no such weights file"), (tmp_path, "a folder of 4 weights files")):
        with pytest.raises(BackboneError, match=said):
            load(small, missing)


OFFLINE = """
import sys
from wsipipe.data.errors import BackboneError
from wsipipe.models.backbones.weights import find_weights

for name, hub_id in ("uni2-h", "MahmoodLab/UNI2-h"), ("resnet50", "timm/resnet50.tv_in1k"), ("x", None):
    try:
        print(find_weights(name, hub_id, gated=name == "uni2-h").path)
    except BackboneError as error:
        print(error, "|", error.hint)
"""


def offline(home: Path) -> list[str]:
    """What is found for a gated model, an open one and an unpublished one, without a network."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "HF_TOKEN": ""}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run([sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def cached(home: Path, hub_id: str, name: str) -> Path:
    """A file as the hub's client keeps it."""
    folder = home / "hub" / f"models--{hub_id.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    file = folder / "snapshots" / ("0" * 40) / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    return file


def test_without_a_network_and_without_a_cache_the_way_out_is_told(tmp_path: Path) -> None:
    gated, open_one, unpublished = offline(tmp_path)
    assert "grant access on request" in gated
    assert "MahmoodLab/UNI2-h" in gated
    assert "are not in the hub's cache, and the hub" in open_one
    assert "no weights are published for x" in unpublished
    assert all("--weights FILE" in line for line in (gated, open_one, unpublished))


def test_a_hub_that_cannot_be_reached_is_asked_once_and_quietly(tmp_path: Path) -> None:
    """Nobody told the hub's client that there is no network; left to itself it asks for most of a minute."""
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_TOKEN": ""}
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == offline(tmp_path)
    assert "Retry" not in done.stderr


def test_without_a_network_the_cache_is_used(tmp_path: Path) -> None:
    files = [
        cached(tmp_path, "MahmoodLab/UNI2-h", "pytorch_model.bin"),
        cached(tmp_path, "timm/resnet50.tv_in1k", "model.safetensors"),
    ]
    assert offline(tmp_path)[:2] == [str(file) for file in files]
