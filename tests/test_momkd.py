"""MoMKD: who may teach whom (proved on gradients), several bags a step, the memory, and the odd bags."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional
from wsipipe.data.errors import BundleError, CohortError, UsageError
from wsipipe.models import momkd
from wsipipe.models.bag_tensors import BagBatch, BagTensors, PatientBags
from wsipipe.models.losses import LossSettings, alignment, orthogonality, slot_distance, soft_angle
from wsipipe.models.memory import ClassMemory, cosine_kmeans, moved_centres, slot_usage
from wsipipe.models.momkd import MoMKD, MoMKDConfig, preset
from wsipipe.models.network import Lesson, Losses, task_loss
from wsipipe.models.tile_graph import knn_edges

SMALL = MoMKDConfig(
    in_features=12, n_genes=10, hidden=8, shared=6, slots=3, omics_hidden=16, omics_embedding=7, head_hidden=5
)
STEADY = SMALL.model_copy(update={"histology_dropout": 0.0, "omics_dropout": 0.0, "head_dropout": 0.0})
OMICS = ("omics_encoder.", "omics_decoder.", "omics_projection.")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model_of(config: MoMKDConfig = SMALL, seed: int = 0) -> MoMKD:
    torch.manual_seed(seed)
    return MoMKD(config)


def slide(tiles: int = 20, seed: int = 0, width: int = 12) -> BagTensors:
    side = math.ceil(math.sqrt(tiles))
    coords = np.array([(x, y) for y in range(side) for x in range(side)])[:tiles]
    return BagTensors(f"S{seed}", torch.randn(tiles, width, generator=seeded(seed)), knn_edges(coords).int())


def bag(tiles: int = 20, seed: int = 0, width: int = 12) -> BagBatch:
    return BagBatch.of([slide(tiles, seed, width)])


def genes(seed: int = 1) -> Tensor:
    return torch.randn(10, generator=seeded(seed))


def patient(
    label: int, *bags: BagTensors, expression: Tensor | None = None, target: float | None = None
) -> PatientBags:
    return PatientBags(f"P-{label}", label, bags, expression, target)


def lesson(label: int, expression: Tensor | None = None, target: float | None = None) -> Lesson:
    return Lesson.of([patient(label, expression=expression, target=target)])


# A slide of one tile, a small one and a larger one of each class; two measured patients, a positive and a negative one.
SIZES = (1, 5, 60, 60, 1, 5)
TAUGHT = [
    patient(i % 2, slide(tiles, i), expression=genes(i) if i in (3, 4) else None) for i, tiles in enumerate(SIZES)
]


def together(patients: list[PatientBags]) -> tuple[BagBatch, Lesson]:
    """The patients' slides as one step."""
    return BagBatch.of([b for p in patients for b in p.bags]), Lesson.of([p for p in patients for _ in p.bags])


def gradients(losses: Losses, model: MoMKD) -> dict[str, Tensor]:
    """Of the total; zeros where none flows."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(losses.total, parameters, allow_unused=True)
    return {
        name: torch.zeros_like(p) if gradient is None else gradient
        for name, p, gradient in zip(names, parameters, found, strict=True)
    }


def reached(term: Tensor, model: MoMKD) -> set[str]:
    """Names of the parameters to which a gradient of ``term`` flows (a gradient of zeros counts as one that flows)."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return {name for name, gradient in zip(names, found, strict=True) if gradient is not None}


def side(names: set[str], *prefixes: str) -> set[str]:
    return {name for name in names if name.startswith(prefixes)}


# Who teaches whom


@pytest.mark.parametrize("label", [0, 1])
def test_omics_and_histology_meet_only_in_the_memory(label: int):
    model = model_of().train()
    everything = {name for name, _ in model.named_parameters()}
    omics_side, memory = side(everything, *OMICS), {"memory.slots"}
    histology_side = everything - omics_side - memory
    losses = model.loss(model.read(bag()), lesson(label, genes()))
    terms = losses.terms

    assert reached(terms["omics"], model) == side(everything, "omics_encoder.", "omics_projection.") | memory
    assert reached(terms["reconstruction"], model) == side(everything, "omics_encoder.", "omics_decoder.")
    assert reached(terms["task"], model) == histology_side - side(everything, "pool_projection.")
    assert reached(terms["histology"], model) == (histology_side | memory) - side(everything, "head.")
    assert reached(terms["memory"], model) == memory | side(everything, "histology_encoder.", "patch_projection.")
    assert reached(losses.total, model) == everything


