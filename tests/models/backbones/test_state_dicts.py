"""Weights as training code saves them: prefixes, averaged weights, heads, other image sizes, settings, parts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor
from wsipipe.data.errors import BackboneError
from wsipipe.models.backbones.backbone import Backbone, Embedder, find_backbone, load_embedder
from wsipipe.models.backbones.weights import digest_of_weights, find_weights

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def small() -> Backbone:
    return find_backbone("test_vit")


@pytest.fixture(scope="module")
def state(small: Backbone) -> State:
    torch.manual_seed(0)
    return small.build("cpu").state_dict()


def other(state: State) -> State:
    return {name: tensor + 1 for name, tensor in state.items()}


def named(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def load(backbone: Backbone, content: Any, folder: Path) -> Embedder:
    torch.save(content, folder / "w.pt")
    return load_embedder(backbone, device=torch.device("cpu"), file=folder / "w.pt")


def holds(embedder: Embedder, state: State) -> bool:
    return all(torch.equal(tensor, state[name]) for name, tensor in embedder.model.state_dict().items())


PREFIXES = [
    "module.",
    "model.",
    "backbone.",
    "encoder.",
    "teacher.backbone.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.encoder.",
    "visual.trunk.",
    "student.",
    "a.name.that.nobody.knows.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_stripped_and_said(tmp_path: Path, small: Backbone, state: State, prefix: str) -> None:
    heads = {"dino_head.mlp.0.weight": torch.ones(3), "epoch_loss": torch.ones(1)}
    embedder = load(small, {"state_dict": named(prefix, state) | heads, "epoch": 3}, tmp_path)
    assert holds(embedder, state)
    notes = "; ".join(embedder.weights.notes)
    assert "stripped" in notes
    assert "left out 2 tensors that are not the network's: dino_head, epoch_loss" in notes


def test_parts_of_names_that_say_how_it_ran_are_stripped_wherever_they_stand(
    tmp_path: Path, small: Backbone, state: State
) -> None:
    inner = {name.replace("attn.", "_checkpoint_wrapped_module.attn.", 1): tensor for name, tensor in state.items()}
    assert inner.keys() != state.keys()
    assert holds(load(small, inner, tmp_path), state)


def test_weights_as_they_are_need_no_note(tmp_path: Path, small: Backbone, state: State) -> None:
    assert load(small, state, tmp_path).weights.notes == ()
    assert load(small, {"model": state, "optimizer": {"state": {}}}, tmp_path).weights.notes == ()


TRAINING = [
    *("head.weight", "mask_token", "dino_head.last_layer.weight", "ibot_head.mlp.0.bias", "decoder.0.weight"),
    *("decoder_embed.weight", "decoder_pos_embed", "predictor.weight", "fc.weight", "classifier.1.bias"),
]


@pytest.mark.parametrize("name", TRAINING)
def test_what_only_training_needs_is_left_out_and_said(
    tmp_path: Path, small: Backbone, state: State, name: str
) -> None:
    for prefix in ("", "module."):
        embedder = load(small, named(prefix, state | {name: torch.ones(5)}), tmp_path)
        assert holds(embedder, state)
        assert name.split(".")[0] in "; ".join(embedder.weights.notes)


AVERAGED: dict[str, Callable[[State], Any]] = {
    "state_dict_ema": lambda s: {"state_dict": other(s), "state_dict_ema": s},
    "model_ema": lambda s: {"model": other(s), "model_ema": s, "optimizer": {}},
    "with prefixes": lambda s: {"state_dict": named("module.", other(s)), "state_dict_ema": named("module.", s)},
    "teacher and student": lambda s: {"student": named("backbone.", other(s)), "teacher": named("backbone.", s)},
    "in the names": lambda s: {"model": named("student.backbone.", other(s)) | named("teacher.backbone.", s)},
    "lightning": lambda s: {"state_dict": named("model.", other(s)) | named("ema_model.", s)},
    "target": lambda s: named("encoder.", other(s)) | named("target_encoder.", s),
    "plain beside": lambda s: other(s) | named("ema.", s),
}


@pytest.mark.parametrize("kind", AVERAGED)
def test_averaged_weights_are_taken_where_there_are_both_and_said(
    tmp_path: Path, small: Backbone, state: State, kind: str
) -> None:
    embedder = load(small, AVERAGED[kind](state), tmp_path)
    assert holds(embedder, state)
    assert "took the averaged weights" in "; ".join(embedder.weights.notes)


def test_averages_that_are_not_there_are_no_averages(tmp_path: Path, small: Backbone, state: State) -> None:
    for nothing in (None, {}):
        assert holds(load(small, {"state_dict": state, "state_dict_ema": nothing}, tmp_path), state)


SEVERAL: dict[str, Callable[[State], Any]] = {
    "two encoders": lambda s: named("encoder_q.", s) | named("encoder_k.", other(s)),
    "plain and wrapped": lambda s: s | named("momentum_model.", other(s)),
    "two averages": lambda s: {"model": s, "model_ema": other(s), "teacher": s},
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_of_several_networks_none_is_guessed(tmp_path: Path, small: Backbone, state: State, kind: str) -> None:
    with pytest.raises(BackboneError, match=r"holds (tensors of 2 networks|averaged weights of 2 kinds)") as caught:
        load(small, SEVERAL[kind](state), tmp_path)
    assert "save the intended one" in caught.value.hint


def test_several_that_are_equal_are_one(tmp_path: Path, small: Backbone, state: State) -> None:
    assert holds(load(small, named("encoder_q.", state) | named("encoder_k.", state), tmp_path), state)


def test_a_larger_teacher_is_another_network(tmp_path: Path, small: Backbone, state: State) -> None:
    larger = {name: torch.ones((*tensor.shape, 2)) for name, tensor in state.items()}
    assert holds(load(small, {"model": named("student.", state) | named("teacher.", larger)}, tmp_path), state)


def test_what_is_really_another_network_is_named_with_its_shapes(tmp_path: Path, small: Backbone, state: State) -> None:
    deeper = state | {"blocks.99.attn.qkv.weight": torch.ones(1), "cls_token": torch.ones(1, 1, 99)}
    with pytest.raises(BackboneError, match="tensors") as caught:
        load(small, named("module.", deeper), tmp_path)
    assert "1 tensors not expected: blocks.99.attn.qkv.weight" in caught.value.what
    assert "cls_token (1, 1, 99), not (1, 1, 64)" in caught.value.what


def test_another_image_size_is_resampled_as_timm_does_and_said(tmp_path: Path, small: Backbone) -> None:
    torch.manual_seed(0)
    larger = timm.create_model("test_vit", img_size=224, num_classes=0).state_dict()
    embedder = load(small, named("module.", larger | {"mask_token": torch.ones(1, 64)}), tmp_path)
    note = next(note for note in embedder.weights.notes if "position embedding" in note)
    assert "from 14 × 14 to 10 × 10 patches, as timm does" in note
    reference = timm.create_model("test_vit", num_classes=0)
    reference.load_state_dict(checkpoint_filter_fn(dict(larger), reference))
    assert holds(embedder, reference.state_dict())


def test_patches_of_another_size_are_refused(tmp_path: Path, small: Backbone) -> None:
    with pytest.raises(BackboneError, match=r"patch_embed\.proj\.weight \(64, 3, 8, 8\), not \(64, 3, 16, 16\)"):
        load(small, timm.create_model("test_vit", patch_size=8, num_classes=0).state_dict(), tmp_path)


def test_dinov2s_names_are_timms(tmp_path: Path) -> None:
    """Meta's own files with registers: another name for them, and a class token that has its place added."""
    backbone = find_backbone("vit_small_patch14_reg4_dinov2.lvd142m")
    torch.manual_seed(0)
    state = backbone.build("cpu").state_dict()
    theirs = dict(state)
    theirs["register_tokens"] = theirs.pop("reg_token")
    place = torch.randn(1, 1, theirs["pos_embed"].shape[2])
    theirs["cls_token"] = theirs["cls_token"] - place
    theirs["pos_embed"] = torch.cat([place, theirs["pos_embed"]], dim=1)
    theirs["mask_token"] = torch.ones(1, 384)
    embedder = load(backbone, theirs, tmp_path)
    assert "renamed DINOv2's tensors as timm does" in embedder.weights.notes
    loaded = embedder.model.state_dict()
    assert all(torch.allclose(loaded[name], tensor, atol=1e-6) for name, tensor in state.items())


