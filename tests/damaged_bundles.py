"""Bundles of a small network, and ways in which one is damaged."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from momkd_bags import SMALL
from safetensors.torch import load_file, save_file
from torch import Tensor
from wsipipe.data.features.store import Bag, FeatureFacts
from wsipipe.models.bundle import (
    BundleFacts,
    Question,
)
from wsipipe.models.feature_recipe import FeatureRecipe
from wsipipe.models.mil.momkd import MoMKD
from wsipipe.models.patient_hashes import hashes_of

WIDTH = SMALL.in_features


def recipe(**changes: Any) -> FeatureRecipe:
    fields: dict[str, Any] = {
        "tile": {"mpp": 0.5},
        "extract": {"backbone": "b"},
        "tile_px": 224,
        "backbone": "b",
        "pooling": "cls",
        "weights_digest": "sha256:w",
        "width": WIDTH,
        "neighbours": 8,
    }
    return FeatureRecipe(**fields | changes)


def facts(model: MoMKD, **changes: Any) -> BundleFacts:
    fields: dict[str, Any] = {
        "question": Question(name="her2", label_column="HER2", positive=["1"], negative=["0"]),
        "fold": 0,
        "folds": 2,
        "splits_digest": "sha256:s",
        "recipe": recipe(),
        "method": "momkd",
        "network": model.config.model_dump(mode="json"),
        "threshold": 0.37,
        "seen": hashes_of(["P1", "P2"], ["sha256:slide"], ["S1"], "sha256:s"),
        "hashed_by": "scrypt",
        "patients": {"train": 1, "validation": 1, "test": 1},
        "genes": ["ERBB2"],
        "gene_panel": {"selection": "anova"},
        "training": {"auc": None, "history": [{"epoch": 0, "validation_auc": 0.5}]},
        "versions": {"wsipipe": "0.1.0"},
    }
    return BundleFacts(**fields | changes)


def slide(tiles: int = 30, **changes: Any) -> Bag:
    fields: dict[str, Any] = {
        "slide_id": "new",
        "slide_digest": "sha256:new",
        "tiles_digest": "sha256:t",
        "mpp": 0.5,
        "tile_px": 224,
        "tile_size_level0": 224.0,
        "backbone": "b",
        "architecture": "a",
        "pooling": "cls",
        "width": WIDTH,
        "weights_digest": "sha256:w",
        "precision": "fp32",
        "transform": {},
    }
    features = np.random.default_rng(5).normal(size=(tiles, WIDTH)).astype(np.float16)
    coords = np.stack([np.arange(tiles) % 6, np.arange(tiles) // 6], axis=1) * 224
    return Bag("new", features, coords, FeatureFacts(**fields | changes))


def change_json(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a bundle as earlier versions wrote it, without digests."""
    content = json.loads((bundle / "bundle.json").read_text())
    content["encoding-version"] = "1"
    content.pop("digests", None)
    change(content)
    (bundle / "bundle.json").write_text(json.dumps(content))