def test_a_soft_target_opens_no_other_way():
    model = model_of()
    readings = model.read(bag())
    hard = model.loss(readings, lesson(1, genes())).terms
    soft = model.loss(readings, lesson(1, genes(), target=0.3)).terms
    assert {name: reached(term, model) for name, term in soft.items()} == {
        name: reached(term, model) for name, term in hard.items()
    }


def test_attention_does_not_move_the_memory_but_learns_its_temperature():
    model = model_of()
    seen = model.read(bag())
    for values in (seen.scores, seen.attention, seen.pooled, seen.slide_vector, seen.logits):
        assert "memory.slots" not in reached(values.square().sum(), model)
    assert {"log_tau", "patch_projection.weight"} <= reached(seen.attention.square().sum(), model)


def test_distance_to_the_slots_moves_the_tiles_alone_and_orthogonality_the_slots_alone():
    model = model_of()
    slots = model.memory.slots
    memory = model.loss(model.read(bag()), lesson(1)).terms["memory"]
    (found,) = torch.autograd.grad(memory, slots, retain_graph=True)
    (wanted,) = torch.autograd.grad(10 * orthogonality(slots[1]), slots)
    torch.testing.assert_close(found, wanted)
    assert found[0].abs().sum() == 0


def test_without_rna_there_are_no_omics_terms_and_the_omics_side_stands_still():
    model = model_of(STEADY)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = model.loss(model.read(bag()), lesson(1))
    assert losses.values().keys() == {"task", "histology", "memory", "total"}
    losses.total.backward()
    optimiser.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == before.keys() - side(set(before), *OMICS)


def test_a_model_without_genes_has_no_omics_side():
    model = model_of(SMALL.model_copy(update={"n_genes": 0}))
    assert not side(set(model.state_dict()), *OMICS)
    model.loss(model.read(bag()), lesson(0)).total.backward()
    with pytest.raises(UsageError):
        model.teach(genes()[None])
    with pytest.raises(UsageError):
        model.loss(model.read(bag()), lesson(0, genes()))


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_that_is_no_label_is_refused(label: int):
    with pytest.raises(UsageError, match=f"P-{label}"):
        lesson(label)


@pytest.mark.parametrize("target", [-1e-6, 1.000001, math.nan, math.inf])
def test_a_target_that_is_no_probability_is_refused(target: float):
    with pytest.raises(UsageError, match="P-1"):
        lesson(1, target=target)


def test_a_value_that_is_missing_in_rna_is_not_passed_over():
    expression = genes()
    expression[3] = math.nan
    model = model_of()
    told = Lesson(torch.tensor([1]), torch.tensor([1.0]), expression[None], torch.tensor([0]))
    losses = model.loss(model.read(bag()), told).values()
    assert [name for name, value in losses.items() if math.isnan(value)] == ["omics", "reconstruction", "total"]


# Several bags a step


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_a_step_of_several_bags_is_the_mean_of_its_bags(dtype: torch.dtype, near: float):
    model = model_of(STEADY).to(dtype).train()

    def step(patients: list[PatientBags]) -> tuple[dict[str, float], dict[str, Tensor]]:
        bags, told = together(patients)
        assert told.expression is None or told.measured is not None
        told = replace(
            told,
            targets=told.targets.to(dtype),
            expression=None if told.expression is None else told.expression.to(dtype),
        )
        losses = model.loss(model.read(replace(bags, x=bags.x.to(dtype))), told)
        return losses.values(), gradients(losses, model)

    patients = [replace(TAUGHT[0], target=0.3), *TAUGHT[1:]]
    losses, found = step(patients)
    alone = [step([one]) for one in patients]
    assert losses == {
        name: pytest.approx(sum(terms.get(name, 0.0) for terms, _ in alone) / len(alone), rel=near) for name in losses
    }
    for name, gradient in found.items():
        mean = torch.stack([of_one[name] for _, of_one in alone]).mean(dim=0)
        assert mean.abs().max() > 0
        torch.testing.assert_close(gradient, mean, atol=near, rtol=near, msg=lambda text, name=name: f"{name}: {text}")


