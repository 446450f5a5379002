"""`wsipipe import-checkpoint`: a file of the authors' code becomes a model that predicts what its network says."""

from __future__ import annotations

import csv
import json
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from command import wsipipe
from wsipipe.data.features.store import read_bag
from wsipipe.data.units import Mpp
from wsipipe.models.mil.bag_tensors import BagBatch, bag_tensors
from wsipipe.models.mil.momkd import MoMKD, MoMKDConfig
from wsipipe.models.mil.momkd_checkpoint import _NAMES
from wsipipe.pipeline.demo.slides import write_aperio

BIOMARKER = ("--name", "her2", "--label-column", "HER2", "--positive", "pos", "--negative", "neg")
FEATURES = ("--backbone", "efficientnet-lite0", "--mpp", "0.5", "--tile-px", "224")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def model_of(width: int, seed: int) -> MoMKD:
    torch.manual_seed(seed)
    config = MoMKDConfig(
        in_features=width,
        n_genes=6,
        hidden=8,
        shared=4,
        slots=3,
        omics_hidden=8,
        omics_embedding=8,
        head_hidden=8,
    )
    return MoMKD(config).eval()


def theirs(path: Path, model: MoMKD) -> Path:
    """The model in the authors' names."""
    back = {ours: their for their, ours in _NAMES.items()}
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        module = next((module for module in back if name.startswith(module + ".")), None)
        if module is not None:
            tensors[back[module] + name.removeprefix(module)] = tensor
    tensors["attn_log_tau"] = model.state_dict()["log_tau"]
    negative, positive = model.state_dict()["memory.slots"].split(1)
    tensors |= {"mem_neg._codebook.embed": negative, "mem_pos._codebook.embed": positive}
    torch.save(tensors, path)
    return path


def test_imported_folds_predict_what_their_networks_say(tmp_path: Path) -> None:
    models = [model_of(1280, seed) for seed in (0, 1)]
    files = [theirs(tmp_path / f"s_{fold}_mkd_checkpoint.pt", model) for fold, model in enumerate(models)]
    result = wsipipe("import-checkpoint", *files, *BIOMARKER, *FEATURES)
    assert result.exit_code == 0, result.output
    facts = json.loads(Path("work/models/her2/fold-1/bundle.json").read_text())
    assert (facts["folds"], facts["seen"], facts["threshold"]) == (2, [], 0.5)
    assert facts["question"] == {"name": "her2", "label_column": "HER2", "positive": ["pos"], "negative": ["neg"]}
    again = wsipipe("import-checkpoint", *files, *BIOMARKER, *FEATURES, "--json")
    assert json.loads(again.stdout)["stages"][0]["before"] == 2

    pixels = np.random.default_rng(0).normal((200, 110, 170), 30, size=(700, 900, 3)).clip(0, 255).astype(np.uint8)
    write_aperio(tmp_path / "new.svs", pixels, mpp=Mpp(0.5))
    result = wsipipe("predict", "new.svs", "--model", "work/models/her2", "--device", "cpu")
    assert result.exit_code == 1
    assert "training patients were positive" in " ".join(result.output.split())
    result = wsipipe("predict", "new.svs", "--model", "work/models/her2", "--device", "cpu", "--prevalence", "0.2")
    assert result.exit_code == 0, result.output
    bag = bag_tensors(read_bag(Path("work/features/0.5mpp-224px/efficientnet-lite0/new.zarr")), 8)
    with torch.inference_mode():
        logits = torch.cat([model(BagBatch.of([bag])).logits for model in models])
    expected = torch.sigmoid((logits[:, 1] - logits[:, 0]).mean() - log(4)).item()
    rows = list(csv.DictReader(Path("work/predictions/her2/predictions.csv").read_text().splitlines()))
    [row] = [row for row in rows if row["slide_id"]]
    assert float(row["probability"]) == pytest.approx(expected, abs=1e-4)
    assert (float(row["threshold"]), row["prevalence"]) == (pytest.approx(0.2), "0.2")
    status = wsipipe("status", "--json")
    assert {item["state"] for item in json.loads(status.stdout)["items"]} == {"done"}


def test_the_prevalence_that_checkpoints_do_not_say_can_be_given(tmp_path: Path) -> None:
    file = theirs(tmp_path / "s_0_mkd_checkpoint.pt", model_of(1280, 0))
    assert wsipipe("import-checkpoint", file, *BIOMARKER, *FEATURES, "--prevalence", "15").exit_code == 2
    assert wsipipe("import-checkpoint", file, *BIOMARKER, *FEATURES, "--prevalence", "0.15").exit_code == 0
    assert json.loads(Path("work/models/her2/fold-0/bundle.json").read_text())["prevalence"] == 0.15


def test_what_is_not_theirs_or_of_another_backbone_is_refused(tmp_path: Path) -> None:
    narrow = theirs(tmp_path / "narrow.pt", model_of(24, 0))
    other = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(3)}, other)
    for file, said in ((narrow, "features of 24 numbers, and efficientnet-lite0 gives 1280"), (other, "weight")):
        result = wsipipe("import-checkpoint", file, *BIOMARKER, *FEATURES)
        assert result.exit_code == 1
        assert said in result.stdout.replace("\n", " ")
    assert not Path("work/models/her2/fold-0").exists()
    assert wsipipe("import-checkpoint", narrow, *BIOMARKER).exit_code == 2  # it must be told what its features were


def test_the_reference_checkpoint_is_read(shared: Path) -> None:
    result = wsipipe("import-checkpoint", shared / "momkd_reference/checkpoint.pt", *BIOMARKER, *FEATURES)
    assert result.exit_code == 1
    assert "efficientnet-lite0 gives 1280" in result.stdout.replace("\n", " ")