def change_tensors(bundle: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    change_json(bundle, lambda _: None)
    state = load_file(bundle / "model.safetensors")
    change(state)
    save_file(state, bundle / "model.safetensors")


def change_text(bundle: Path, old: str, new: str) -> None:
    text = (bundle / "bundle.json").read_text()
    assert text.count(old) == 1
    (bundle / "bundle.json").write_text(text.replace(old, new))


Damage = Callable[[Path], object]


DAMAGE: dict[str, tuple[Damage, str]] = {
    "missing": (shutil.rmtree, "there is no bundle here"),
    "a file": (lambda b: (shutil.rmtree(b), b.write_text("{}")), "there is no bundle here"),
    "no JSON": (lambda b: (b / "bundle.json").unlink(), "there is no bundle here"),
    "torn JSON": (lambda b: (b / "bundle.json").write_text('{"fold": '), "is damaged or not a bundle"),
    "a list": (lambda b: (b / "bundle.json").write_text("[]"), "is damaged or not a bundle"),
    "a number": (lambda b: (b / "bundle.json").write_text("3"), "is damaged or not a bundle"),
    "bytes": (lambda b: (b / "bundle.json").write_bytes(b"\xff\x00"), "is damaged or not a bundle"),
    "no facts": (lambda b: change_json(b, lambda c: c.pop("recipe")), "is damaged or not a bundle"),
    "a fact too many": (lambda b: change_json(b, lambda c: c.update(more=1)), "is damaged or not a bundle"),
    "newer": (lambda b: change_json(b, lambda c: c.update({"encoding-version": "3"})), "is wsipipe-bundle version 3"),
    "no prevalence": (lambda b: change_json(b, lambda c: c.update(prevalence=1.5)), "is damaged or not a bundle"),
    "something else": (lambda b: (b / "bundle.json").write_text("{}"), "is None version None"),
    "no tensors": (lambda b: (b / "model.safetensors").unlink(), "cannot be read"),
    "torn tensors": (lambda b: (b / "model.safetensors").write_bytes(b"torn"), "cannot be read"),
    "a tensor lost": (lambda b: change_tensors(b, lambda s: s.pop("memory.slots")), "missing: memory.slots"),
    "a tensor too many": (
        lambda b: change_tensors(b, lambda s: s.update(x=torch.ones(1))),
        "not expected: x",
    ),
    "a folder for JSON": (
        lambda b: ((b / "bundle.json").unlink(), (b / "bundle.json").mkdir()),
        "cannot be read: it is a folder",
    ),
    "a folder for tensors": (
        lambda b: ((b / "model.safetensors").unlink(), (b / "model.safetensors").mkdir()),
        "cannot be read: it is a folder",
    ),
    "a pipe": (lambda b: ((b / "bundle.json").unlink(), os.mkfifo(b / "bundle.json")), "is a pipe, not a file"),
    "deep JSON": (lambda b: (b / "bundle.json").write_text('{"a":' * 100_000), "lists and objects in each other"),
    "infinity": (lambda b: change_text(b, "0.37", "Infinity"), "Infinity is not a number"),
    "a huge number": (lambda b: change_text(b, "0.37", "9" * 6000), "more than 300 digits"),
    "a threshold over 1": (
        lambda b: change_json(b, lambda c: c.update(threshold=1.5)),
        "threshold: Input should be less",
    ),
    "no folds": (lambda b: change_json(b, lambda c: c.update(folds=0)), "folds: Input should be greater than or equal"),
    "a billion folds": (lambda b: change_json(b, lambda c: c.update(folds=10**9)), "equal to 1000"),
    "a fold beyond": (lambda b: change_json(b, lambda c: c.update(fold=2)), "fold 2 is none of 2"),
    "no neighbours": (
        lambda b: change_json(b, lambda c: c["recipe"].update(neighbours=-1)),
        "recipe.neighbours: Input should be greater than or equal to 1",
    ),
    "a wide layer": (
        lambda b: change_json(b, lambda c: c["network"].update(hidden=10**9)),
        "hidden: Input should be less than or equal to 65536",
    ),
    "many slots": (
        lambda b: change_json(b, lambda c: c["network"].update(slots=10**6)),
        "slots: Input should be less than or equal to 65536",
    ),
    "many genes": (
        lambda b: change_json(b, lambda c: c["network"].update(n_genes=10**10)),
        "n_genes: Input should be less than or equal to 4000000",
    ),
    "the widest layers": (  # 80 GB of them, were they built
        lambda b: change_json(b, lambda c: c["network"].update(hidden=65_536, head_hidden=65_536, shared=65_536)),
        "another shape: ",
    ),
    "another type": (
        lambda b: change_tensors(b, lambda s: s.update(log_tau=s["log_tau"].double())),
        "log_tau is of float64, not of float32",
    ),
    "not finite": (
        lambda b: change_tensors(b, lambda s: s.update(log_tau=s["log_tau"] * torch.nan)),
        "log_tau holds values that are not finite",
    ),
    "another network": (
        lambda b: change_json(b, lambda c: c["network"].update(slots=5)),
        "another shape: memory.slots",
    ),
}
