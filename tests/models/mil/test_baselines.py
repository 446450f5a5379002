"""What every baseline network promises: bags of a batch do not mix, attention sums to one, RNA stays with training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from wsipipe.data.errors import BundleError
from wsipipe.models.mil.abmil import ABMIL
from wsipipe.models.mil.bag_tensors import BagBatch, BagTensors, Patient
from wsipipe.models.mil.clam import CLAM
from wsipipe.models.mil.feature_matching import FeatureMatching
from wsipipe.models.mil.mean_pooling import MeanPooling
from wsipipe.models.mil.mixed_precision import arithmetic
from wsipipe.models.mil.network import SlideNetwork, Targets
from wsipipe.models.mil.tile_graph import knn_edges
from wsipipe.models.mil.transmil import TransMIL
from wsipipe.models.training.fit import FitSettings, fit, patient_scores, validate

WIDTH, GENES = 12, 10
SMALL: dict[type[SlideNetwork], dict[str, object]] = {
    ABMIL: {"hidden": 16, "attention": 8},
    CLAM: {"hidden": 16, "attention": 8, "attended": 3},
    TransMIL: {"hidden": 16, "heads": 4},
    FeatureMatching: {
        "hidden": 16,
        "attention": 8,
        "shared": 6,
        "omics_hidden": 8,
        "omics_embedding": 7,
        "head_hidden": 5,
        "n_genes": GENES,
    },
    MeanPooling: {},
}
ALL = pytest.mark.parametrize("kind", SMALL, ids=lambda kind: kind.__name__)
BY_STEPS = pytest.mark.parametrize("kind", [kind for kind in SMALL if kind is not MeanPooling])


def network_of(kind: type[SlideNetwork], seed: int = 0, **changes: object) -> SlideNetwork:
    torch.manual_seed(seed)
    config = kind.Config.model_validate({"in_features": WIDTH, **SMALL[kind], **changes})
    network = kind(config)
    if isinstance(network, MeanPooling):
        network.centre.copy_(torch.randn(WIDTH))
        network.scale.copy_(torch.rand(WIDTH) + 0.5)
    return network


def bag(tiles: int, seed: int = 0, shift: float = 0.0) -> BagTensors:
    side = int(np.ceil(np.sqrt(tiles)))
    coords = np.array([(x, y) for y in range(side) for x in range(side)])[:tiles]
    features = torch.randn(tiles, WIDTH, generator=torch.Generator().manual_seed(seed)) + shift
    return BagTensors(f"s{seed}", features.half(), knn_edges(coords).int())


def targets_of(labels: Sequence[int], targets: Sequence[float] | None = None, measured: Sequence[int] = ()) -> Targets:
    expression = torch.randn(len(measured), GENES, generator=torch.Generator().manual_seed(9))
    return Targets(
        torch.tensor(labels),
        torch.tensor([float(y) for y in (labels if targets is None else targets)]),
        expression if measured else None,
        torch.tensor(measured) if measured else None,
    )


SIZES = (7, 1, 30, 2, 5)
BAGS = [bag(tiles, seed) for seed, tiles in enumerate(SIZES)]
ALL_TARGETS = targets_of([1, 0, 0, 1, 1], [0.8, 0.1, 0.0, 1.0, 0.5], measured=[0, 1, 4])


@ALL
def test_attention_sums_to_one_over_each_slide(kind: type[SlideNetwork]) -> None:
    for network in (network_of(kind).eval(), network_of(kind).train()):
        output = network(BagBatch.of(BAGS))
        assert output.logits.shape == (len(SIZES), 2)
        assert output.attention.shape == output.scores.shape == (sum(SIZES),)
        assert (output.attention >= 0).all()
        for weights in output.attention.split(SIZES):
            assert float(weights.detach().sum()) == pytest.approx(1, abs=1e-5)
        assert output.scores.isfinite().all()


@ALL
def test_several_slides_are_read_as_each_alone(kind: type[SlideNetwork]) -> None:
    network = network_of(kind).eval()
    together = network(BagBatch.of(BAGS))
    alone = [network(BagBatch.of([one])) for one in BAGS]
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(together.logits, torch.cat([one.logits for one in alone]), **close)
    torch.testing.assert_close(together.attention, torch.cat([one.attention for one in alone]), **close)
    torch.testing.assert_close(together.scores, torch.cat([one.scores for one in alone]), **close)


@ALL
def test_losses_are_means_over_the_slides(kind: type[SlideNetwork]) -> None:
    """Without RNA; with it, what is compared within a step depends on the step."""
    network = network_of(kind).eval()
    labels, targets = [1, 0, 0, 1, 1], [0.8, 0.1, 0.0, 1.0, 0.5]
    together = network.loss(network(BagBatch.of(BAGS)), targets_of(labels, targets))
    alone = [
        network.loss(network(BagBatch.of([one])), targets_of([y], [t])).values()
        for one, y, t in zip(BAGS, labels, targets, strict=True)
    ]
    assert together.values() == pytest.approx(
        {name: np.mean([losses[name] for losses in alone]) for name in alone[0]}, abs=1e-5
    )


@ALL
def test_the_order_of_tiles_matters_only_where_tiles_have_places(kind: type[SlideNetwork]) -> None:
    network = network_of(kind).eval()
    one = bag(20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    place = order.argsort()
    shuffled = replace(one, features=one.features[order], edges=place[one.edges.long()].int())
    plain, moved = network(BagBatch.of([one])), network(BagBatch.of([shuffled]))
    same = torch.allclose(plain.logits, moved.logits, atol=1e-5)
    assert same == (kind is not TransMIL)
    if same:
        torch.testing.assert_close(plain.attention[order], moved.attention, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(plain.scores[order], moved.scores, atol=1e-5, rtol=1e-5)


@ALL
def test_the_loss_reaches_every_parameter(kind: type[SlideNetwork]) -> None:
    network = network_of(kind).train()
    network.loss(network(BagBatch.of(BAGS)), ALL_TARGETS).total.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@ALL
@pytest.mark.parametrize("measured", [[], [0]])
def test_a_slide_of_one_tile_teaches(kind: type[SlideNetwork], measured: list[int]) -> None:
    network = network_of(kind).train()
    output = network(BagBatch.of([bag(1)]))
    assert output.attention.tolist() == pytest.approx([1])
    losses = network.loss(output, targets_of([1], measured=measured))
    losses.total.backward()
    assert all(np.isfinite(value) for value in losses.values().values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@ALL
def test_a_label_is_the_target_that_is_certain(kind: type[SlideNetwork]) -> None:
    network = network_of(kind).eval()
    batch = BagBatch.of(BAGS)
    log_p = network(batch).logits.detach().log_softmax(dim=1)
    hard = network.loss(network(batch), targets_of([1, 0, 0, 1, 1])).values()
    assert hard["task"] == pytest.approx(-float(log_p[range(5), [1, 0, 0, 1, 1]].mean()), abs=1e-6)
    soft = network.loss(network(batch), targets_of([1, 0, 0, 1, 1], [0.25] * 5)).values()
    assert soft["task"] == pytest.approx(-float((0.25 * log_p[:, 1] + 0.75 * log_p[:, 0]).mean()), abs=1e-6)


@ALL
def test_what_reading_needs_is_all_that_is_kept(kind: type[SlideNetwork]) -> None:
    network = network_of(kind).eval()
    state = network.inference_state()
    assert not [key for key in state if key.startswith(network.omics or ("\0",))]
    assert bool(network.omics) == (len(state) < len(network.state_dict()))
    again = kind.for_inference(network.config, state)
    batch = BagBatch.of(BAGS)
    assert torch.equal(again(batch).logits, network(batch).logits)
    assert not again.training
    incomplete = dict(state)
    lost = incomplete.popitem()[0]
    with pytest.raises(BundleError, match=lost):
        kind.for_inference(network.config, incomplete)


@ALL
def test_mixed_precision_reads_and_teaches(kind: type[SlideNetwork]) -> None:
    network = network_of(kind).train()
    batch = BagBatch.of(BAGS)
    with arithmetic(torch.device("cpu"), "bf16"):
        output = network(batch)
        losses = network.loss(output, ALL_TARGETS)
    losses.total.backward()
    assert losses.total.dtype == output.logits.dtype == output.attention.dtype == torch.float32
    for weights in output.attention.split(SIZES):
        assert float(weights.detach().sum()) == pytest.approx(1, abs=1e-5)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    plain = network.eval()(batch)
    with arithmetic(torch.device("cpu"), "bf16"):
        mixed = network(batch)
    torch.testing.assert_close(mixed.logits, plain.logits, atol=0.1, rtol=0.05)


# Learning


def planted(count: int, seed: int) -> list[Patient]:
    """Patients of whose tiles a quarter is shifted along one direction, up or down with the label."""
    draw = torch.Generator().manual_seed(seed)
    patients = []
    for i in range(count):
        tiles = int(torch.randint(4, 24, (1,), generator=draw))
        plain = bag(tiles, seed=1000 * seed + i)
        features = plain.features.clone()
        features[: max(1, tiles // 4), 0] += 4 if i % 2 else -4
        genes: Tensor | None = torch.randn(GENES, generator=draw) + i % 2 if i % 3 else None
        patients.append(Patient(f"p{seed}-{i}", i % 2, [replace(plain, features=features)], genes))
    return patients


@BY_STEPS
def test_a_planted_signal_is_learnt_and_the_same_seed_learns_the_same(kind: type[SlideNetwork]) -> None:
    train, validation, test = planted(40, 1), planted(12, 2), planted(40, 3)
    settings = FitSettings(epochs=12, learning_rate=3e-3, bags_per_step=4)
    network = network_of(kind)
    done = fit(network, train, validation, settings)
    assert validate(network, test).auc > 0.9
    again = network_of(kind)
    assert fit(again, train, validation, settings).history == done.history
    assert patient_scores(again, test) == patient_scores(network, test)
