"""MoMKD: who may teach whom (proved on gradients), the memory, and the odd bags."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from wsipipe.data.errors import BundleError, CohortError, UsageError
from wsipipe.models.losses import LossSettings, alignment, orthogonality, slot_distance, soft_angle
from wsipipe.models.memory import ClassMemory, cosine_kmeans, moved_centres, slot_usage
from wsipipe.models.momkd import MoMKD, MoMKDConfig, load_histology, preset
from wsipipe.models.tile_graph import knn_edges

SMALL = MoMKDConfig(
    in_features=12, n_genes=10, hidden=8, shared=6, slots=3, omics_hidden=16, omics_embedding=7, head_hidden=5
)
OMICS = ("omics_encoder.", "omics_decoder.", "omics_projection.")
Bag = tuple[Tensor, Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model_of(config: MoMKDConfig = SMALL, seed: int = 0) -> MoMKD:
    torch.manual_seed(seed)
    return MoMKD(config)


def bag(tiles: int = 20, seed: int = 0, width: int = 12) -> Bag:
    side = math.ceil(math.sqrt(tiles))
    coords = np.array([(x, y) for y in range(side) for x in range(side)])[:tiles]
    return torch.randn(tiles, width, generator=seeded(seed)), knn_edges(coords)


def genes(seed: int = 1) -> Tensor:
    return torch.randn(10, generator=seeded(seed))


def reached(term: Tensor, model: MoMKD) -> set[str]:
    """Names of the parameters to which a gradient of ``term`` flows (a gradient of zeros counts as one that flows)."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}


def side(names: set[str], *prefixes: str) -> set[str]:
    return {name for name in names if name.startswith(prefixes)}


# Who teaches whom


@pytest.mark.parametrize("label", [0, 1])
def test_omics_and_histology_meet_only_in_the_memory(label: int):
    model = model_of().train()
    everything = {name for name, _ in model.named_parameters()}
    omics_side, memory = side(everything, *OMICS), {"memory.slots"}
    histology_side = everything - omics_side - memory
    losses = model.loss(model.read(*bag()), model.teach(genes()), label)

    assert reached(losses.omics, model) == side(everything, "omics_encoder.", "omics_projection.") | memory
    assert reached(losses.reconstruction, model) == side(everything, "omics_encoder.", "omics_decoder.")
    assert reached(losses.task, model) == histology_side - side(everything, "pool_projection.")
    assert reached(losses.histology, model) == (histology_side | memory) - side(everything, "head.")
    assert reached(losses.memory, model) == memory | side(everything, "histology_encoder.", "patch_projection.")
    assert reached(losses.total, model) == everything


def test_attention_does_not_move_the_memory_but_learns_its_temperature():
    model = model_of()
    reading = model.read(*bag())
    for seen in (reading.scores, reading.attention, reading.pooled, reading.slide_vector, reading.logits):
        assert "memory.slots" not in reached(seen.square().sum(), model)
    assert {"log_tau", "patch_projection.weight"} <= reached(reading.attention.square().sum(), model)


def test_distance_to_the_slots_moves_the_tiles_alone_and_orthogonality_the_slots_alone():
    model = model_of()
    reading = model.read(*bag())
    slots = model.memory.slots
    memory = model.loss(reading, None, 1).memory
    (found,) = torch.autograd.grad(memory, slots, retain_graph=True)
    (wanted,) = torch.autograd.grad(10 * orthogonality(slots[1]), slots)
    torch.testing.assert_close(found, wanted)
    assert found[0].abs().sum() == 0


def test_without_rna_the_omics_terms_are_zero_and_the_omics_side_stands_still():
    model = model_of()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = model.loss(model.read(*bag()), None, 1)
    assert losses.omics == losses.reconstruction == 0
    losses.total.backward()
    optimiser.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == before.keys() - side(set(before), *OMICS)


