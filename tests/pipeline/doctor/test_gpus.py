"""Checks of GPUs where there is none: which kernels fit, what a made nvidia-smi leads to, numbers that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from doctor_subject import subject_in
from wsipipe.pipeline.doctor.gpus import build, devices, driver, forward_and_backward, has_kernels

TORCH_2_11 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.mark.parametrize(
    ("capability", "kernels", "fits"),
    [
        ((9, 0), TORCH_2_11, True),
        ((8, 9), TORCH_2_11, True),  # a machine code of the same major version and a smaller minor one
        ((7, 0), TORCH_2_11, False),  # V100
        ((6, 1), TORCH_2_11, False),
        ((10, 3), TORCH_2_11, True),
        ((11, 0), TORCH_2_11, False),
        ((12, 0), ["sm_80", "sm_90"], False),  # an RTX 50 with an older build
        ((12, 0), ["sm_80", "sm_90", "compute_90"], True),  # PTX is compiled for it
        ((8, 0), ["compute_90"], False),
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a"], False),
        ((9, 0), ["gfx90a"], True),  # not understood: nothing is claimed
        ((9, 0), [], True),
    ],
)
def test_which_kernels_run_on_which_gpu(capability: tuple[int, int], kernels: list[str], fits: bool) -> None:
    assert has_kernels(capability, kernels) == fits


def made_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, says: str, code: int = 0) -> None:
    file = folder / "bin" / "nvidia-smi"
    file.parent.mkdir()
    file.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\nexit {code}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{file.parent}:/usr/bin:/bin")


def test_a_gpu_that_torch_cannot_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("this is of a machine without a GPU")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    made_nvidia_smi(tmp_path, monkeypatch, "0, NVIDIA T4, 470.57.02, 15360, 12\n1, NVIDIA T4, 470.57.02, 15360, 0")
    found = driver(subject_in(tmp_path))
    assert found.state == "ok"
    assert "470.57.02; GPU 0: NVIDIA T4, 12 of 15360 MiB used" in found.found
    found = build(subject_in(tmp_path))
    assert found.state == "failed"
    assert "2 × NVIDIA T4" in found.found
    assert ("needs driver" if torch.version.cuda else "install torch for CUDA") in found.hint
    assert build(subject_in(tmp_path, devices="cpu")).state == "warning"  # nobody wants it


def test_a_driver_that_fails_and_one_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Failed to initialize NVML: Driver/library version mismatch"
    made_nvidia_smi(tmp_path, monkeypatch, said, code=18)
    found = driver(subject_in(tmp_path))
    assert found.state == "failed"
    assert said in found.found
    (tmp_path / "b").mkdir()
    made_nvidia_smi(tmp_path / "b", monkeypatch, "No devices were found")
    assert driver(subject_in(tmp_path)).state == "warning"


def test_no_driver_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert driver(subject_in(tmp_path)).state == "ok"


def test_the_cpu_in_single_precision_is_like_itself_in_double(tmp_path: Path) -> None:
    found = forward_and_backward(subject_in(tmp_path))
    assert found.state == "ok", found
    assert 0 < found.figures["forward"] < 1e-5
    assert 0 < found.figures["backward"] < 1e-4


def test_devices(tmp_path: Path) -> None:
    assert devices(subject_in(tmp_path)).figures["devices"][0] == "cpu"
    assert devices(subject_in(tmp_path, devices="cpu")).figures["devices"] == ["cpu"]
