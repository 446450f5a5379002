"""MoMKD as a whole: its settings, what of it is kept, and that it learns."""

from __future__ import annotations

import pytest
import torch
from momkd_bags import OMICS, SMALL, bag, genes, model_of, patient, seeded, side, slide, together
from pydantic import ValidationError
from wsipipe.data.errors import BundleError, UsageError
from wsipipe.models.mil import momkd
from wsipipe.models.mil.bag_tensors import Patient
from wsipipe.models.mil.losses import LossSettings
from wsipipe.models.mil.momkd import MoMKD, MoMKDConfig, preset


def test_presets():
    official = preset("official", in_features=1536, n_genes=768)
    assert (official.hidden, official.shared, official.slots, official.head_hidden) == (512, 64, 16, 128)
    assert (official.omics_hidden, official.omics_embedding, official.memory) == (512, 512, "gradient")
    assert official.loss == LossSettings()
    assert preset("standard", in_features=1536, n_genes=768) == official  # they differ in when training stops
    assert momkd.PATIENCE == {"standard": 15, "official": 1, "paper": 15}
    paper = preset("paper", in_features=1280, n_genes=0)
    assert (paper.hidden, paper.shared, paper.slots, paper.loss.reconstruction_weight) == (256, 128, 16, 0.01)
    with pytest.raises(UsageError, match="offical"):
        preset("offical", in_features=1, n_genes=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"hidden": 7}, {"widht": 3}, {"tau_start": 3.0}, {"memory": "ema"}, {"slots": 0}])
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, object]):
    with pytest.raises(ValidationError):
        MoMKDConfig.model_validate(SMALL.model_dump() | wrong)


def test_settings_survive_json():
    config = preset("paper", in_features=1280, n_genes=30)
    assert MoMKDConfig.model_validate_json(config.model_dump_json()) == config


def test_inference_needs_no_omics():
    trained = model_of()
    with torch.no_grad():
        trained.memory.slots.mul_(3)  # stored slots need not be unit vectors
    state = trained.inference_state()
    assert not side(set(state), *OMICS)
    loaded = MoMKD.for_inference(trained.config, state)
    assert not loaded.training
    assert loaded.config.n_genes == 0
    ours, theirs = loaded(bag()), trained.eval()(bag())
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.attention, theirs.attention)


@pytest.mark.parametrize("mode", ["momentum", "fixed"])
def test_slots_of_every_mode_travel_with_the_histology(mode: str):
    trained = model_of(SMALL.model_copy(update={"memory": mode}))
    loaded = MoMKD.for_inference(trained.config, trained.inference_state())
    assert torch.equal(loaded.state_dict()["memory.slots"], trained.memory.slots)


def test_weights_that_do_not_fit_are_refused_by_name():
    model = model_of()
    state = model.inference_state()
    lacking = {key: value for key, value in state.items() if key != "head.1.weight"}
    with pytest.raises(BundleError, match=r"missing: head\.1\.weight") as refusal:
        MoMKD.for_inference(SMALL, lacking, path="fold-0/model.safetensors")
    assert refusal.value.path == "fold-0/model.safetensors"
    with pytest.raises(BundleError, match=r"not expected: omics_encoder\.0\.weight"):
        MoMKD.for_inference(SMALL, model.state_dict())
    with pytest.raises(BundleError, match=r"of another shape: memory\.slots"):
        MoMKD.for_inference(SMALL, state | {"memory.slots": torch.zeros(2, 4, 6)})


def train(
    config: MoMKDConfig, patients: list[Patient], epochs: int, bags_per_step: int, seed: int = 7
) -> tuple[MoMKD, list[float]]:
    model = model_of(config, seed).train()
    model.init_memory(patients, seeded(1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    totals = []
    for _ in range(epochs):
        for begin in range(0, len(patients), bags_per_step):
            bags, targets = together(patients[begin : begin + bags_per_step])
            output = model(bags)
            losses = model.loss(output, targets)
            optimiser.zero_grad()
            losses.total.backward()
            optimiser.step()
            model.update_memory(output, targets)
            totals.append(losses.values()["total"])
    return model, totals


def planted(count: int, seed: int) -> list[Patient]:
    """Patients whose positives carry a direction of their own in a third of the tiles; two thirds are measured."""
    patients = []
    for i in range(count):
        one = slide(18, seed + i)
        one.features[:6, :3] += 3.0 * (i % 2)
        patients.append(patient(i % 2, one, expression=genes(i) if i % 3 else None))
    return patients


@pytest.mark.parametrize("mode", ["gradient", "momentum"])
@pytest.mark.parametrize("bags_per_step", [1, 4])
def test_training_is_decided_by_the_seed(bags_per_step: int, mode: str):
    config, patients = SMALL.model_copy(update={"memory": mode}), planted(6, 0)
    (a, totals), (b, again) = train(config, patients, 2, bags_per_step), train(config, patients, 2, bags_per_step)
    assert totals == again
    assert all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())
    assert a.epoch_figures() == b.epoch_figures()
    assert train(config, patients, 1, bags_per_step, seed=8)[1][0] != totals[0]


@pytest.mark.parametrize("bags_per_step", [1, 4])
@pytest.mark.parametrize("mode", ["gradient", "momentum", "fixed"])
def test_a_planted_signal_is_learned_in_every_memory_mode(mode: str, bags_per_step: int):
    config = SMALL.model_copy(update={"memory": mode, "hidden": 16})
    model, _ = train(config, planted(16, 0), 12 if bags_per_step == 1 else 24, bags_per_step)
    bags, targets = together(planted(20, 1000))
    with torch.no_grad():
        calls = model.eval()(bags).logits.argmax(dim=1)
    assert (calls == targets.labels).sum() >= 18
