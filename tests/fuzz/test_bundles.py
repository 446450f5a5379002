"""Damaged bundles, manifests and JSON of our own: refused with an error of ours, or read as they were written."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from momkd_bags import SMALL
from trial import Trial
from wsipipe.data.manifest import Manifest, OutputRecord, Record, line_of
from wsipipe.models.applicability import (
    Held,
    HeldOutSlide,
    applicability_of,
    read_applicability,
    write_applicability,
)
from wsipipe.models.bundle import Bundle, BundleFacts, Question, folds_of, read_bundle, write_bundle
from wsipipe.models.evaluation.metrics import binary_metrics
from wsipipe.models.feature_recipe import FeatureRecipe
from wsipipe.models.mil.momkd import MoMKD
from wsipipe.stages.evaluate.cohort import cross_validated_auc
from wsipipe.stages.lineage import digest_of_model
from wsipipe.stages.predict.reading import SlideOutput, read_outputs, write_output
from wsipipe.stages.train.cross_validate import read_metrics, write_metrics

Survives = Callable[..., Trial]
CPU = torch.device("cpu")


def facts(network: dict[str, Any]) -> BundleFacts:
    return BundleFacts(
        question=Question(name="her2", label_column="HER2", positive=["1"], negative=["0"]),
        fold=0,
        folds=1,
        splits_digest="sha256:s",
        recipe=FeatureRecipe(
            tile={"mpp": 0.5, "tile_px": 224},
            extract={"backbone": "b"},
            tile_px=224,
            backbone="b",
            pooling="cls",
            weights_digest="sha256:w",
            width=SMALL.in_features,
            neighbours=8,
        ),
        method="momkd",
        network=network,
        prevalence=0.15,
        threshold=0.37,
        seen=["a" * 24, "b" * 24],
        hashed_by="scrypt",
        patients={"train": 1, "validation": 1, "test": 1},
        genes=["ERBB2"],
        gene_panel={"selection": "anova"},
        training={"history": [{"epoch": 0, "validation_auc": 0.5}]},
        versions={"wsipipe": "0.1.0"},
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = MoMKD(SMALL)
    path = tmp_path / "her2" / "fold-0"
    write_bundle(path, facts(network.config.model_dump(mode="json")), network, {"mean": np.arange(3.0)})
    return path


def same(one: Bundle, other: Bundle) -> bool:
    states = one.network.state_dict(), other.network.state_dict()
    return one.facts == other.facts and all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("name", ["bundle.json", "model.safetensors", "genes.safetensors"])
def test_bundles(survives: Survives, bundle: Path, name: str) -> None:
    whole = read_bundle(bundle, CPU)

    def read(_: Path) -> None:
        assert same(read_bundle(bundle, CPU), whole)

    survives(read, (bundle / name).read_bytes(), bundle / name)


@pytest.mark.filterwarnings("ignore:.*an earlier version wrote this model")
@pytest.mark.parametrize("name", ["bundle.json", "model.safetensors"])
def test_bundles_of_earlier_versions(survives: Survives, bundle: Path, name: str) -> None:
    content = json.loads((bundle / "bundle.json").read_text())
    del content["digests"]
    (bundle / "bundle.json").write_text(json.dumps({**content, "encoding-version": "1"}, indent=1))

    def read(_: Path) -> None:
        digest_of_model(bundle.parent)
        assert len(folds_of(bundle.parent)) == 1
        read_bundle(bundle, CPU)

    survives(read, (bundle / name).read_bytes(), bundle / name)


def test_what_a_model_knows_of_its_training_slides(survives: Survives, bundle: Path) -> None:
    draw = np.random.default_rng(0)
    slides = [HeldOutSlide.of(number % 2, draw.normal(size=(9, 6)), bad_tiles=0, sharpness=2.5) for number in range(12)]
    held = {"": Held(classes=["0", "1"], strangeness=[{0: [0.25, 0.5]}, {0: [0.125], 1: [0.5]}])}
    file = bundle.parent / "applicability.json"
    write_applicability(file, applicability_of(slides, held, [bundle]))
    whole = read_applicability(bundle.parent, [bundle])
    assert whole is not None

    def read(_: Path) -> None:
        again = read_applicability(bundle.parent, [bundle])
        assert again is not None
        assert again.digest == whole.digest
        again.measured(np.ones((3, 6)), sharpness=1.0, bad_tiles=1)

    survives(read, file.read_bytes(), file)


def test_manifests(survives: Survives) -> None:
    records = [
        Record(
            stage="tile",
            stage_version=1,
            item=f"slide-{number}",
            status="done",
            fingerprint="sha256:" + "0" * 64,
            settings={"mpp": 0.5, "tile_px": 224, "names": ["a", "b"]},
            inputs={},
            outputs={"tiles": OutputRecord(path=f"tiles/{number}.h5", bytes=100, digest="sha256:" + "1" * 64)},
            stats={"tiles": 3, "share": 0.25},
            start=datetime(2026, 1, 1, tzinfo=UTC),
            seconds=1.5,
            host="a",
            wsipipe="0.1.0",
        )
        for number in range(5)
    ]
    lines = b"".join(line_of(record) for record in records)
    survives(lambda path: Manifest(path).latest(), lines, "manifest.jsonl")


def test_metrics(survives: Survives, tmp_path: Path) -> None:
    figures = binary_metrics([True, False] * 20, [number / 40 for number in range(40)], [1, 0] * 20, rounds=50)
    file = tmp_path / "metrics.json"
    write_metrics(file, figures, {0: figures, 1: figures}, 0.15)

    def read(path: Path) -> None:
        read_metrics(path)
        cross_validated_auc(path.parent)

    survives(read, file.read_bytes(), file)


def test_outputs_of_slides(survives: Survives, tmp_path: Path) -> None:
    output = SlideOutput(
        slide_id="s", patient_id="p", logits={0: 0.5, 1: -0.5}, thresholds={0: 0.5, 1: 0.4}, why="new", tiles=7
    )
    whole = write_output(tmp_path / "s.json", output).read_bytes()
    survives(lambda path: read_outputs({"s": path}), whole, "s.json")
