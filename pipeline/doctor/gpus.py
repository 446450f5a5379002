"""Checks of the GPUs: driver, build of PyTorch, kernels, memory, and a real forward and backward pass."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING, Final

from ...data.manifest import Json
from ..console import counted
from .checks import GPU
from .finding import Finding, Subject, failed, gigabytes, ok, warning

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_DRIVER_OF: Final = {11: 450, 12: 525, 13: 580}
"""The first driver for each major version of CUDA (CUDA's release notes, "minor version compatibility")."""
_SMI_SECONDS: Final = 30.0
_SEES: Final = "CUDA_VISIBLE_DEVICES"
_ROOM: Final = 4 * 2**30  # bytes: a large backbone in bfloat16, and a batch
_NETWORK_SEED: Final = 0
TOLERANCE: Final = 1e-3
"""Largest difference from the CPU, as a fraction of the largest value. Single precision gives about 1e-6."""
_LEAST_COSINE: Final = 0.99
_FIELDS: Final = ("index", "name", "driver_version", "memory.total", "memory.used")


def driver(subject: Subject) -> Finding:
    """NVIDIA's driver and the GPUs that it lists."""
    listed = _nvidia_smi("--query-gpu=" + ",".join(_FIELDS), "--format=csv,noheader,nounits")
    if isinstance(listed, Finding):
        return listed
    rows = [[cell.strip() for cell in line.split(",")] for line in listed.splitlines() if line.strip()]
    if not rows or any(len(row) < len(_FIELDS) for row in rows):
        return warning(f"nvidia-smi lists no GPU: {listed.strip() or 'nothing'}", "see `nvidia-smi`; use --device cpu")
    gpus = "; ".join(f"GPU {index}: {name}, {used} of {total} MiB used" for index, name, _, total, used in rows)
    hidden = os.environ.get(_SEES)
    seen = "" if hidden is None else f" ({_SEES}={hidden})"
    return ok(f"{rows[0][2]}; {gpus}{seen}", driver=rows[0][2], gpus=[row[1] for row in rows])


def _nvidia_smi(*arguments: str) -> str | Finding:
    """What nvidia-smi prints; a finding if it is not there or fails."""
    if shutil.which("nvidia-smi") is None:
        return ok("no NVIDIA driver here (nvidia-smi is not found)", driver=None, gpus=[])
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, errors="replace", timeout=_SMI_SECONDS
        )
    except subprocess.TimeoutExpired:
        return failed(f"nvidia-smi does not answer in {_SMI_SECONDS:g} s", GPU.hangs)
    except OSError as error:
        return failed(f"nvidia-smi cannot be run: {error}", "install the driver again")
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]
        hint = "the driver is not loaded, or was updated under a running system: restart the machine"
        return failed(f"nvidia-smi fails: {said[0]}", hint)
    return done.stdout


def build(subject: Subject) -> Finding:
    """Whether PyTorch can use the GPUs that the driver has."""
    import torch

    there = driver(subject)
    version, gpus = there.figures.get("driver"), there.figures.get("gpus") or []
    built = torch.version.cuda
    if built is None:
        if torch.version.hip is not None or torch.backends.mps.is_available() or not gpus:
            return ok(f"built for {'ROCm' if torch.version.hip else 'the CPU'}", cuda=None, devices=0)
        return _unused(
            subject,
            f"there is {_named(gpus)}, but this torch ({torch.__version__}) is built for the CPU alone",
            "install torch for CUDA: https://pytorch.org/get-started/locally",
        )
    if torch.cuda.is_available():
        number = torch.cuda.device_count()
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        figures = {"cuda": built, "cudnn": cudnn, "devices": number}
        return ok(f"{_named([torch.cuda.get_device_name(i) for i in range(number)])} (CUDA {built})", **figures)
    if not gpus:
        return ok(f"no GPU (built for CUDA {built})", cuda=built, devices=0)
    if os.environ.get(_SEES) in ("", "-1", "NoDevFiles"):
        return _unused(subject, f"{_SEES}={os.environ[_SEES]} hides {_named(gpus)}", f"unset {_SEES}")
    return _unused(subject, f"torch cannot use {_named(gpus)}: {_why_not()}", _driver_hint(built, str(version)))


def _unused(subject: Subject, found: str, hint: str) -> Finding:
    """A GPU that cannot be used: a warning where the user wants none."""
    wanted = subject.devices is None or "cpu" not in subject.devices
    return (failed if wanted else warning)(found, hint, devices=0)


def _why_not() -> str:
    """What PyTorch says when it is made to use CUDA."""
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return (str(error).splitlines() or [repr(error)])[0]
    return "it does not say why"


def _driver_hint(built: str, version: str) -> str:
    least = _DRIVER_OF.get(int(built.partition(".")[0]))
    number = int(version.partition(".")[0]) if version.partition(".")[0].isdecimal() else None
    if least is not None and number is not None and number < least:
        return f"CUDA {built} needs driver {least} or later, here is {version}: update it, or install an older torch"
    return "restart the machine, or in Docker start the container again with its GPUs; compare `nvidia-smi`"


def _named(gpus: Sequence[str]) -> str:
    counts = {name: list(gpus).count(name) for name in gpus}
    return ", ".join(name if number == 1 else f"{number} × {name}" for name, number in counts.items())


def asked_for(subject: Subject) -> Finding:
    """Whether the devices that the settings name are there, and which one ``auto`` takes."""
    from ...models.backbones.devices import choose_devices

    # For a device that is not here this raises what the stages would: it says which, and the way out.
    found = {name: ", ".join(map(str, choose_devices(name))) for name in subject.configured}
    return ok("; ".join(name if name == which else f"{name}: {which}" for name, which in found.items()), **found)


