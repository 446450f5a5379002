"""MoMKD reads several bags a step as each alone; odd bags; mixed precision; a GPU."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from momkd_bags import (
    OMICS,
    SIZES,
    SMALL,
    STEADY,
    TAUGHT,
    bag,
    genes,
    gradients,
    model_of,
    patient,
    seeded,
    slide,
    targets_of,
    together,
)
from torch import Tensor
from wsipipe.models.mil.bag_tensors import BagBatch, Patient
from wsipipe.models.mil.network import Targets


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_a_step_of_several_bags_is_the_mean_of_its_bags(dtype: torch.dtype, near: float):
    model = model_of(STEADY).to(dtype).train()

    def step(patients: list[Patient]) -> tuple[dict[str, float], dict[str, Tensor]]:
        bags, targets = together(patients)
        assert targets.expression is None or targets.measured is not None
        targets = replace(
            targets,
            values=targets.values.to(dtype),
            expression=None if targets.expression is None else targets.expression.to(dtype),
        )
        losses = model.loss(model(replace(bags, x=bags.x.to(dtype))), targets)
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
        output = model(BagBatch.of(slides))
        alone = [model(BagBatch.of([one])) for one in slides]
    for name in ("logits", "pooled", "slide_vector", "attention", "scores", "contextual", "projected"):
        of_all = torch.cat([getattr(one, name) for one in alone])
        torch.testing.assert_close(getattr(output, name), of_all, atol=1e-6, rtol=1e-6)
    for attention in output.bags.split(output.attention):
        assert float(attention.sum()) == pytest.approx(1)


def test_no_slide_of_a_step_sees_another():
    model = model_of(STEADY)
    bags, _ = together(TAUGHT)
    bags.x.requires_grad_()
    output = model(bags)
    for place in range(len(SIZES)):
        for value in (output.logits, output.slide_vector):
            (gradient,) = torch.autograd.grad(value[place, 0], bags.x, retain_graph=True)
            for other, of_slide in enumerate(bags.split(gradient)):
                assert bool(of_slide.abs().sum() > 0) == (other == place)


def test_ten_slides_of_a_patient_teach_their_rna_as_one_does():
    model = model_of(STEADY)
    one = patient(1, slide(7), expression=genes())
    ten = replace(one, bags=[slide(3 + i, i) for i in range(10)])
    expected = model.loss(model(bag(7)), targets_of(1, genes()))
    bags, targets = together([ten])
    found = model.loss(model(bags), targets)
    for name in ("omics", "reconstruction"):
        torch.testing.assert_close(found.terms[name], expected.terms[name], atol=1e-6, rtol=1e-6)
    wanted = gradients(expected, model)
    for name, gradient in gradients(found, model).items():
        if name.startswith(OMICS):
            torch.testing.assert_close(gradient, wanted[name], atol=1e-6, rtol=1e-5)


def test_bfloat16_learns_nearly_the_same():
    model = model_of(STEADY.model_copy(update={"hidden": 64, "shared": 16})).train()
    bags, targets = together(TAUGHT)

    def step(mixed: bool) -> tuple[Tensor, dict[str, float], Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            output = model(bags)
            losses = model.loss(output, targets)
        return (
            output.logits.float(),
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


def test_in_mixed_precision_what_is_compared_or_summed_is_float32():
    # Sharp attention, where three digits of a cosine are a tenth of a tile's weight.
    model = model_of(STEADY.model_copy(update={"hidden": 64, "shared": 16, "tau_start": 0.01})).train()
    bags, targets = together(TAUGHT)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(bags)
        losses = model.loss(output, targets)
    for values in (output.logits, output.attention, output.scores, output.projected, output.slide_vector, losses.total):
        assert values.dtype == torch.float32
    for unit in (output.projected, output.slide_vector):
        torch.testing.assert_close(unit.norm(dim=1), torch.ones(len(unit)))
    assert torch.equal(output.scores, model.memory.scores(output.projected))
    assert torch.equal(output.attention, bags.softmax(output.scores / model.tau).sum(dim=0))
    again = model.loss(output, targets).terms
    for name in ("histology", "memory"):  # of what was read, with no product but those among unit vectors
        assert torch.equal(losses.terms[name], again[name])


def test_means_over_a_slide_are_of_full_precision_in_mixed_precision():
    bags = BagBatch.of([slide(300, 0), slide(7, 1)])
    torch.testing.assert_close(bags.mean(bags.x), torch.stack([x.mean(dim=0) for x in bags.split(bags.x)]))
    for values in (bags.x, bags.x[:, 0]):
        wanted = bags.mean(values)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(bags.mean(values), wanted)


def test_one_tile_is_a_bag():
    model = model_of().eval()
    output = model(bag(1))
    assert output.attention.tolist() == [1.0]
    torch.testing.assert_close(output.pooled, output.contextual)
    losses = model.loss(output, targets_of(1, genes()))
    losses.total.backward()
    assert all(math.isfinite(value) for value in losses.values().values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.init_memory([patient(0, slide(1)), patient(1, slide(1))], seeded())


def test_shapes_and_units():
    model = model_of().eval()
    with torch.no_grad():
        output = model(BagBatch.of([slide(20), slide(3)]))
        omics = model.encode_omics(torch.stack([genes(0), genes(1)]))
    assert output.contextual.shape == (23, 8)
    assert output.projected.shape == (23, 6)
    assert output.scores.shape == output.attention.shape == (23,)
    assert output.pooled.shape == (2, 8)
    assert output.slide_vector.shape == (2, 6)
    assert output.logits.shape == (2, 2)
    assert (omics.embedding.shape, omics.vector.shape, omics.reconstruction.shape) == ((2, 7), (2, 6), (2, 10))
    for unit in (output.projected, output.slide_vector, omics.vector):
        torch.testing.assert_close(unit.norm(dim=1), torch.ones(len(unit)))


def test_messages_run_from_the_tile_to_its_neighbours():
    model = model_of().eval()
    bags = replace(bag(3), edges=torch.tensor([[0], [1]]))
    changed = bags.x.clone()
    changed[0] += 1
    differs = (model.encode_histology(bags) - model.encode_histology(replace(bags, x=changed))).abs().amax(dim=1) > 0
    assert differs.tolist() == [True, True, False]


def test_the_first_residual_is_the_tile_itself_where_widths_agree():
    model = model_of(SMALL.model_copy(update={"in_features": 8}))
    assert not [key for key in model.state_dict() if "residual1" in key]
    model(bag(width=8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_gpu_and_cpu_agree():
    model = model_of().eval()
    bags, targets = together(TAUGHT)
    here = model(bags)
    expected = model.loss(here, targets).values()
    model.cuda()
    there = model(BagBatch.of([b for p in TAUGHT for b in p.bags], "cuda"))
    torch.testing.assert_close(there.logits.cpu(), here.logits, atol=1e-4, rtol=1e-4)
    targets = Targets.of(TAUGHT, "cuda")
    found = model.loss(there, targets).values()
    assert found == {name: pytest.approx(value, abs=1e-3) for name, value in expected.items()}
    model.update_memory(there, targets)
    model.epoch_figures()
    model.init_memory(TAUGHT, seeded())
    assert model.memory.slots.device.type == "cuda"
