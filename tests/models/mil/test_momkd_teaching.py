"""Who may teach whom in MoMKD, proved on gradients; labels, soft targets and RNA that teach."""

from __future__ import annotations

import math

import pytest
import torch
from momkd_bags import OMICS, SMALL, STEADY, bag, genes, model_of, patient, reached, side, targets_of
from wsipipe.data.errors import UsageError
from wsipipe.models.mil.losses import orthogonality
from wsipipe.models.mil.network import Targets


@pytest.mark.parametrize("label", [0, 1])
def test_omics_and_histology_meet_only_in_the_memory(label: int):
    model = model_of().train()
    everything = {name for name, _ in model.named_parameters()}
    omics_side, memory = side(everything, *OMICS), {"memory.slots"}
    histology_side = everything - omics_side - memory
    losses = model.loss(model(bag()), targets_of(label, genes()))
    terms = losses.terms

    assert reached(terms["omics"], model) == side(everything, "omics_encoder.", "omics_projection.") | memory
    assert reached(terms["reconstruction"], model) == side(everything, "omics_encoder.", "omics_decoder.")
    assert reached(terms["task"], model) == histology_side - side(everything, "pool_projection.")
    assert reached(terms["histology"], model) == (histology_side | memory) - side(everything, "head.")
    assert reached(terms["memory"], model) == memory | side(everything, "histology_encoder.", "patch_projection.")
    assert reached(losses.total, model) == everything


def test_a_soft_target_opens_no_other_way():
    model = model_of()
    output = model(bag())
    hard = model.loss(output, targets_of(1, genes())).terms
    soft = model.loss(output, targets_of(1, genes(), target=0.3)).terms
    assert {name: reached(term, model) for name, term in soft.items()} == {
        name: reached(term, model) for name, term in hard.items()
    }


def test_attention_does_not_move_the_memory_but_learns_its_temperature():
    model = model_of()
    output = model(bag())
    for values in (output.scores, output.attention, output.pooled, output.slide_vector, output.logits):
        assert "memory.slots" not in reached(values.square().sum(), model)
    assert {"log_tau", "patch_projection.weight"} <= reached(output.attention.square().sum(), model)


def test_distance_to_the_slots_moves_the_tiles_alone_and_orthogonality_the_slots_alone():
    model = model_of()
    slots = model.memory.slots
    memory = model.loss(model(bag()), targets_of(1)).terms["memory"]
    (found,) = torch.autograd.grad(memory, slots, retain_graph=True)
    (wanted,) = torch.autograd.grad(10 * orthogonality(slots[1]), slots)
    torch.testing.assert_close(found, wanted)
    assert found[0].abs().sum() == 0


def test_without_rna_there_are_no_omics_terms_and_the_omics_side_stands_still():
    model = model_of(STEADY)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = model.loss(model(bag()), targets_of(1))
    assert losses.values().keys() == {"task", "histology", "memory", "total"}
    losses.total.backward()
    optimiser.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == before.keys() - side(set(before), *OMICS)


def test_a_model_without_genes_has_no_omics_side():
    model = model_of(SMALL.model_copy(update={"n_genes": 0}))
    assert not side(set(model.state_dict()), *OMICS)
    model.loss(model(bag()), targets_of(0)).total.backward()
    with pytest.raises(UsageError):
        model.encode_omics(genes()[None])
    with pytest.raises(UsageError):
        model.loss(model(bag()), targets_of(0, genes()))


def test_measured_patients_are_paired_with_their_own_bags():
    expressions = [None, genes(4), None, genes(5)]
    targets = Targets.of(
        [
            patient(i // 2, expression=g, target=t)
            for i, (g, t) in enumerate(zip(expressions, (None, 0.25, 0.5, None), strict=True))
        ]
    )
    assert targets.labels.tolist() == [0, 0, 1, 1]
    assert targets.values.tolist() == [0.0, 0.25, 0.5, 1.0]
    assert targets.measured is not None
    assert targets.expression is not None
    assert targets.measured.tolist() == [1, 3]
    assert torch.equal(targets.expression, torch.stack([genes(4), genes(5)]))
    assert (targets_of(1).expression, targets_of(1).measured) == (None, None)


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_that_is_no_label_is_refused(label: int):
    with pytest.raises(UsageError, match=f"P-{label}"):
        targets_of(label)


@pytest.mark.parametrize("target", [-1e-6, 1.000001, math.nan, math.inf])
def test_a_target_that_is_no_probability_is_refused(target: float):
    with pytest.raises(UsageError, match="P-1"):
        targets_of(1, target=target)


def test_a_value_that_is_missing_in_rna_is_not_passed_over():
    expression = genes()
    expression[3] = math.nan
    model = model_of()
    targets = Targets(torch.tensor([1]), torch.tensor([1.0]), expression[None], torch.tensor([0]))
    losses = model.loss(model(bag()), targets).values()
    assert [name for name, value in losses.items() if math.isnan(value)] == ["omics", "reconstruction", "total"]


def test_a_target_of_a_half_takes_the_mean_of_both_alignments_and_leaves_the_memory_to_the_label():
    model = model_of(STEADY)
    output = model(bag())
    losses = {y: model.loss(output, targets_of(y, genes())).values() for y in (0, 1)}
    for label in (0, 1):
        soft = model.loss(output, targets_of(label, genes(), target=0.5)).values()
        for name in ("task", "histology"):
            assert soft[name] == pytest.approx((losses[0][name] + losses[1][name]) / 2, rel=1e-6)
        for name in ("memory", "omics", "reconstruction"):
            assert soft[name] == losses[label][name]