def test_a_model_without_genes_has_no_omics_side():
    model = model_of(SMALL.model_copy(update={"n_genes": 0}))
    assert not side(set(model.state_dict()), *OMICS)
    model.loss(model.read(*bag()), None, 0).total.backward()
    with pytest.raises(UsageError):
        model.teach(genes())


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_that_is_no_label_is_refused(label: int):
    model = model_of()
    reading = model.read(*bag())
    with pytest.raises(UsageError):
        model.loss(reading, None, label)
    with pytest.raises(UsageError):
        model.remember(reading, None, label)


# Terms with known answers


def test_soft_angle_lies_between_the_largest_cosine_and_ln_k_over_tau_above_it():
    C = torch.nn.functional.normalize(torch.randn(5, 8, generator=seeded()), dim=-1)
    f = C[2]
    assert 1 <= float(soft_angle(f, C, 5.0)) <= 1 + math.log(5) / 5
    assert float(soft_angle(f, C[2:3], 5.0)) == pytest.approx(1)


def test_alignment_by_hand():
    own, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    f = torch.tensor([0.6, 0.8])
    # Δ = 0.6 − 0.8, softplus(20 (0.3 + 0.2)) = ln(1 + e^10)
    assert float(alignment(f, own, other, LossSettings())) == pytest.approx(math.log1p(math.exp(10)), rel=1e-5)


def test_orthogonality_is_zero_at_right_angles_and_largest_for_one_direction():
    assert float(orthogonality(3 * torch.eye(4))) == pytest.approx(0, abs=1e-6)
    assert float(orthogonality(torch.ones(4, 4))) == pytest.approx(3 / 4)


def test_slot_distance_takes_slots_as_stored():
    p = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    C = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    # Nearest to (1, 0) is (0, 0.5) with 1.25, to (0, 1) the same slot with 0.25; averaged over 2 tiles and S = 2.
    assert float(slot_distance(p, C)) == pytest.approx((1.25 + 0.25) / 4)


def test_scores_take_the_best_slot_of_each_class_whatever_its_length():
    memory = ClassMemory(2, 2, "fixed", 0.9)
    memory.slots = torch.tensor([[[0.0, 9.0], [-1.0, 0.0]], [[0.1, 0.0], [0.0, -4.0]]])
    assert memory.scores(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])).tolist() == pytest.approx(
        [1.0, -1.0, -0.2]
    )


@settings(deadline=None)  # shared cores make single runs slow
@given(st.floats(-50, 50))
def test_tau_stays_within_its_bounds(log_tau: float):
    model = model_of()
    with torch.no_grad():
        model.log_tau.fill_(log_tau)
    assert float(model.tau.detach()) == pytest.approx(min(max(math.exp(log_tau), 0.01), 2.0), rel=1e-5)
    assert model.read(*bag()).attention.isfinite().all()


# The memory


@pytest.mark.parametrize("mode", ["momentum", "fixed"])
def test_slots_that_are_not_learned_get_no_gradient(mode: str):
    model = model_of(SMALL.model_copy(update={"memory": mode}))
    assert "memory.slots" not in dict(model.named_parameters())
    assert "memory.slots" in model.state_dict()
    before = model.memory.slots.clone()
    losses = model.loss(model.read(*bag()), model.teach(genes()), 1)
    losses.total.backward()
    torch.optim.AdamW(model.parameters(), lr=0.1).step()
    assert torch.equal(model.memory.slots, before)


@pytest.mark.parametrize("mode", ["gradient", "fixed"])
def test_only_momentum_remembers(mode: str):
    model = model_of(SMALL.model_copy(update={"memory": mode}))
    before = model.memory.slots.detach().clone()
    model.remember(model.read(*bag()), model.teach(genes()), 1)
    assert torch.equal(model.memory.slots, before)