def devices(subject: Subject) -> Finding:
    """The devices to check: those asked for, else the CPU and every GPU."""
    import torch

    from ...models.backbones.devices import choose_devices

    if subject.devices is not None:
        names = [str(device) for device in choose_devices(subject.devices)]
    else:
        gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        names = ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]
    return ok(", ".join(names), devices=list(dict.fromkeys(names)))


def kernels_and_memory(subject: Subject) -> Finding:
    """Whether this build of PyTorch has kernels for the GPU, and how much of its memory is free."""
    import torch

    device = torch.device(subject.device)
    if device.type != "cuda":
        instructions = f"{torch.backends.cpu.get_cpu_capability()}, " if device.type == "cpu" else ""
        return ok(f"{instructions}{counted(torch.get_num_threads(), 'threads')}, the machine's memory")
    major, minor = torch.cuda.get_device_capability(device)
    name, kernels = torch.cuda.get_device_name(device), torch.cuda.get_arch_list()
    figures: dict[str, Json] = {"gpu": name, "capability": f"{major}.{minor}", "kernels": kernels}
    if torch.version.cuda and not has_kernels((major, minor), kernels):
        return failed(
            f"{name} is of compute capability {major}.{minor}, and this torch has kernels for {', '.join(kernels)}",
            "install a torch that is built for this GPU: https://pytorch.org/get-started/previous-versions",
            **figures,
        )
    free, total = torch.cuda.mem_get_info(device)
    found = f"{name}, compute capability {major}.{minor}; {gigabytes(free)} of {gigabytes(total)} free"
    figures |= {"memory": total, "free": free}
    if free < min(_ROOM, total / 2):
        return warning(found, "other programs hold the rest: `nvidia-smi` shows which", **figures)
    return ok(found, **figures)


def has_kernels(capability: tuple[int, int], kernels: Sequence[str]) -> bool:
    """Whether a build runs on a GPU of this compute capability.

    Machine code (``sm_80``) runs on GPUs of the same major version and at least that minor one; ``sm_90a`` on exactly
    that one; PTX (``compute_80``) is compiled for any later one (CUDA Programming Guide, "binary" and "PTX
    compatibility"). A list with nothing that is understood proves nothing, and counts as fitting.
    """
    understood = [found for kernel in kernels if (found := re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", kernel))]
    if not understood:
        return True
    for kind, major, minor, family in (found.groups() for found in understood):
        code = (int(major), int(minor))
        if family == "a" and code != capability:
            continue
        if code <= capability and (code[0] == capability[0] or (kind == "compute" and not family)):
            return True
    return False


def forward_and_backward(subject: Subject) -> Finding:
    """A small network's outputs and gradients on the device, against those of the CPU in double precision."""
    import torch

    from ...models.backbones.devices import choose_device

    device = choose_device(subject.device)
    torch.manual_seed(_NETWORK_SEED)
    network = _network()
    pixels = torch.rand((4, 3, 32, 32))
    wanted = _outputs_and_gradients(network.double(), pixels.double())
    begin = time.monotonic()
    found = _outputs_and_gradients(network.float().to(device), pixels.to(device))
    seconds = time.monotonic() - begin
    forward = _difference(found[:1], wanted[:1])
    backward = _difference(found[1:], wanted[1:])
    cosine = _half_precision(network, pixels.to(device), wanted[0])
    figures: dict[str, Json] = {
        "forward": forward,
        "backward": backward,
        "cosine_bf16": cosine,
        "seconds": round(seconds, 3),
    }
    text = f"differ from the CPU's by {max(forward, backward):.0e} at most; bfloat16: cosine {cosine:.4f}"
    # Written so that NaN fails.
    if forward <= TOLERANCE and backward <= TOLERANCE and cosine >= _LEAST_COSINE:
        return ok(f"outputs and gradients {text}; {seconds:.2f} s", **figures)
    figures = {name: value if isfinite(value) else str(value) for name, value in figures.items()}
    return failed(
        f"wrong numbers: outputs and gradients {text}",
        "do not use this device: its memory, its driver or this build of torch is at fault",
        **figures,
    )


def _network() -> nn.Module:
    """What backbones and MIL networks consist of: convolution, norms, attention, linear layers."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 32, 8, stride=8),
        nn.GroupNorm(4, 32),
        nn.Flatten(2),
        nn.Linear(16, 32),
        nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, activation="gelu", batch_first=True),
        nn.LayerNorm(32),
        nn.Flatten(1),
        nn.Linear(32 * 32, 16),
    )


def _outputs_and_gradients(network: nn.Module, pixels: Tensor) -> list[Tensor]:
    network.zero_grad(set_to_none=True)
    outputs: Tensor = network(pixels)
    outputs.square().mean().backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return [tensor.detach().cpu().double() for tensor in (outputs, *gradients)]


def _difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Largest difference, as a fraction of the largest value of all tensors."""
    largest = max(tensor.abs().max().item() for tensor in wanted)
    differences = [(one - other).abs().max().item() for one, other in zip(found, wanted, strict=True)]
    return float("nan") if any(d != d for d in differences) else max(differences) / largest


def _half_precision(network: nn.Module, pixels: Tensor, wanted: Tensor) -> float:
    """Cosine between the outputs in bfloat16, as features are extracted on a GPU, and the CPU's."""
    import torch
    from torch.nn import functional

    network.eval()
    with torch.inference_mode(), torch.autocast(pixels.device.type, dtype=torch.bfloat16):
        outputs: torch.Tensor = network(pixels).float().cpu().double()
    return functional.cosine_similarity(outputs, wanted).min().item()