def test_slides_are_read_together_as_each_is_read_alone():
    model = model_of().eval()
    slides = [one.bags[0] for one in TAUGHT]
    with torch.no_grad():
        seen = model.read(BagBatch.of(slides))
        alone = [model.read(BagBatch.of([one])) for one in slides]
    for name in ("logits", "pooled", "slide_vector", "attention", "scores", "contextual", "projected"):
        of_all = torch.cat([getattr(one, name) for one in alone])
        torch.testing.assert_close(getattr(seen, name), of_all, atol=1e-6, rtol=1e-6)
    for attention in seen.bags.split(seen.attention):
        assert float(attention.sum()) == pytest.approx(1)


def test_no_slide_of_a_step_sees_another():
    model = model_of(STEADY)
    bags, _ = together(TAUGHT)
    bags.x.requires_grad_()
    seen = model.read(bags)
    for place in range(len(SIZES)):
        for value in (seen.logits, seen.slide_vector):
            (gradient,) = torch.autograd.grad(value[place, 0], bags.x, retain_graph=True)
            for other, of_slide in enumerate(bags.split(gradient)):
                assert bool(of_slide.abs().sum() > 0) == (other == place)


def test_ten_slides_of_a_patient_teach_their_rna_as_one_does():
    model = model_of(STEADY)
    one = patient(1, slide(7), expression=genes())
    ten = replace(one, bags=[slide(3 + i, i) for i in range(10)])
    expected = model.loss(model.read(bag(7)), lesson(1, genes()))
    bags, told = together([ten])
    found = model.loss(model.read(bags), told)
    for name in ("omics", "reconstruction"):
        torch.testing.assert_close(found.terms[name], expected.terms[name], atol=1e-6, rtol=1e-6)
    wanted = gradients(expected, model)
    for name, gradient in gradients(found, model).items():
        if name.startswith(OMICS):
            torch.testing.assert_close(gradient, wanted[name], atol=1e-6, rtol=1e-5)