def test_momentum_follows_tiles_and_then_omics_by_hand():
    memory = ClassMemory(3, 2, "momentum", 0.9)
    start = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    memory.slots = torch.stack([start, start])
    memory.follow(1, torch.tensor([[0.8, 0.6], [0.8, -0.6], [0.6, 0.8]]), torch.tensor([0.28, 0.96]))
    # Slot 0 gets the first two tiles (mean (0.8, 0)): it keeps its direction. Slot 1 gets the third tile, then u.
    tile = np.array([0.06, 0.9 + 0.08])
    tile /= np.linalg.norm(tile)
    omics = 0.9 * tile + 0.1 * np.array([0.28, 0.96])
    omics /= np.linalg.norm(omics)
    torch.testing.assert_close(memory.slots[1], torch.tensor([[1.0, 0.0], omics.tolist(), [-1.0, 0.0]]))
    assert torch.equal(memory.slots[0], start)


def test_momentum_without_rna_follows_the_tiles():
    model = model_of(SMALL.model_copy(update={"memory": "momentum", "memory_momentum": 0.5}))
    before = model.memory.slots.clone()
    reading = model.read(*bag())
    model.remember(reading, None, 0)
    moved = model.memory.slots
    assert torch.equal(moved[1], before[1])
    assert not torch.equal(moved[0], before[0])
    torch.testing.assert_close(moved.norm(dim=-1), torch.ones(2, 3))


def test_kmeans_finds_planted_directions():
    planted = torch.nn.functional.normalize(torch.randn(8, 32, generator=seeded(3)), dim=-1)
    points = planted.repeat_interleave(torch.tensor([100, 20, 30, 30, 60, 20, 50, 25]), dim=0)
    points = 4 * (points + 0.02 * torch.randn(points.shape, generator=seeded(4)))
    for seed in range(20):
        centres = cosine_kmeans(points, 8, seeded(seed))
        best, which = (centres @ planted.T).max(dim=1)
        assert sorted(which.tolist()) == list(range(8))
        assert best.min() > 0.98


def test_a_centre_without_points_takes_the_worst_represented_point():
    points = torch.tensor([[1.0, 0.0], [0.96, 0.28], [0.6, 0.8]])
    moved = moved_centres(points, torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    torch.testing.assert_close(moved[0], torch.nn.functional.normalize(points.sum(dim=0), dim=0))
    assert torch.equal(moved[1], points[2])


def test_a_centre_without_points_stays_where_all_points_are_represented():
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    centres = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert torch.equal(moved_centres(points, centres), centres)


def test_kmeans_is_decided_by_its_generator():
    points = torch.randn(500, 6, generator=seeded())
    assert torch.equal(cosine_kmeans(points, 7, seeded(1)), cosine_kmeans(points, 7, seeded(1)))
    assert not torch.equal(cosine_kmeans(points, 7, seeded(1)), cosine_kmeans(points, 7, seeded(2)))


@settings(deadline=None)  # shared cores make single runs slow
@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 10), st.integers(0, 3))
def test_kmeans_gives_k_distinct_unit_centres_however_few_points(copies: int, distinct: int, k: int, seed: int):
    points = torch.nn.functional.normalize(torch.randn(distinct, 16, generator=seeded(seed)), dim=-1)
    centres = cosine_kmeans(points.repeat(copies, 1), k, seeded(seed))
    assert centres.shape == (k, 16)
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(k))
    cosines = centres @ centres.T - 2 * torch.eye(k)
    assert cosines.max() < 1 - 1e-4
    if distinct <= k:  # every point has a centre of its own
        assert (points @ centres.T).amax(dim=1).min() > 1 - 1e-5


