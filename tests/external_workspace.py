"""A model and another cohort's workspace, made by hand: untrained networks, and slides of noise."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from planted_workspace import FEATURES, TILES, WEIGHTS, WIDTH, Planted, write_slide
from wsipipe.data.features.store import read_bag
from wsipipe.data.manifest import Status
from wsipipe.models.bundle import BundleFacts, Question, read_bundle, write_bundle
from wsipipe.models.feature_recipe import FeatureRecipe
from wsipipe.models.mil.momkd import MoMKD, MoMKDConfig
from wsipipe.models.patient_hashes import hashes_of
from wsipipe.pipeline.console import Console
from wsipipe.pipeline.results import Summary
from wsipipe.pipeline.run.runner import Runner
from wsipipe.stages.evaluate.cohort import ExternalSettings, ExternalTask
from wsipipe.stages.evaluate.stage import ExternalEvaluateStage, ReadSlidesSettings, ReadSlidesStage
from wsipipe.stages.extract.settings import ExtractSettings
from wsipipe.stages.tile.settings import TileSettings
from wsipipe.stages.train.split import read_patients

THRESHOLDS = (0.45, 0.53, 0.5)
COHORT = {f"P{n}": [f"S{n}"] for n in range(12)} | {"P1": ["S1", "S1b"], "P2": ["S2", "S2b", "S2c"]}
"""Patient → slides. Every patient with an odd number is positive."""


def external_workspace(place: Path) -> Path:
    """A model in ``development``, and another cohort's features in ``work`` with its table beside it."""
    model_at(place / "development/models/her2")
    for slides in COHORT.values():
        for slide in slides:
            add_slide(place, slide)
    table_at(place / "external.csv")
    return place


def model_at(
    folder: Path,
    *,
    seen: Sequence[Sequence[str]] = (("T0",), ("T1",), ("T2",)),
    slides: Sequence[Sequence[str]] = ((), (), ()),
    seed: int = 0,
    prevalence: float | None = 0.5,
    **recipe: Any,
) -> Path:
    """Three folds of untrained networks, their training patients half positive.

    :param seen: what each was trained on: patients, and, where it has a colon, the digest of a slide.
    :param slides: ids of slides that each was trained on.
    """
    for fold, threshold in enumerate(THRESHOLDS):
        torch.manual_seed(10 * seed + fold)
        sizes = {"hidden": 8, "shared": 4, "slots": 2, "head_hidden": 8}
        network = MoMKD(MoMKDConfig.model_validate({"in_features": recipe.get("width", WIDTH), **sizes})).eval()
        with torch.no_grad():
            network.head[-1].weight *= 20  # else all patients are near 0.5
        facts = BundleFacts(
            question=Question(name="her2", label_column="HER2", positive=["positive"], negative=["negative"]),
            fold=fold,
            folds=3,
            splits_digest="sha256:s",
            recipe=recipe_of(**recipe),
            method="momkd",
            network=network.config.model_dump(mode="json"),
            threshold=threshold,
            prevalence=prevalence,
            seen=hashes_of(
                [name for name in seen[fold] if ":" not in name],
                [name for name in seen[fold] if ":" in name],
                slides[fold],
                "sha256:s",
            ),
            hashed_by="scrypt",
            patients={},
            genes=[],
            gene_panel={},
            training={"history": []},
            versions={"wsipipe": "0.1.0"},
        )
        write_bundle(folder / f"fold-{fold}", facts, network, {})
    return folder


def recipe_of(**changes: Any) -> FeatureRecipe:
    fields: dict[str, Any] = {
        "tile": TileSettings().result_settings(),
        "extract": ExtractSettings().result_settings(),
        "tile_px": 224,
        "backbone": "efficientnet-lite0",
        "pooling": "pooled",
        "weights_digest": WEIGHTS,
        "width": WIDTH,
        "neighbours": 8,
    }
    return FeatureRecipe(**fields | changes)


def add_slide(place: Path, slide: str, *, extracted: Status | None = "done", seed: int = 0) -> None:
    """A slide of the other cohort: tiles about a centre of its own."""
    draw = np.random.default_rng([seed, *slide.encode()])
    bag = draw.normal(draw.normal(size=WIDTH), 0.5, size=(12, WIDTH)).astype(np.float32)
    write_slide(Planted(place), slide, bag, extracted=extracted)


def table_at(path: Path, cohort: Mapping[str, Sequence[str]] = COHORT, **labels: str) -> Path:
    """The cohort's table; labels of patients that are given differ from what their number says."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["slide_id", "patient_id", "HER2"])
        for patient, slides in cohort.items():
            usual = "positive" if int(patient[1:]) % 2 else "negative"
            writer.writerows([[slide, patient, labels.get(patient, usual)] for slide in slides])
    return path


def evaluate(place: Path, *, replace: bool = False, **given: Any) -> tuple[Summary, Summary]:
    runner = Runner(place / "work", Console(json_only=True), replace=replace)
    model = place / "development/models/her2"
    task = ExternalTask(
        model=model,
        table=place / "external.csv",
        tiles=place / "work" / TILES,
        features=place / "work" / FEATURES,
        asked=ExternalSettings.of(model, bootstrap_rounds=50, **given),
    )
    folder = place / "work/evaluations/her2"
    read = runner.run(ReadSlidesStage(ReadSlidesSettings(device="cpu"), folder, place / "work", task))
    return read, runner.run(ExternalEvaluateStage(folder, place / "work", task))


def predictions(place: Path) -> dict[str, dict[str, str]]:
    with (place / "work/evaluations/her2/predictions.csv").open(newline="") as stream:
        return {row["patient_id"]: row for row in csv.DictReader(stream)}


def metrics(place: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((place / "work/evaluations/her2/metrics.json").read_text())
    return content


def dropped(place: Path) -> dict[str, str]:
    rows = read_patients(place / "work/evaluations/her2/patients.csv")
    return {row.patient_id: row.reason for row in rows if not row.used}


def by_hand(place: Path, slide: str, fold: int) -> float:
    store = place / "work" / FEATURES / f"{slide}.zarr"
    bundle = read_bundle(place / f"development/models/her2/fold-{fold}", torch.device("cpu"))
    return bundle.read(read_bag(store), store).logit
