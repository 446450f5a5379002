"""New slides for a model of slide vectors: tiled, extracted and encoded as they are predicted."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from command import told, wsipipe
from new_slides import WIDTH, Clinic
from safetensors.torch import save_file
from slide_encoder_files import feather
from trained_workspace import bundle_facts
from wsipipe.data.features.store import read_bag

VECTORS = "0.5mpp-224px/abmil-of-efficientnet-lite0"


def test_new_slides_are_encoded_with_the_models_own_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    clinic = Clinic(tmp_path)
    names = [f"T{n}" for n in range(8)]
    for name in names:
        clinic.slide(name)
    with Path("cohort.csv").open("w", newline="") as stream:
        rows = [(name, name, ("negative", "positive")[n % 2]) for n, name in enumerate(names)]
        csv.writer(stream).writerows([("slide_id", "patient_id", "er"), *rows])
    weights = feather(tmp_path / "feather.safetensors", WIDTH)
    told("tile", "slides")
    told("extract", "--device", "cpu")
    encoder = ["--encoder", "abmil", "--weights", weights, "--weights-backbone", "efficientnet-lite0"]
    told("encode", *encoder, "--device", "cpu")
    flags = ["--name", "er", "--label-column", "er", "--table", "cohort.csv", "--folds", 2, "--device", "cpu"]
    told("train", *flags, "--features", VECTORS, "--method", "linear", "--no-figures")
    model = Path("work/models/er")
    recipe = bundle_facts(model)["recipe"]
    assert recipe["encode"] == {"encoder": "abmil", "weights_backbone": "efficientnet-lite0"}

    new = Clinic(tmp_path / "new")
    new.folder.mkdir()
    new.slide("N1")
    refused = new.predict(new.folder / "slides", model=model)
    assert refused.exit_code == 2
    assert "abmil needs weights" in refused.output
    other = feather(tmp_path / "other.safetensors", WIDTH, seed=1)
    refused = new.predict(new.folder / "slides", "--encoder-weights", other, model=model)
    assert refused.exit_code == 1
    assert "the model reads vectors of abmil sha256:" in " ".join(refused.output.split())
    assert not (new.workspace / "tiles").exists()  # before slides are read
    done = new.predict(new.folder / "slides", "--encoder-weights", weights, model=model)
    assert done.exit_code == 0, done.output
    assert set(new.rows(name="er")) == {"N1"}
    store = new.workspace / "slide_features" / VECTORS / "N1.zarr"
    assert read_bag(store).facts.slide_encoder == recipe["slide_encoder"]
    assert "slide encoder" in new.page("er")

    edited = wsipipe("evaluate", "--model", model, "--table", "cohort.csv", "-w", new.workspace)
    assert edited.exit_code == 1  # none of its patients is there
    save_file({}, tmp_path / "empty.safetensors")
    refused = new.predict(new.folder / "slides", "--encoder-weights", tmp_path / "empty.safetensors", model=model)
    assert refused.exit_code == 1
