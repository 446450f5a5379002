"""The class memory: how it starts, what moves it, and how its use is counted."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from momkd_bags import SMALL, TAUGHT, bag, genes, model_of, patient, seeded, slide, targets_of, together
from torch.nn import functional
from wsipipe.data.errors import CohortError
from wsipipe.models.mil import momkd
from wsipipe.models.mil.bag_tensors import BagBatch
from wsipipe.models.mil.memory import ClassMemory, cosine_kmeans, moved_centres, slot_usage
from wsipipe.models.mil.network import Targets


def test_scores_take_the_best_slot_of_each_class_whatever_its_length():
    memory = ClassMemory(2, 2, "fixed", 0.9)
    memory.slots = torch.tensor([[[0.0, 9.0], [-1.0, 0.0]], [[0.1, 0.0], [0.0, -4.0]]])
    assert memory.scores(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])).tolist() == pytest.approx(
        [1.0, -1.0, -0.2]
    )


@given(st.floats(-50, 50))
def test_tau_stays_within_its_bounds(log_tau: float):
    model = model_of()
    with torch.no_grad():
        model.log_tau.fill_(log_tau)
    assert float(model.tau.detach()) == pytest.approx(min(max(math.exp(log_tau), 0.01), 2.0), rel=1e-5)
    assert model(bag()).attention.isfinite().all()


# What moves the slots


@pytest.mark.parametrize("mode", ["momentum", "fixed"])
def test_slots_that_are_not_learned_get_no_gradient(mode: str):
    model = model_of(SMALL.model_copy(update={"memory": mode}))
    assert "memory.slots" not in dict(model.named_parameters())
    assert "memory.slots" in model.state_dict()
    before = model.memory.slots.clone()
    model.loss(model(bag()), targets_of(1, genes())).total.backward()
    torch.optim.AdamW(model.parameters(), lr=0.1).step()
    assert torch.equal(model.memory.slots, before)


@pytest.mark.parametrize("mode", ["gradient", "fixed"])
def test_only_momentum_follows(mode: str):
    model = model_of(SMALL.model_copy(update={"memory": mode}))
    before = model.memory.slots.detach().clone()
    model.update_memory(model(bag()), targets_of(1, genes()))
    assert torch.equal(model.memory.slots, before)


def test_momentum_follows_tiles_and_then_omics_by_hand():
    memory = ClassMemory(3, 2, "momentum", 0.9)
    start = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    memory.slots = torch.stack([start, start])
    memory.update(1, torch.tensor([[0.8, 0.6], [0.8, -0.6], [0.6, 0.8]]), torch.tensor([[0.28, 0.96]]))
    # Slot 0 gets the first two tiles (mean (0.8, 0)): it keeps its direction. Slot 1 gets the third tile, then u.
    tile = np.array([0.06, 0.9 + 0.08])
    tile /= np.linalg.norm(tile)
    omics = 0.9 * tile + 0.1 * np.array([0.28, 0.96])
    omics /= np.linalg.norm(omics)
    torch.testing.assert_close(memory.slots[1], torch.tensor([[1.0, 0.0], omics.tolist(), [-1.0, 0.0]]))
    assert torch.equal(memory.slots[0], start)


MOMENTUM = SMALL.model_copy(update={"memory": "momentum", "memory_momentum": 0.5})


def test_momentum_without_rna_follows_the_tiles():
    model = model_of(MOMENTUM)
    before = model.memory.slots.clone()
    model.update_memory(model(bag()), targets_of(0))
    moved = model.memory.slots
    assert torch.equal(moved[1], before[1])
    assert not torch.equal(moved[0], before[0])
    torch.testing.assert_close(moved.norm(dim=-1), torch.ones(2, 3))


def test_momentum_follows_each_class_tiles_and_the_omics_of_its_own_measured_bags():
    model = model_of(MOMENTUM).train()
    bags, targets = together(TAUGHT)
    output = model(bags)
    model.update_memory(output, targets)
    assert model.training
    moved = model.memory.slots.clone()

    # By hand, bag for bag: the omics vectors are those without dropout.
    fresh = model_of(MOMENTUM)
    by_bag = bags.split(output.projected.detach())
    vectors = {
        i: fresh.eval().encode_omics(one.expression[None]).vector.detach()
        for i, one in enumerate(TAUGHT)
        if one.expression is not None
    }
    assert vectors.keys() == {3, 4}
    fresh.memory.update(0, torch.cat([by_bag[i] for i in (0, 2, 4)]), vectors[4])
    fresh.memory.update(1, torch.cat([by_bag[i] for i in (1, 3, 5)]), vectors[3])
    torch.testing.assert_close(moved, fresh.memory.slots)

    # Other RNA of the negative patient moves the negative slots elsewhere, and the positive ones not at all.
    other = model_of(MOMENTUM).train()
    assert targets.expression is not None
    other.update_memory(output, replace(targets, expression=torch.stack([targets.expression[0], genes(99)])))
    assert not torch.equal(other.memory.slots[0], moved[0])
    assert torch.equal(other.memory.slots[1], moved[1])


# How their use is counted


@pytest.mark.parametrize("mode", ["gradient", "momentum", "fixed"])
def test_an_epoch_counts_how_its_tiles_share_the_slots(mode: str):
    model = model_of(SMALL.model_copy(update={"memory": mode, "memory_momentum": 0.99}))
    with torch.no_grad():
        model.memory.slots[0], model.memory.slots[1] = torch.eye(6)[:3], -torch.eye(6)[:3]
    bags = BagBatch.of([slide(4, 0), slide(1, 1), slide(3, 2)])
    # The slot nearest to each tile: 0 0 1 0 (negative), 2 (positive), 1 1 1 (negative).
    slots = torch.cat([torch.eye(6)[[0, 0, 1, 0]], -torch.eye(6)[[2]], torch.eye(6)[[1, 1, 1]]])
    output = replace(model(bags), projected=slots)
    model.update_memory(output, Targets.of([patient(0), patient(1), patient(0)]))
    model.update_memory(output, Targets.of([patient(0), patient(1), patient(0)]))
    entropy = -(3 / 7 * math.log(3 / 7) + 4 / 7 * math.log(4 / 7))
    expected = {
        "tau": pytest.approx(0.2),
        "active_slots_negative": 2.0,
        "slot_entropy_negative": pytest.approx(entropy),
        "active_slots_positive": 1.0,
        "slot_entropy_positive": 0.0,
    }
    assert model.epoch_figures() == expected
    none = dict.fromkeys(expected, 0.0) | {"tau": pytest.approx(0.2)}
    assert model.epoch_figures() == none


def test_slot_shares_are_those_of_each_class_tiles():
    model = model_of().eval()
    ten = patient(1, *(slide(3 + i, i) for i in range(10)))
    patients = [*TAUGHT, ten, patient(0)]
    usage = model.slot_shares(patients)
    for label, name in enumerate(("negative", "positive")):
        counts = [0, 0, 0]
        for one in [b for p in patients if p.label == label for b in p.bags]:
            p = model(BagBatch.of([one])).projected
            for tile in p:
                counts[int((model.memory.directions()[label] @ tile).argmax())] += 1
        shares = [count / sum(counts) for count in counts]
        assert usage[name]["shares"] == pytest.approx(shares)
        assert usage[name]["active"] == sum(count > 0 for count in counts)
        assert usage[name]["entropy"] == pytest.approx(-sum(q * math.log(q) for q in shares if q))
    assert model.slot_shares([ten])["negative"] == {"active": 0, "entropy": 0.0, "shares": [0.0, 0.0, 0.0]}


def test_slot_usage():
    one = slot_usage(torch.tensor([0, 0, 3, 0]))
    assert (one.active, one.entropy) == (1, 0)
    all_of_them = slot_usage(torch.tensor([2, 2, 2, 2]))
    assert (all_of_them.active, all_of_them.entropy) == (4, pytest.approx(math.log(4)))
    none = slot_usage(torch.tensor([0, 0, 0, 0]))
    assert (none.active, none.entropy) == (0, 0)


# How they start


def test_kmeans_finds_planted_directions():
    planted = functional.normalize(torch.randn(8, 32, generator=seeded(3)), dim=-1)
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
    torch.testing.assert_close(moved[0], functional.normalize(points.sum(dim=0), dim=0))
    assert torch.equal(moved[1], points[2])


def test_a_centre_without_points_stays_where_all_points_are_represented():
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    centres = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert torch.equal(moved_centres(points, centres), centres)


def test_kmeans_is_decided_by_its_generator():
    points = torch.randn(500, 6, generator=seeded())
    assert torch.equal(cosine_kmeans(points, 7, seeded(1)), cosine_kmeans(points, 7, seeded(1)))
    assert not torch.equal(cosine_kmeans(points, 7, seeded(1)), cosine_kmeans(points, 7, seeded(2)))


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 10), st.integers(0, 3))
def test_kmeans_gives_k_distinct_unit_centres_however_few_points(copies: int, distinct: int, k: int, seed: int):
    points = functional.normalize(torch.randn(distinct, 16, generator=seeded(seed)), dim=-1)
    centres = cosine_kmeans(points.repeat(copies, 1), k, seeded(seed))
    assert centres.shape == (k, 16)
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(k))
    cosines = centres @ centres.T - 2 * torch.eye(k)
    assert cosines.max() < 1 - 1e-4
    if distinct <= k:  # every point has a centre of its own
        assert (points @ centres.T).amax(dim=1).min() > 1 - 1e-5


def test_the_memory_starts_from_the_tiles_of_its_class_with_dropout_off():
    model = model_of().train()
    # Three patients of each class; one of them has three slides.
    patients = [patient(y, slide(20, y)) for y in (0, 1, 0, 1, 1)] + [patient(0, slide(9, 7), slide(4, 8), slide(1, 9))]
    model.init_memory(patients, seeded(5))
    assert model.training
    slots = model.memory.slots.detach().clone()
    torch.testing.assert_close(slots.norm(dim=-1), torch.ones(2, 3))
    model.init_memory(patients, seeded(5))
    assert torch.equal(model.memory.slots, slots)

    model.eval()
    for label in (0, 1):
        bags = [b for p in patients if p.label == label for b in p.bags]
        own = torch.cat([model(BagBatch.of([b])).projected for b in bags]).detach()
        # Fixed point: each slot is the mean direction of the tiles nearest to it.
        nearest = (own @ slots[label].T).argmax(dim=1)
        for k in range(3):
            mean = functional.normalize(own[nearest == k].mean(dim=0), dim=0)
            assert float(mean @ slots[label][k]) > 0.999


def test_a_large_slide_does_not_drown_a_small_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(momkd, "KMEANS_TILES", 2)
    model = model_of(SMALL.model_copy(update={"slots": 2})).eval()
    large, small = slide(2000, 0), slide(3, 1)
    for seed in range(5):
        # Two slides share two tiles a class: one each, and each of the two becomes a slot.
        model.init_memory([patient(0, large, small), patient(1, small)], seeded(seed))
        slots = model.memory.slots.detach()[0]
        for one in (small, large):
            p = model(BagBatch.of([one])).projected.detach()
            assert ((slots @ p.T).amax(dim=1) > 1 - 1e-6).any()


def test_the_memory_cannot_start_from_one_class():
    model = model_of().train()
    with pytest.raises(CohortError, match="class 1"):
        model.init_memory([patient(0, slide()), patient(1)], seeded())
    assert model.training
