"""A planted workspace in which a model is trained, and what its bundles are held against each other by."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from command import wsipipe
from filelock import FileLock
from planted_workspace import Planted, make_patients, plant

WITHOUT_RNA = 4
"""Patients without RNA in the workspace of :func:`trained_workspace`."""


@cache
def trained_workspace(place: Path) -> Planted:
    """A workspace in which MoMKD is trained: once for all tests of a session. Those that change anything copy it.

    :param place: the temporary folder of the process, which lies in that of the session.
    """
    shared = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place
    made = Planted(shared / "made", make_patients(without_rna=WITHOUT_RNA))
    with FileLock(shared / "made.lock"):
        if not made.model.exists():
            new = plant(shared / "new", made.patients)
            assert wsipipe("train", "-c", new.settings).exit_code == 0
            new.folder.rename(made.folder)
    return made.copied(place / "trained")  # tests train further models in it


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