def test_measured_patients_are_paired_with_their_own_bags():
    expressions = [None, genes(4), None, genes(5)]
    told = Lesson.of(
        [
            patient(i // 2, expression=g, target=t)
            for i, (g, t) in enumerate(zip(expressions, (None, 0.25, 0.5, None), strict=True))
        ]
    )
    assert told.labels.tolist() == [0, 0, 1, 1]
    assert told.targets.tolist() == [0.0, 0.25, 0.5, 1.0]
    assert told.measured is not None
    assert told.expression is not None
    assert told.measured.tolist() == [1, 3]
    assert torch.equal(told.expression, torch.stack([genes(4), genes(5)]))
    assert (lesson(1).expression, lesson(1).measured) == (None, None)


def test_bfloat16_learns_nearly_the_same():
    model = model_of(STEADY.model_copy(update={"hidden": 64, "shared": 16})).train()
    bags, told = together(TAUGHT)

    def step(mixed: bool) -> tuple[Tensor, dict[str, float], Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            readings = model.read(bags)
            losses = model.loss(readings, told)
        return (
            readings.logits.float(),
            losses.values(),
            torch.cat([g.flatten() for g in gradients(losses, model).values()]),
        )

    logits, losses, gradient = step(False)
    rough_logits, rough_losses, rough = step(True)
    assert not torch.equal(logits, rough_logits)
    torch.testing.assert_close(rough_logits, logits, atol=0.01, rtol=0)
    assert rough_losses == {name: pytest.approx(value, rel=0.05) for name, value in losses.items()}
    assert float((rough - gradient).norm() / gradient.norm()) < 0.05
    assert all(p.dtype == torch.float32 for p in model.parameters())


# Soft targets


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
        assert torch.equal(task_loss(logits, torch.tensor([float(label)])), hard)

    model = model_of(STEADY)
    readings = model.read(bag())
    hard_losses = model.loss(readings, lesson(label, genes()))
    soft_losses = model.loss(readings, lesson(label, genes(), target=float(label)))
    assert soft_losses.values() == hard_losses.values()


def test_a_target_of_a_half_takes_the_mean_of_both_alignments_and_leaves_the_memory_to_the_label():
    model = model_of(STEADY)
    readings = model.read(bag())
    losses = {y: model.loss(readings, lesson(y, genes())).values() for y in (0, 1)}
    for label in (0, 1):
        soft = model.loss(readings, lesson(label, genes(), target=0.5)).values()
        for name in ("task", "histology"):
            assert soft[name] == pytest.approx((losses[0][name] + losses[1][name]) / 2, rel=1e-6)
        for name in ("memory", "omics", "reconstruction"):
            assert soft[name] == losses[label][name]


@given(st.floats(0.001, 0.999))
def test_a_target_is_reached_where_the_logits_give_its_probability(target: float):
    wanted = math.log(target) - math.log1p(-target)
    logits = torch.tensor([[0.5 - wanted / 2, 0.5 + wanted / 2]], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([target], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(task_loss(logits, targets), logits)
    assert gradient.abs().max() < 1e-12
    (gradient,) = torch.autograd.grad(task_loss(logits, (targets + 1) / 2), logits)
    assert float(gradient[0, 1]) == pytest.approx(target - (target + 1) / 2)


# Terms with known answers


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
    assert model.read(bag()).attention.isfinite().all()


# The memory


@pytest.mark.parametrize("mode", ["momentum", "fixed"])
def test_slots_that_are_not_learned_get_no_gradient(mode: str):
    model = model_of(SMALL.model_copy(update={"memory": mode}))
    assert "memory.slots" not in dict(model.named_parameters())
    assert "memory.slots" in model.state_dict()
    before = model.memory.slots.clone()
    model.loss(model.read(bag()), lesson(1, genes())).total.backward()
    torch.optim.AdamW(model.parameters(), lr=0.1).step()
    assert torch.equal(model.memory.slots, before)


@pytest.mark.parametrize("mode", ["gradient", "fixed"])
def test_only_momentum_follows(mode: str):
    model = model_of(SMALL.model_copy(update={"memory": mode}))
    before = model.memory.slots.detach().clone()
    model.follow(model.read(bag()), lesson(1, genes()))
    assert torch.equal(model.memory.slots, before)


def test_momentum_follows_tiles_and_then_omics_by_hand():
    memory = ClassMemory(3, 2, "momentum", 0.9)
    start = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    memory.slots = torch.stack([start, start])
    memory.follow(1, torch.tensor([[0.8, 0.6], [0.8, -0.6], [0.6, 0.8]]), torch.tensor([[0.28, 0.96]]))
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
    model.follow(model.read(bag()), lesson(0))
    moved = model.memory.slots
    assert torch.equal(moved[1], before[1])
    assert not torch.equal(moved[0], before[0])
    torch.testing.assert_close(moved.norm(dim=-1), torch.ones(2, 3))


def test_momentum_follows_each_class_tiles_and_the_omics_of_its_own_measured_bags():
    model = model_of(MOMENTUM).train()
    bags, told = together(TAUGHT)
    readings = model.read(bags)
    model.follow(readings, told)
    assert model.training
    moved = model.memory.slots.clone()

    # By hand, bag for bag: the omics vectors are those without dropout.
    fresh = model_of(MOMENTUM)
    by_bag = bags.split(readings.projected.detach())
    vectors = {
        i: fresh.eval().teach(one.expression[None]).vector.detach()
        for i, one in enumerate(TAUGHT)
        if one.expression is not None
    }
    assert vectors.keys() == {3, 4}
    fresh.memory.follow(0, torch.cat([by_bag[i] for i in (0, 2, 4)]), vectors[4])
    fresh.memory.follow(1, torch.cat([by_bag[i] for i in (1, 3, 5)]), vectors[3])
    torch.testing.assert_close(moved, fresh.memory.slots)

    # Other RNA of the negative patient moves the negative slots elsewhere, and the positive ones not at all.
    other = model_of(MOMENTUM).train()
    assert told.expression is not None
    other.follow(readings, replace(told, expression=torch.stack([told.expression[0], genes(99)])))
    assert not torch.equal(other.memory.slots[0], moved[0])
    assert torch.equal(other.memory.slots[1], moved[1])


@pytest.mark.parametrize("mode", ["gradient", "momentum", "fixed"])
def test_an_epoch_counts_how_its_tiles_share_the_slots(mode: str):
    model = model_of(SMALL.model_copy(update={"memory": mode, "memory_momentum": 0.99}))
    with torch.no_grad():
        model.memory.slots[0], model.memory.slots[1] = torch.eye(6)[:3], -torch.eye(6)[:3]
    bags = BagBatch.of([slide(4, 0), slide(1, 1), slide(3, 2)])
    # The slot nearest to each tile: 0 0 1 0 (negative), 2 (positive), 1 1 1 (negative).
    slots = torch.cat([torch.eye(6)[[0, 0, 1, 0]], -torch.eye(6)[[2]], torch.eye(6)[[1, 1, 1]]])
    readings = replace(model.read(bags), projected=slots)
    model.follow(readings, Lesson.of([patient(0), patient(1), patient(0)]))
    model.follow(readings, Lesson.of([patient(0), patient(1), patient(0)]))
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
    told = model.slot_shares(patients)
    for label, name in enumerate(("negative", "positive")):
        counts = [0, 0, 0]
        for one in [b for p in patients if p.label == label for b in p.bags]:
            p = model.read(BagBatch.of([one])).projected
            for tile in p:
                counts[int((model.memory.directions()[label] @ tile).argmax())] += 1
        shares = [count / sum(counts) for count in counts]
        assert told[name]["shares"] == pytest.approx(shares)
        assert told[name]["active"] == sum(count > 0 for count in counts)
        assert told[name]["entropy"] == pytest.approx(-sum(q * math.log(q) for q in shares if q))
    assert model.slot_shares([ten])["negative"] == {"active": 0, "entropy": 0.0, "shares": [0.0, 0.0, 0.0]}


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


@settings(deadline=None)  # shared cores make single runs slow
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
    model.start(patients, seeded(5))
    assert model.training
    slots = model.memory.slots.detach().clone()
    torch.testing.assert_close(slots.norm(dim=-1), torch.ones(2, 3))
    model.start(patients, seeded(5))
    assert torch.equal(model.memory.slots, slots)

    model.eval()
    for label in (0, 1):
        bags = [b for p in patients if p.label == label for b in p.bags]
        own = torch.cat([model.read(BagBatch.of([b])).projected for b in bags]).detach()
        # Fixed point: each slot is the mean direction of the tiles nearest to it.
        nearest = (own @ slots[label].T).argmax(dim=1)
        for k in range(3):
            mean = functional.normalize(own[nearest == k].mean(dim=0), dim=0)
            assert float(mean @ slots[label][k]) > 0.999


def test_a_large_slide_does_not_drown_a_small_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(momkd, "START_TILES", 2)
    model = model_of(SMALL.model_copy(update={"slots": 2})).eval()
    large, small = slide(2000, 0), slide(3, 1)
    for seed in range(5):
        # Two slides share two tiles a class: one each, and each of the two becomes a slot.
        model.start([patient(0, large, small), patient(1, small)], seeded(seed))
        slots = model.memory.slots.detach()[0]
        for one in (small, large):
            p = model.read(BagBatch.of([one])).projected.detach()
            assert ((slots @ p.T).amax(dim=1) > 1 - 1e-6).any()


def test_the_memory_cannot_start_from_one_class():
    model = model_of().train()
    with pytest.raises(CohortError, match="class 1"):
        model.start([patient(0, slide()), patient(1)], seeded())
    assert model.training


def test_slot_usage():
    one = slot_usage(torch.tensor([0, 0, 3, 0]))
    assert (one.active, one.entropy) == (1, 0)
    all_of_them = slot_usage(torch.tensor([2, 2, 2, 2]))
    assert (all_of_them.active, all_of_them.entropy) == (4, pytest.approx(math.log(4)))
    none = slot_usage(torch.tensor([0, 0, 0, 0]))
    assert (none.active, none.entropy) == (0, 0)


# Bags and bundles


def test_one_tile_is_a_bag():
    model = model_of().eval()
    readings = model.read(bag(1))
    assert readings.attention.tolist() == [1.0]
    torch.testing.assert_close(readings.pooled, readings.contextual)
    losses = model.loss(readings, lesson(1, genes()))
    losses.total.backward()
    assert all(math.isfinite(value) for value in losses.values().values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.start([patient(0, slide(1)), patient(1, slide(1))], seeded())


def test_shapes_and_units():
    model = model_of().eval()
    with torch.no_grad():
        seen = model.read(BagBatch.of([slide(20), slide(3)]))
        omics = model.teach(torch.stack([genes(0), genes(1)]))
    assert seen.contextual.shape == (23, 8)
    assert seen.projected.shape == (23, 6)
    assert seen.scores.shape == seen.attention.shape == (23,)
    assert seen.pooled.shape == (2, 8)
    assert seen.slide_vector.shape == (2, 6)
    assert seen.logits.shape == (2, 2)
    assert (omics.embedding.shape, omics.vector.shape, omics.reconstruction.shape) == ((2, 7), (2, 6), (2, 10))
    for unit in (seen.projected, seen.slide_vector, omics.vector):
        torch.testing.assert_close(unit.norm(dim=1), torch.ones(len(unit)))


def test_messages_run_from_the_tile_to_its_neighbours():
    model = model_of().eval()
    bags = replace(bag(3), edges=torch.tensor([[0], [1]]))
    changed = bags.x.clone()
    changed[0] += 1
    differs = (model.encode(bags) - model.encode(replace(bags, x=changed))).abs().amax(dim=1) > 0
    assert differs.tolist() == [True, True, False]


def test_the_first_residual_is_the_tile_itself_where_widths_agree():
    model = model_of(SMALL.model_copy(update={"in_features": 8}))
    assert not [key for key in model.state_dict() if "residual1" in key]
    model.read(bag(width=8))


def test_inference_needs_no_omics():
    trained = model_of()
    with torch.no_grad():
        trained.memory.slots.mul_(3)  # stored slots need not be unit vectors
    state = trained.reading_state()
    assert not side(set(state), *OMICS)
    loaded = MoMKD.for_reading(trained.config, state)
    assert not loaded.training
    assert loaded.config.n_genes == 0
    ours, theirs = loaded.read(bag()), trained.eval().read(bag())
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.attention, theirs.attention)


@pytest.mark.parametrize("mode", ["momentum", "fixed"])
def test_slots_of_every_mode_travel_with_the_histology(mode: str):
    trained = model_of(SMALL.model_copy(update={"memory": mode}))
    loaded = MoMKD.for_reading(trained.config, trained.reading_state())
    assert torch.equal(loaded.state_dict()["memory.slots"], trained.memory.slots)


def test_weights_that_do_not_fit_are_refused_by_name():
    model = model_of()
    state = model.reading_state()
    lacking = {key: value for key, value in state.items() if key != "head.1.weight"}
    with pytest.raises(BundleError, match=r"lacks head\.1\.weight") as refusal:
        MoMKD.for_reading(SMALL, lacking, path="fold-0/model.safetensors")
    assert refusal.value.path == "fold-0/model.safetensors"
    with pytest.raises(BundleError, match=r"unknown omics_decoder\.0\.bias"):
        MoMKD.for_reading(SMALL, model.state_dict())
    with pytest.raises(BundleError, match=r"another shape of memory\.slots"):
        MoMKD.for_reading(SMALL, state | {"memory.slots": torch.zeros(2, 4, 6)})


# Settings and training


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


def train(
    config: MoMKDConfig, patients: list[PatientBags], epochs: int, bags_per_step: int, seed: int = 7
) -> tuple[MoMKD, list[float]]:
    model = model_of(config, seed).train()
    model.start(patients, seeded(1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    totals = []
    for _ in range(epochs):
        for begin in range(0, len(patients), bags_per_step):
            bags, told = together(patients[begin : begin + bags_per_step])
            readings = model.read(bags)
            losses = model.loss(readings, told)
            optimiser.zero_grad()
            losses.total.backward()
            optimiser.step()
            model.follow(readings, told)
            totals.append(losses.values()["total"])
    return model, totals


def planted(count: int, seed: int) -> list[PatientBags]:
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
    bags, told = together(planted(20, 1000))
    with torch.no_grad():
        calls = model.eval().read(bags).logits.argmax(dim=1)
    assert (calls == told.labels).sum() >= 18


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_gpu_and_cpu_agree():
    model = model_of().eval()
    bags, told = together(TAUGHT)
    here = model.read(bags)
    expected = model.loss(here, told).values()
    model.cuda()
    there = model.read(BagBatch.of([b for p in TAUGHT for b in p.bags], "cuda"))
    torch.testing.assert_close(there.logits.cpu(), here.logits, atol=1e-4, rtol=1e-4)
    told = Lesson.of(TAUGHT, "cuda")
    found = model.loss(there, told).values()
    assert found == {name: pytest.approx(value, abs=1e-3) for name, value in expected.items()}
    model.follow(there, told)
    model.epoch_figures()
    model.start(TAUGHT, seeded())
    assert model.memory.slots.device.type == "cuda"
