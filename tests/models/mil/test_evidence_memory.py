"""Evidence memory: its equations written out a second time, what flows where, and that paired RNA counts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from evidence_by_hand import (
    GENES,
    bag,
    gradients,
    grid,
    line,
    moved,
    network_of,
    reached,
    scattered,
    slide_by_hand,
    targets_of,
    terms_by_hand,
)
from pydantic import ValidationError
from wsipipe.data.errors import BundleError, UsageError
from wsipipe.models.mil.bag_tensors import BagBatch, Patient
from wsipipe.models.mil.evidence_memory import (
    EvidenceMemory,
    EvidenceMemoryOutput,
    neighbours_mean,
)
from wsipipe.models.mil.network import Targets
from wsipipe.models.mil.tile_graph import knn_edges
from wsipipe.models.training.fit import FitSettings, fit, patient_scores, validate

SLIDE_SIDE = {"embedding", "gate", "tile_projection", "log_sharpness", "blend"}
RNA_SIDE = {"omics_projection", "omics_bias"}
MEMORY = {"slots", "slot_weights"}


SIZES = (7, 1, 60, 2, 5)
BAGS = [bag(tiles, seed) for seed, tiles in enumerate(SIZES)]
LABELS, TARGETS = [1, 0, 0, 1, 1], [0.8, 0.1, 0.0, 1.0, 0.5]


# The equations


@pytest.mark.parametrize("measured", [[], [3], [0, 1, 4], [4, 2, 0, 1, 3]], ids=lambda rows: f"{len(rows)}-with-rna")
@pytest.mark.parametrize("targets", [None, TARGETS], ids=["labels", "soft"])
@pytest.mark.parametrize("slots", [8, 3])
def test_it_is_its_equations(slots: int, targets: list[float] | None, measured: list[int]) -> None:
    network = moved(slots=slots, background=0.3, omics_weight=0.7, distillation_weight=0.2)
    taught = targets_of(LABELS, targets, measured)
    w = {name: value.detach().double().requires_grad_() for name, value in network.named_parameters()}
    slides = [slide_by_hand(w, one, 0.3) for one in BAGS]
    wanted = terms_by_hand(w, slides, taught)

    output = network(BagBatch.of(BAGS))
    close = {"atol": 1e-5, "rtol": 1e-5, "check_dtype": False}
    torch.testing.assert_close(output.attention, torch.cat([slide["attention"] for slide in slides]), **close)
    torch.testing.assert_close(output.scores, torch.cat([slide["scores"] for slide in slides]), **close)
    torch.testing.assert_close(output.slots, torch.stack([slide["slots"] for slide in slides]), **close)
    log_odds = torch.stack([slide["log_odds"] for slide in slides])
    torch.testing.assert_close(output.logits, torch.stack([-log_odds / 2, log_odds / 2], dim=1), **close)
    losses = network.loss(output, taught)
    assert losses.terms.keys() == wanted.keys()
    total = wanted["task"]
    if measured:
        total = total + 0.7 * wanted["omics"] + 0.2 * wanted["distillation"]
    assert losses.values() == pytest.approx(
        {**{n: float(v.detach()) for n, v in wanted.items()}, "total": float(total.detach())}, abs=1e-5
    )

    of_total = dict(zip(w, torch.autograd.grad(total, list(w.values()), allow_unused=True), strict=True))
    found = gradients(losses.total, network)
    assert found.keys() == {name for name, gradient in of_total.items() if gradient is not None}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, of_total[name], **close, msg=name)


def test_known_answer() -> None:
    """One feature, two opposite slots and a gate that says nothing: a = softmax(β √2 |x − x̄|)."""
    network = network_of(in_features=1, n_genes=0, hidden=2, shared=1, slots=2, background=0.25).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.embedding[0].weight.copy_(torch.tensor([[1.0], [-1]]))  # h = (x above zero, −x below)
        network.tile_projection.weight.copy_(torch.tensor([[1.0, -1]]))  # x again
        network.slots.copy_(torch.tensor([[2.0], [-3]]))
        network.slot_weights.copy_(torch.tensor([1.0, -1]) / 2**0.5)
        network.blend.fill_(-100)
        network.log_sharpness.fill_(np.log(0.5))
    x = torch.tensor([3.0, -1, 0, -2])
    a = torch.softmax(x.abs() / 2**0.5, dim=0)
    seen = float((a * x).sum())
    output = network(BagBatch(x[:, None], knn_edges(line(4)), (4,)))
    torch.testing.assert_close(output.scores, 2**0.5 * x)
    torch.testing.assert_close(output.attention, a)
    torch.testing.assert_close(output.slots, torch.tensor([[seen, -seen]]))
    torch.testing.assert_close(output.logits, torch.tensor([[-seen, seen]]) / 2**0.5)

    # The background: all tiles shifted alike show as much of the shift as γ leaves.
    shifted = network(BagBatch(x[:, None] + 10, knn_edges(line(4)), (4,)))
    torch.testing.assert_close(shifted.attention, a, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shifted.slots[0, 0], torch.tensor(seen + 0.75 * 10), atol=1e-5, rtol=1e-5)

    # More evidence, on either side, and attention is sharper; the other way round, the same.
    entropies = []
    for scale in (0.0, 0.5, 1, 2, 4, -4):
        b = network(BagBatch(scale * x[:, None], knn_edges(line(4)), (4,))).attention.detach()
        entropies.append(-float(torch.special.xlogy(b, b).sum()))
    assert entropies[0] == pytest.approx(np.log(4))
    assert all(after < before - 1e-3 for before, after in pairwise(entropies[:-1]))
    assert entropies[-1] == pytest.approx(entropies[-2])

    # With λ = 1 a tile's neighbours speak alone: one each, of two the one with the lower index.
    with torch.no_grad():
        network.blend.fill_(100)
    alone = network(BagBatch(x[:, None], knn_edges(line(4), 1), (4,)))
    torch.testing.assert_close(alone.scores, 2**0.5 * x[[1, 0, 1, 2]])


# Neighbours


@pytest.mark.parametrize("k", [1, 4, 8])
@pytest.mark.parametrize("places", [grid, line, scattered])
@pytest.mark.parametrize("tiles", [1, 2, 5, 60])
def test_the_neighbours_mean_is_that_of_a_loop(places: type, tiles: int, k: int) -> None:
    edges = knn_edges(places(tiles), k)
    t = torch.randn(tiles, generator=torch.Generator().manual_seed(tiles))
    around: dict[int, list[float]] = {}
    for source, target in edges.T.tolist():
        around.setdefault(source, []).append(float(t[target]))
    wanted = [float(np.mean(around[tile])) for tile in range(tiles)]
    assert neighbours_mean(t, edges).tolist() == pytest.approx(wanted, abs=1e-6)
    with torch.inference_mode():
        assert neighbours_mean(t.clone(), edges).tolist() == pytest.approx(wanted, abs=1e-6)
    exact = t.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: neighbours_mean(t, edges), exact)


def test_every_batch_keeps_what_the_neighbours_mean_needs() -> None:
    """Edges are int64 and sorted by source, no tile is without, none leads out of its slide."""
    batches = [BAGS, BAGS[:1], BAGS[1:2], [BAGS[1], BAGS[1]], [bag(9, 5), BAGS[3], BAGS[1]]]
    for bags in batches:
        assert all(one.edges.dtype == torch.int32 for one in bags)
        batch = BagBatch.of(bags)
        source, target = batch.edges
        assert batch.edges.dtype == torch.int64
        assert (source.diff() >= 0).all()
        assert source.unique().tolist() == list(range(len(batch.x)))
        assert torch.equal(batch.slide_of_tile[source], batch.slide_of_tile[target])
        t = torch.randn(len(batch.x))
        alone = [neighbours_mean(part, one.edges.long()) for part, one in zip(batch.split(t), bags, strict=True)]
        torch.testing.assert_close(neighbours_mean(t, batch.edges), torch.cat(alone))


# Batches


def test_several_slides_are_read_as_each_alone() -> None:
    network = moved()
    close = {"atol": 1e-5, "rtol": 1e-5}
    with torch.inference_mode():
        together = network(BagBatch.of(BAGS))
        alone = [network(BagBatch.of([one])) for one in BAGS]
    for name in ("logits", "attention", "scores", "slots"):
        parts = torch.cat([getattr(one, name) for one in alone])
        torch.testing.assert_close(getattr(together, name), parts, **close, msg=name)
    for weights in together.attention.split(SIZES):
        assert float(weights.sum()) == pytest.approx(1, abs=1e-5)


def test_a_step_of_several_slides_teaches_the_mean_of_what_each_teaches() -> None:
    """Also with RNA, which is compared with its own slide alone."""
    network = moved()
    measured = [0, 1, 4]
    taught = targets_of(LABELS, TARGETS, measured)
    assert taught.expression is not None
    together = network.loss(network(BagBatch.of(BAGS)), taught)
    rows = dict(zip(measured, taught.expression, strict=True))
    singly = []
    for place, one in enumerate(BAGS):
        patient = Patient("p", LABELS[place], [one], rows.get(place), TARGETS[place])
        singly.append(network.loss(network(BagBatch.of([one])), Targets.of([patient])))
    for name, term in together.terms.items():
        mean = sum(float(losses.terms[name].detach()) for losses in singly if name in losses.terms) / len(BAGS)
        assert float(term.detach()) == pytest.approx(mean, abs=1e-5), name
    mean_total = torch.stack([losses.total for losses in singly]).mean()
    found, wanted = gradients(together.total, network), gradients(mean_total, network)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-5, msg=name)


def test_the_order_of_tiles_does_not_matter() -> None:
    network, one = moved(), bag(20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    edges = order.argsort()[one.edges.long()]
    edges = edges[:, edges[0].argsort(stable=True)]
    plain = network(BagBatch.of([one]))
    shuffled = network(BagBatch.of([replace(one, features=one.features[order], edges=edges.int())]))
    torch.testing.assert_close(shuffled.logits, plain.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shuffled.attention, plain.attention[order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shuffled.scores, plain.scores[order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("measured", [[], [0]])
def test_a_slide_of_one_tile_has_no_contrast_and_teaches(measured: list[int]) -> None:
    network = moved()
    output = network(BagBatch.of([bag(1)]))
    assert output.attention.tolist() == [1]
    assert output.scores.tolist() == [0]
    s = network.evidence(network.tile_projection(network.embedding(bag(1).features.float())))
    torch.testing.assert_close(output.slots, 0.5 * s)
    network.loss(output, targets_of([1], measured=measured)).total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    assert network.embedding[0].weight.grad.abs().sum() > 0


def test_mixed_precision_keeps_what_is_told_apart_in_float32() -> None:
    network, batch = moved(), BagBatch.of(BAGS)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(batch)
        losses = network.loss(output, targets_of(LABELS, measured=[0, 1, 4]))
    for name in ("logits", "attention", "scores", "slots"):
        assert getattr(output, name).dtype == torch.float32, name
    assert all(term.dtype == torch.float32 for term in [losses.total, *losses.terms.values()])
    for weights in output.attention.detach().split(SIZES):
        assert float(weights.sum()) == pytest.approx(1, abs=1e-6)
    # Logits and evidence are not rounded to bfloat16's three digits.
    assert not torch.equal(output.logits, output.logits.bfloat16().float())
    assert not torch.equal(output.slots, output.slots.bfloat16().float())
    losses.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    with torch.no_grad():
        torch.testing.assert_close(output.logits, network(batch).logits, atol=0.05, rtol=0.05)


# What teaches what


def test_the_loss_reaches_every_parameter() -> None:
    network = network_of().train()
    total = network.loss(network(BagBatch.of(BAGS)), targets_of(LABELS, TARGETS, [0, 1, 4])).total
    found = gradients(total, network)
    for name, parameter in network.named_parameters():
        assert found[name].shape == parameter.shape
        assert found[name].isfinite().all(), name
        assert found[name].abs().sum() > 0, name


def test_slide_and_rna_meet_in_the_memory_alone() -> None:
    network = moved()
    terms = network.loss(network(BagBatch.of(BAGS)), targets_of(LABELS, measured=[0, 1, 4])).terms
    assert reached(terms["task"], network) == SLIDE_SIDE | MEMORY | {"bias"}
    assert reached(terms["omics"], network) == RNA_SIDE | MEMORY
    assert reached(terms["distillation"], network) == SLIDE_SIDE | MEMORY  # the weights, through the attention
    assert SLIDE_SIDE | RNA_SIDE | MEMORY | {"bias"} == {name.split(".")[0] for name, _ in network.named_parameters()}


def test_it_matters_whose_rna_it_is() -> None:
    """RNA changes hands between two patients of one class, which no loss of the class alone can see."""
    network = moved()
    batch = BagBatch.of(BAGS)
    own = targets_of(LABELS, measured=[0, 1, 4])
    assert own.expression is not None
    swapped = replace(own, expression=own.expression[[2, 1, 0]])  # the first and the last bag are positive
    right, wrong = (network.loss(network(batch), taught) for taught in (own, swapped))
    a, b = right.values(), wrong.values()
    assert a["task"] == b["task"]
    assert a["omics"] == pytest.approx(b["omics"], abs=1e-6)
    assert abs(a["distillation"] - b["distillation"]) > 1e-3
    for side in ("embedding.0.weight", "tile_projection.weight", "gate.V.weight"):
        here, there = gradients(right.total, network)[side], gradients(wrong.total, network)[side]
        assert (here - there).norm() > 0.01 * here.norm(), side


def test_a_slide_that_finds_the_slots_of_its_rna_has_no_more_to_learn_of_it() -> None:
    network = moved()
    taught = targets_of([1, 0], measured=[0, 1])
    output = network(BagBatch.of(BAGS[:2]))
    z = network.evidence(network.omics_projection(taught.expression)).detach()
    slots = (z + 5).requires_grad_()  # the same for every slot: softmax sees no difference
    agreed = EvidenceMemoryOutput(output.logits, output.attention, output.scores, slots)
    term = network.loss(agreed, taught).terms["distillation"]
    assert float(term.detach()) == pytest.approx(0, abs=1e-6)
    (gradient,) = torch.autograd.grad(term, slots)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-6, rtol=0)


# Training and inference


def test_what_reading_needs_is_all_that_is_kept() -> None:
    network = moved()
    state = network.inference_state()
    assert network.state_dict().keys() - state.keys() == {
        "omics_projection.1.weight",
        "omics_projection.1.bias",
        "omics_bias",
    }
    again = EvidenceMemory.for_inference(network.config, state)
    batch = BagBatch.of(BAGS)
    assert torch.equal(again(batch).logits, network(batch).logits)
    assert torch.equal(again(batch).attention, network(batch).attention)
    assert not again.training
    del state["blend"]
    with pytest.raises(BundleError, match="missing: blend"):
        EvidenceMemory.for_inference(network.config, state)


def test_rna_does_not_meet_a_network_without_genes() -> None:
    blind = network_of(n_genes=0)
    assert not [name for name, _ in blind.named_parameters() if name.startswith("omics")]
    with pytest.raises(UsageError, match="histology alone"):
        blind.loss(blind(BagBatch.of(BAGS)), targets_of(LABELS, measured=[0]))


def test_a_memory_needs_two_slots_and_a_slide_that_shows() -> None:
    for wrong in ({"slots": 1}, {"background": 1.0}, {"sharpness_start": 0.0}):
        with pytest.raises(ValidationError):
            network_of(**wrong)


@pytest.mark.parametrize("slots", [2, 3, 8])
def test_the_slots_start_for_either_side(slots: int) -> None:
    network = network_of(slots=slots)
    assert float(network.slot_weights.detach().norm()) == pytest.approx(1)
    assert (network.slot_weights > 0).sum() == (slots + 1) // 2
    assert (network.slot_weights < 0).sum() == slots // 2
    assert network.epoch_figures() == pytest.approx({"sharpness": 1, "blend": 0.5})


def planted(count: int, seed: int, rna: bool = True) -> list[Patient]:
    """A quarter of a patient's tiles, and of two patients in three RNA, are shifted up or down with the label."""
    draw = torch.Generator().manual_seed(seed)
    patients = []
    for i in range(count):
        tiles = int(torch.randint(4, 24, (1,), generator=draw))
        plain = bag(tiles, seed=1000 * seed + i)
        features = plain.features.clone()
        features[: max(1, tiles // 4), 0] += 4 if i % 2 else -4
        genes = torch.randn(GENES, generator=draw) + i % 2
        one = replace(plain, features=features)
        patients.append(Patient(f"p{seed}-{i}", i % 2, [one], genes if rna and i % 3 else None))
    return patients


@pytest.mark.parametrize("genes", [0, GENES])
def test_a_planted_signal_is_learnt_and_the_same_seed_learns_the_same(genes: int) -> None:
    train, validation, test = planted(40, 1, genes > 0), planted(12, 2), planted(40, 3)
    settings = FitSettings(epochs=12, learning_rate=3e-3, bags_per_step=4)
    network = network_of(n_genes=genes)
    done = fit(network, train, validation, settings)
    assert validate(network, test).auc > 0.9
    assert done.history[-1].losses.keys() == {"task", "total"} | ({"omics", "distillation"} if genes else set())
    figures = done.history[-1].figures
    assert abs(figures["sharpness"] - 1) > 0.01
    assert abs(figures["blend"] - 0.5) > 0.001
    again = network_of(n_genes=genes)
    assert fit(again, train, validation, settings).history == done.history
    assert patient_scores(again, test) == patient_scores(network, test)


def test_gradients_of_a_large_slide_are_the_same_twice_on_several_threads() -> None:
    tiles = 300_000
    network = network_of(in_features=1, hidden=2, attention=1, shared=2, n_genes=0)
    with torch.no_grad():
        network.embedding[0].bias.fill_(1)
    x = torch.randn(tiles, 1, generator=torch.Generator().manual_seed(0))
    ring = torch.stack([torch.arange(tiles), torch.arange(tiles).roll(1)])
    batch = BagBatch(x, ring, (tiles,))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        network.eval()
        first, second, third = (gradients(network(batch).slots[0, 0], network) for _ in range(3))
    finally:
        torch.set_num_threads(threads)
    for name, gradient in first.items():
        assert torch.equal(gradient, second[name]), name
        assert torch.equal(gradient, third[name]), name
