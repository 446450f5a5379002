"""The terms of MoMKD's loss against known answers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from momkd_bags import STEADY, bag, genes, model_of, seeded, targets_of
from torch.nn import functional
from wsipipe.models.mil.losses import LossSettings, alignment, orthogonality, slot_distance, soft_angle
from wsipipe.models.tasks.binary import BINARY


@pytest.mark.parametrize("label", [0, 1])
def test_a_target_of_nought_or_one_is_the_label_to_the_bit(label: int):
    config = LossSettings()
    C = functional.normalize(torch.randn(2, 4, 6, generator=seeded(1)), dim=-1)
    for seed in range(20):
        f = functional.normalize(torch.randn(1, 6, generator=seeded(seed)), dim=-1)
        logits = torch.randn(1, 2, generator=seeded(seed))
        angles = soft_angle(f, C, config.alignment_tau)
        delta = angles[label] - angles[1 - label]
        hard = functional.softplus(config.alignment_beta * (config.margin - delta))
        assert torch.equal(alignment(f, C, torch.tensor([float(label)]), config), hard)
        hard = functional.cross_entropy(logits, torch.tensor([label]))
        assert torch.equal(BINARY.loss(logits, torch.tensor([float(label)])), hard)

    model = model_of(STEADY)
    output = model(bag())
    hard_losses = model.loss(output, targets_of(label, genes()))
    soft_losses = model.loss(output, targets_of(label, genes(), target=float(label)))
    assert soft_losses.values() == hard_losses.values()


@given(st.floats(0.001, 0.999))
def test_a_target_is_reached_where_the_logits_give_its_probability(target: float):
    wanted = math.log(target) - math.log1p(-target)
    logits = torch.tensor([[0.5 - wanted / 2, 0.5 + wanted / 2]], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([target], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(BINARY.loss(logits, targets), logits)
    assert gradient.abs().max() < 1e-12
    (gradient,) = torch.autograd.grad(BINARY.loss(logits, (targets + 1) / 2), logits)
    assert float(gradient[0, 1]) == pytest.approx(target - (target + 1) / 2)


def test_soft_angle_lies_between_the_largest_cosine_and_ln_k_over_tau_above_it():
    C = functional.normalize(torch.randn(5, 8, generator=seeded()), dim=-1)
    angles = soft_angle(C[2:4], torch.stack([C, C]), 5.0)
    assert angles.shape == (2, 2)  # two sets of slots, two vectors
    assert angles.min() >= 1
    assert angles.max() <= 1 + math.log(5) / 5
    assert float(soft_angle(C[2:3], C[2:3], 5.0)) == pytest.approx(1)


def test_alignment_by_hand():
    C = torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]])
    f = torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.6, 0.8]])
    # Positive: Δ = 0.6 − 0.8, softplus(20 (0.3 + 0.2)) = ln(1 + e^10); negative: Δ = 0.2, ln(1 + e^2).
    positive, negative = math.log1p(math.exp(10)), math.log1p(math.exp(2))
    found = alignment(f, C, torch.tensor([1.0, 0.0, 0.25]), LossSettings())
    assert found.tolist() == pytest.approx([positive, negative, 0.25 * positive + 0.75 * negative], rel=1e-5)


def test_orthogonality_is_zero_at_right_angles_and_largest_for_one_direction():
    found = orthogonality(torch.stack([3 * torch.eye(4), torch.ones(4, 4)]))
    assert found.tolist() == pytest.approx([0, 3 / 4], abs=1e-6)


def test_slot_distance_takes_the_slots_of_its_class_as_stored():
    p = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    C = torch.tensor([[[3.0, 0.0], [0.0, 0.5]], [[1.0, 0.0], [-2.0, 0.0]]])
    # Negative: nearest to (1, 0) is (0, 0.5) with 1.25, to (0, 1) the same slot with 0.25. Positive: (1, 0) itself, and
    # 2 from (0, 1) to it. Averaged over S = 2.
    found = slot_distance(p, C, torch.tensor([0, 0, 1, 1]))
    assert found.tolist() == pytest.approx([0.625, 0.125, 0.0, 1.0])