def test_the_memory_starts_from_the_tiles_of_its_class_with_dropout_off():
    model = model_of().train()
    bags, labels = [bag(20, seed) for seed in range(6)], [0, 1, 0, 1, 1, 0]
    model.start_memory(bags, labels, seeded(5))
    assert model.training
    slots = model.memory.slots.detach().clone()
    torch.testing.assert_close(slots.norm(dim=-1), torch.ones(2, 3))
    model.start_memory(iter(bags), labels, seeded(5))
    assert torch.equal(model.memory.slots, slots)

    model.eval()
    for label in (0, 1):
        own = torch.cat([model.read(*b).projected for b, y in zip(bags, labels, strict=True) if y == label]).detach()
        # Fixed point: each slot is the mean direction of the tiles nearest to it.
        nearest = (own @ slots[label].T).argmax(dim=1)
        for k in range(3):
            mean = torch.nn.functional.normalize(own[nearest == k].mean(dim=0), dim=0)
            assert float(mean @ slots[label][k]) > 0.999


def test_a_large_slide_does_not_drown_a_small_one():
    model = model_of(SMALL.model_copy(update={"slots": 2})).eval()
    large, small = bag(2000, 0), bag(3, 1)
    for seed in range(5):
        # Two slides share two tiles a class: one each, and each of the two becomes a slot.
        model.start_memory([large, small, small], [0, 0, 1], seeded(seed), tiles_per_class=2)
        slots = model.memory.slots.detach()[0]
        from_small = (slots @ model.read(*small).projected.detach().T).amax(dim=1) > 1 - 1e-6
        from_large = (slots @ model.read(*large).projected.detach().T).amax(dim=1) > 1 - 1e-6
        assert from_small.any()
        assert from_large.any()


def test_the_memory_cannot_start_from_one_class():
    with pytest.raises(CohortError, match="class 1"):
        model_of().start_memory([bag()], [0], seeded())


def test_slot_usage():
    one = slot_usage(torch.tensor([2, 2, 2]), 4)
    assert (one.active, one.entropy) == (1, 0)
    all_of_them = slot_usage(torch.tensor([0, 1, 2, 3, 3, 2, 1, 0]), 4)
    assert (all_of_them.active, all_of_them.entropy) == (4, pytest.approx(math.log(4)))
    assert slot_usage(torch.tensor([], dtype=torch.int64), 4).active == 0


# Bags and bundles


def test_one_tile_is_a_bag():
    model = model_of().eval()
    x, edges = torch.randn(1, 12), knn_edges(np.array([[0, 0]]))
    reading = model.read(x, edges)
    assert reading.attention.tolist() == [1.0]
    torch.testing.assert_close(reading.pooled, reading.contextual[0])
    model.loss(reading, None, 1).total.backward()


def test_shapes_and_units():
    with torch.no_grad():
        reading = model_of().eval().read(*bag(20))
    assert reading.contextual.shape == (20, 8)
    assert reading.projected.shape == (20, 6)
    assert reading.scores.shape == reading.attention.shape == (20,)
    assert reading.pooled.shape == (8,)
    assert reading.slide_vector.shape == (6,)
    assert reading.logits.shape == (2,)
    assert float(reading.attention.sum()) == pytest.approx(1)
    torch.testing.assert_close(reading.projected.norm(dim=1), torch.ones(20))


def test_messages_run_from_the_tile_to_its_neighbours():
    model = model_of().eval()
    x, _ = bag(3)
    edges = torch.tensor([[0], [1]])
    changed = x.clone()
    changed[0] += 1
    differs = (model.encode(x, edges) - model.encode(changed, edges)).abs().amax(dim=1) > 0
    assert differs.tolist() == [True, True, False]


def test_the_first_residual_is_the_tile_itself_where_widths_agree():
    model = model_of(SMALL.model_copy(update={"in_features": 8}))
    assert not [key for key in model.state_dict() if "residual1" in key]
    model.read(*bag(width=8))


def test_inference_needs_no_omics():
    trained = model_of()
    with torch.no_grad():
        trained.memory.slots.mul_(3)  # stored slots need not be unit vectors
    state = trained.histology_state()
    assert not side(set(state), *OMICS)
    loaded = load_histology(trained.config, state)
    assert not loaded.training
    assert loaded.config.n_genes == 0
    ours, theirs = loaded.read(*bag()), trained.eval().read(*bag())
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.attention, theirs.attention)


