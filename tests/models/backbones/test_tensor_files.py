"""Weights from strangers: nothing runs, nothing balloons, and what is no plain tensor is refused by name."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from wsipipe.data.errors import BackboneError, BundleError
from wsipipe.models.backbones.tensor_files import read_without_running
from wsipipe.models.backbones.weights import Weights, digest_of_weights, load_tensors
from wsipipe.models.mil.momkd_checkpoint import read_momkd_checkpoint

PLAIN = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2)}


def test_plain_tensors_are_read_however_they_are_wrapped(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    settings = argparse.Namespace(lr=np.float64(0.1), epochs=np.int64(3), half=np.float16(1), on=np.bool_(True))
    tied = {**PLAIN, "b.weight": PLAIN["a.weight"], "mask": torch.ones(1).expand(1000, 100)}
    torch.save({"model": tied, "args": settings, "epoch": 3, "names": ("x", ["y"])}, file)
    found = load_tensors(Weights(file, "file"), {})
    assert found.keys() == tied.keys()
    assert all(torch.equal(found[name], tied[name]) for name in tied)
    assert read_without_running(file)["args"].lr == 0.1
    assert digest_of_weights(file).startswith("sha256:")


def quantised() -> Tensor:
    return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


def itself() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["state_dict"] = content
    return content


def in_lists(levels: int) -> dict[str, Any]:
    nested: list[Any] = []
    for _ in range(levels):
        nested = [nested, nested]  # the same one twice: 2^levels in all, if each were looked at
    return {"state_dict": PLAIN, "more": nested}


class Runs:
    """What pickle would run."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch ran",)


ODD: dict[str, tuple[Callable[[], Any], str]] = {
    "sparse": (lambda: {**PLAIN, "s": torch.eye(3).to_sparse()}, "its tensor 's' is sparse"),
    "sparse rows": (lambda: {**PLAIN, "s": torch.eye(3).to_sparse_csr()}, "its tensor 's' is sparse"),
    "quantised": (lambda: {**PLAIN, "q": quantised()}, "its tensor 'q' is quantised"),
    "complex": (lambda: {**PLAIN, "c": torch.ones(2, dtype=torch.complex64)}, "'c' is of complex numbers"),
    "not stored": (lambda: {**PLAIN, "m": torch.empty(3, device="meta")}, "'m' is without its values"),
    "repeated": (lambda: {**PLAIN, "r": torch.ones(1).expand(10**6, 10**6)}, "claim to hold 4,000,000,000,0"),
    "repeated often": (
        lambda: {f"{i}": torch.ones(1).expand(10**4, 10**4) for i in range(10)},
        "claim to hold 4,000,000,000 bytes, in a file of",
    ),
    "repeated elsewhere": (
        lambda: {"model": PLAIN, "other": [(torch.ones(1).expand(10**6, 10**6),)]},
        "claim to hold 4,000,000,000,0",
    ),
    "a long name": (lambda: {**PLAIN, "a." * 600: torch.ones(1)}, "whose name has 1,200 characters"),
    "code": (lambda: {**PLAIN, "x": Runs()}, "it holds posix.system, which is not a tensor and may run code"),
    "a huge text of NumPy": (lambda: {**PLAIN, "x": np.str_("a")}, "it is damaged, or not a checkpoint"),
    "itself": (itself, "holds no tensors"),
}


@pytest.mark.filterwarnings(
    "ignore:Sparse:UserWarning", "ignore:.*uantiz.*:UserWarning", "ignore:.*uantiz.*:DeprecationWarning"
)
@pytest.mark.parametrize("name", ODD)
def test_what_is_no_plain_tensor_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, said = ODD[name]
    file = tmp_path / "a.pt"
    torch.save(content(), file)
    for read in (digest_of_weights, lambda path: load_tensors(Weights(path, "file"), {})):
        with pytest.raises(BackboneError) as caught:
            read(file)
        assert said in caught.value.what
        assert "weights_only" not in f"{caught.value} {caught.value.hint}"  # the library's advice to let code run
        assert caught.value.path == str(file)
    with pytest.raises(BundleError) as refused:
        read_momkd_checkpoint(file)
    assert "weights_only" not in f"{refused.value} {refused.value.hint}"
    assert not (tmp_path / "ran").exists()


def test_lists_that_hold_each_other_are_looked_at_once(tmp_path: Path) -> None:
    torch.save(in_lists(60), tmp_path / "a.pt")
    assert load_tensors(Weights(tmp_path / "a.pt", "file"), {}).keys() == PLAIN.keys()


class HugeText:
    """A text of NumPy of 2 GB, from a few bytes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.float64(0).__reduce__()[0], (_Type(),)


class _Type:
    def __reduce__(self) -> tuple[Any, ...]:
        return np.dtype, ("S2000000000",)


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    torch.save({**PLAIN, "x": HugeText()}, tmp_path / "a.pt")
    with pytest.raises(BackboneError, match="cannot be read as weights"):
        digest_of_weights(tmp_path / "a.pt")


def test_an_archive_that_unpacks_into_more_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as plain, zipfile.ZipFile(tmp_path / "b.pt", "w") as packed:
        for member in plain.namelist():
            packed.writestr(member, plain.read(member), zipfile.ZIP_DEFLATED)
    with pytest.raises(BackboneError, match=r"it would unpack into 4,\d+,\d+ bytes from"):
        digest_of_weights(tmp_path / "b.pt")


def test_plain_pickles_folders_and_pipes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"x": Runs()}))
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("a.pt", "pipe.pt", "folder.safetensors"):
        with pytest.raises(BackboneError):
            digest_of_weights(tmp_path / name)
    assert not (tmp_path / "ran").exists()
