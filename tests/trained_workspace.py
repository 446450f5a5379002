"""A planted workspace in which a model is trained, and what its bundles are held against each other by."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from command import wsipipe
from planted_workspace import Planted, make_patients, plant

WITHOUT_RNA = 4
"""Patients without RNA in the workspace of :func:`trained_workspace`."""


@cache
def trained_workspace(place: Path) -> Planted:
    """A workspace in which MoMKD is trained: once for all tests of a session. Those that change anything copy it."""
    planted = plant(place / "trained", make_patients(without_rna=WITHOUT_RNA))
    assert wsipipe("train", "-c", planted.settings).exit_code == 0
    return planted


def bundle_facts(model: Path, fold: int = 0) -> dict[str, Any]:
    """What a fold's bundle says in JSON."""
    content: dict[str, Any] = json.loads((model / f"fold-{fold}/bundle.json").read_text())
    return content


def bundle_files(bundle: Path) -> dict[str, bytes]:
    """A bundle to the last byte."""
    return {path.name: path.read_bytes() for path in sorted(bundle.iterdir())}


def same_weights(one: Path, other: Path) -> bool:
    """Whether two bundles hold the same tensors."""
    return (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