@pytest.mark.parametrize("mode", ["momentum", "fixed"])
def test_slots_of_every_mode_travel_with_the_histology(mode: str):
    trained = model_of(SMALL.model_copy(update={"memory": mode}))
    loaded = load_histology(trained.config, trained.histology_state())
    assert torch.equal(loaded.memory.slots, trained.memory.slots)


def test_weights_that_do_not_fit_are_refused_by_name():
    model = model_of()
    state = model.histology_state()
    lacking = {key: value for key, value in state.items() if key != "head.1.weight"}
    with pytest.raises(BundleError, match=r"lacks head\.1\.weight") as refusal:
        load_histology(SMALL, lacking, path="fold-0/model.safetensors")
    assert refusal.value.path == "fold-0/model.safetensors"
    with pytest.raises(BundleError, match=r"unknown omics_decoder\.0\.bias"):
        load_histology(SMALL, model.state_dict())
    with pytest.raises(BundleError, match=r"another shape of memory\.slots"):
        load_histology(SMALL, state | {"memory.slots": torch.zeros(2, 4, 6)})


# Settings and training


def test_presets():
    official = preset("official", in_features=1536, n_genes=768)
    assert (official.hidden, official.shared, official.slots, official.head_hidden) == (512, 64, 16, 128)
    assert (official.omics_hidden, official.omics_embedding, official.memory) == (512, 512, "gradient")
    assert official.loss == LossSettings()
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


def train(config: MoMKDConfig, bags: list[Bag], labels: list[int], epochs: int) -> tuple[MoMKD, list[float]]:
    model = model_of(config, seed=7).train()
    model.start_memory(bags, labels, seeded(1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    totals = []
    for _ in range(epochs):
        for i, (x, edges) in enumerate(bags):
            reading = model.read(x, edges)
            omics = model.teach(genes(i)) if i % 3 else None
            losses = model.loss(reading, omics, labels[i])
            optimiser.zero_grad()
            losses.total.backward()
            optimiser.step()
            model.remember(reading, omics, labels[i])
            totals.append(losses.values()["total"])
    return model, totals


def planted(count: int, seed: int) -> tuple[list[Bag], list[int]]:
    """Bags whose positives carry a direction of their own in a third of the tiles."""
    labels = [i % 2 for i in range(count)]
    bags = [bag(18, seed + i) for i in range(count)]
    for (x, _), label in zip(bags, labels, strict=True):
        x[:6, :3] += 3.0 * label
    return bags, labels


def test_training_is_decided_by_the_seed():
    bags, labels = planted(6, 0)
    (a, totals), (b, again) = train(SMALL, bags, labels, 2), train(SMALL, bags, labels, 2)
    assert totals == again
    assert all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


@pytest.mark.parametrize("mode", ["gradient", "momentum", "fixed"])
def test_a_planted_signal_is_learned_in_every_memory_mode(mode: str):
    model, _ = train(SMALL.model_copy(update={"memory": mode, "hidden": 16}), *planted(16, 0), epochs=12)
    model.eval()
    bags, labels = planted(20, 1000)
    with torch.no_grad():
        calls = [int(model.read(*b).logits.argmax()) for b in bags]
    assert sum(call == label for call, label in zip(calls, labels, strict=True)) >= 18


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_gpu_and_cpu_agree():
    model = model_of().eval()
    x, edges = bag()
    here = model.read(x, edges)
    expected = model.loss(here, model.teach(genes()), 1).values()
    model.cuda()
    there = model.read(x.cuda(), edges.cuda())
    torch.testing.assert_close(there.logits.cpu(), here.logits, atol=1e-4, rtol=1e-4)
    found = model.loss(there, model.teach(genes().cuda()), 1).values()
    assert found == {name: pytest.approx(value, abs=1e-3) for name, value in expected.items()}
    model.start_memory([(x.cuda(), edges.cuda())] * 2, [0, 1], seeded())
    assert model.memory.slots.device.type == "cuda"
