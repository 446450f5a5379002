"""Damaged weights and states of interrupted trainings: refused or dropped, or read as they were written."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from momkd_bags import SMALL
from safetensors.torch import save
from trial import Trial
from wsipipe.models.backbones.weights import digest_of_weights
from wsipipe.models.mil.momkd import MoMKD
from wsipipe.models.mil.momkd_checkpoint import read_momkd_checkpoint
from wsipipe.models.training.fit import FitSettings, new_optimiser
from wsipipe.models.training.resumed_fit import Parts, Plateau, keep_state, resume_from

Survives = Callable[..., Trial]

STATE = {f"blocks.{number}.{part}": torch.randn(8, 8) for number in range(4) for part in ("weight", "bias")}


def saved(content: Any, **how: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **how)
    return stream.getvalue()


CHECKPOINT = {
    "state_dict": {f"module.{name}": value for name, value in STATE.items()},
    "args": argparse.Namespace(lr=np.float64(0.1), name="vit"),
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    "epoch": 7,
}
FILES: dict[str, Callable[[], bytes]] = {
    "plain.pt": lambda: saved(STATE),
    "checkpoint.pth": lambda: saved(CHECKPOINT),
    "legacy.pt": lambda: saved(CHECKPOINT, _use_new_zipfile_serialization=False),
    "a.safetensors": lambda: save(STATE),
}


@pytest.mark.parametrize("name", FILES)
def test_weights(survives: Survives, name: str) -> None:
    survives(digest_of_weights, FILES[name](), name)


def test_momkd_checkpoints(survives: Survives, shared: Path) -> None:
    [file] = (shared / "momkd_reference").glob("*.pt")
    survives(read_momkd_checkpoint, file.read_bytes(), "s_0_mkd_checkpoint.pt")


def test_states_of_interrupted_trainings(survives: Survives, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = MoMKD(SMALL)
    optimiser = new_optimiser(network, FitSettings())
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    parts: Parts = {"model": network, "optimiser": optimiser, "schedule": Plateau(optimiser, mode="max")}
    keep_state(tmp_path / "state.pt", {"best_epoch": 3}, parts)
    whole = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def read(path: Path) -> None:
        resume_from(path, parts, lambda content: content["best_epoch"])
        assert all(torch.equal(tensor, whole[name]) for name, tensor in network.state_dict().items())

    survives(read, (tmp_path / "state.pt").read_bytes(), "state.pt")