def test_settings_beside_the_weights_are_let_through(tmp_path: Path, small: Backbone, state: State) -> None:
    args = argparse.Namespace(lr=1e-3, out=PosixPath("runs/1"), layers=[1, 2])
    content = {"model": state, "args": args, "best": np.float64(0.9), "epoch": np.int64(3), "loss": np.float32(1)}
    assert holds(load(small, content, tmp_path), state)


class Malice(argparse.Namespace):
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("ran",)


def test_anything_else_is_not(
    tmp_path: Path, small: Backbone, state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    for object_ in (Malice(), np.array([print], dtype=object)):
        with pytest.raises(BackboneError, match="cannot be read as weights"):
            load(small, {"model": state, "args": argparse.Namespace(deep=object_)}, tmp_path)
    assert "ran" not in capsys.readouterr().out


def shards(state: State, folder: Path) -> Path:
    folder.mkdir()
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, own in parts.items():
        save_file({name: state[name].clone() for name in own}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, own in parts.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_weights_in_parts_are_those_of_one_file(tmp_path: Path, small: Backbone, state: State) -> None:
    folder = shards(state, tmp_path / "model")
    (folder / ".DS_Store").touch()
    (folder / "config.json").write_text("{}")
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "whole.safetensors")
    for given in (folder, folder / "model.safetensors.index.json", tmp_path / "whole.safetensors"):
        assert holds(load_embedder(small, device=torch.device("cpu"), file=given), state)
        assert digest_of_weights(given) == digest_of_weights(tmp_path / "whole.safetensors")
    assert find_weights("x", None, file=folder / "model.safetensors.index.json").path == folder
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"listed in its index are missing: model-00002-of-00002\.safetensors"):
        load_embedder(small, device=torch.device("cpu"), file=folder)


def test_a_folder_of_one_file_is_that_file_and_of_several_is_refused(
    tmp_path: Path, small: Backbone, state: State
) -> None:
    torch.save(state, tmp_path / "w.pt")
    assert holds(load_embedder(small, device=torch.device("cpu"), file=tmp_path), state)
    torch.save(other(state), tmp_path / "v.pt")
    with pytest.raises(BackboneError, match="a folder of 2 weights files"):
        load_embedder(small, device=torch.device("cpu"), file=tmp_path)


def test_the_digest_knows_no_wrapper(tmp_path: Path, state: State) -> None:
    digests = set()
    for content in (state, named("module.", state), named("module._orig_mod.", state), {"state_dict": state}):
        torch.save(content, tmp_path / "w.pt")
        digests.add(digest_of_weights(tmp_path / "w.pt"))
    assert len(digests) == 1
