"""MoMKD against numbers computed with the authors' implementation, and the reader of their checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from wsipipe.data.errors import BundleError
from wsipipe.models.mil.bag_tensors import BagBatch, BagTensors, Patient
from wsipipe.models.mil.momkd import MoMKD
from wsipipe.models.mil.momkd_checkpoint import read_momkd_checkpoint
from wsipipe.models.mil.network import Losses, Targets

REFERENCE = Path(__file__).resolve().parents[3] / "../shared/data/momkd_reference"
TERMS = {
    "task": "task",
    "histology": "align_wsi",
    "omics": "align_rna",
    "reconstruction": "reconstruction",
    "memory": "memory",
    "total": "total",
}


class Reference:
    def __init__(self) -> None:
        if not REFERENCE.exists():
            pytest.skip("the reference numbers are not on this machine")
        self.checkpoint = REFERENCE / "checkpoint.pt"
        with np.load(REFERENCE / "expected.npz") as arrays:
            self.arrays = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        self.figures: dict[str, Any] = json.loads((REFERENCE / "expected.json").read_text())

    def model(self) -> MoMKD:
        """The authors' weights, with dropout off even in training mode."""
        config, state = read_momkd_checkpoint(self.checkpoint)
        config = config.model_copy(update={"histology_dropout": 0.0, "omics_dropout": 0.0, "head_dropout": 0.0})
        model = MoMKD(config)
        model.load_state_dict(state)
        return model

    def bags(self, copies: int = 1) -> BagBatch:
        return BagBatch.of([BagTensors("reference", self.arrays["features"], self.arrays["edge_index"])] * copies)

    def losses(self, model: MoMKD, label: int, copies: int) -> Losses:
        """Of a step that takes the bag once, or several times side by side."""
        patient = Patient("reference", label, [], self.arrays["rna"][0])
        return model.loss(model(self.bags(copies)), Targets.of([patient] * copies))


@pytest.fixture
def reference() -> Reference:
    return Reference()


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_the_checkpoint_tells_its_sizes(reference: Reference):
    config, _ = read_momkd_checkpoint(reference.checkpoint)
    assert reference.figures["dims"] == {
        "rna": config.n_genes,
        "features": config.in_features,
        "encoder": config.hidden,
        "rna_embedding": config.omics_embedding,
        "shared": config.shared,
        "slots_per_class": config.slots,
        "classifier_hidden": config.head_hidden,
    }
    assert config.omics_hidden == 512


def test_the_default_loss_weights_are_the_public_codes(reference: Reference):
    config, _ = read_momkd_checkpoint(reference.checkpoint)
    assert reference.figures["loss_weights"] == {
        "task": config.loss.task_weight,
        "memory": config.loss.memory_weight,
        "align_rna": config.loss.omics_weight,
        "align_wsi": config.loss.histology_weight,
        "reconstruction": config.loss.reconstruction_weight,
    }
    assert config.loss.margin == reference.figures["margin"]


@pytest.mark.parametrize("copies", [1, 3])
def test_forward(reference: Reference, copies: int):
    model = reference.model().eval()
    with torch.no_grad():
        output = model(reference.bags(copies))
        omics = model.encode_omics(reference.arrays["rna"].repeat(copies, 1))
    close(output.contextual, reference.arrays["contextual"].repeat(copies, 1))
    close(output.attention, reference.arrays["attention"].repeat(copies))
    close(output.logits, reference.arrays["logits"].repeat(copies, 1))
    close(omics.reconstruction, reference.arrays["rna_reconstruction"].repeat(copies, 1))


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("label", [0, 1])
def test_every_loss_term(reference: Reference, label: int, copies: int):
    expected = reference.figures["losses_by_label"][str(label)]
    found = reference.losses(reference.model().train(), label, copies).values()
    assert found == {term: pytest.approx(expected[name], rel=1e-5, abs=1e-5) for term, name in TERMS.items()}


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("label", [0, 1])
def test_every_gradient(reference: Reference, label: int, copies: int, tmp_path: Path):
    model = reference.model().train()
    reference.losses(model, label, copies).total.backward()
    # Their gradients carry their names; read as if they were a checkpoint, they carry ours.
    prefix = f"grad_y{label}/"
    theirs = {name.removeprefix(prefix): g for name, g in reference.arrays.items() if name.startswith(prefix)}
    torch.save(theirs, tmp_path / "gradients.pt")
    _, expected = read_momkd_checkpoint(tmp_path / "gradients.pt")
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert gradient is not None, name
        close(gradient, expected[name])


def altered(reference: Reference, path: Path, **change: torch.Tensor | None) -> Path:
    """A copy of the reference checkpoint with tensors replaced, added or (None) removed."""
    state = torch.load(reference.checkpoint, weights_only=True)
    state.update({name: tensor for name, tensor in change.items() if tensor is not None})
    torch.save({name: t for name, t in state.items() if change.get(name, t) is not None}, path)
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"wsi_encoder.gat1.lin_l.weight": None},
        {"wsi_encoder.ln2.bias": None},
        {"mem_neg._codebook.embed": None},
        {"attn_log_tau": None},
        {"wsi_encoder.extra.weight": torch.zeros(3)},
        {"attention.weight": torch.zeros(3)},
        {"mem_neg._codebook.embed": torch.zeros(1, 5, 8)},
        {"rna_projector.weight": torch.zeros(8)},
        {"wsi_encoder.gat1.att": torch.zeros(1, 4, 4)},
        {"wsi_patch_projector.bias": torch.full((8,), torch.nan)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_checkpoint_that_is_not_quite_one_is_refused(
    reference: Reference, tmp_path: Path, change: dict[str, torch.Tensor | None]
):
    with pytest.raises(BundleError) as refusal:
        read_momkd_checkpoint(altered(reference, tmp_path / "other.pt", **change))
    assert refusal.value.path == str(tmp_path / "other.pt")
    assert refusal.value.hint


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("harm"),))


def test_files_that_are_no_checkpoint_are_refused_and_nothing_in_them_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Harmful()}, "code.pt")
    torch.save([torch.zeros(3)], "list.pt")
    torch.save({"epoch": 3}, "numbers.pt")
    torch.save({}, "nothing.pt")
    Path("text.pt").write_text("not a checkpoint")
    Path("empty.pt").touch()
    Path("torn.pt").write_bytes(Path("list.pt").read_bytes()[:200])
    Path("folder.pt").mkdir()
    names = ["code", "list", "numbers", "nothing", "text", "empty", "torn", "folder", "absent"]
    for name in names:
        with pytest.raises(BundleError) as refusal:
            read_momkd_checkpoint(f"{name}.pt")
        assert refusal.value.path == f"{name}.pt"
    assert not Path("harm").exists()
