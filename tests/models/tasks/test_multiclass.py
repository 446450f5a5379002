"""The multi-class task: with two classes the binary task to the bit, with three the formulas by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional
from wsipipe.data.cohort.splits import Strata, make_splits
from wsipipe.data.errors import CohortError, UsageError
from wsipipe.models.mil.abmil import ABMIL, ABMILConfig
from wsipipe.models.mil.bag_tensors import BagBatch, BagTensors, Patient
from wsipipe.models.mil.clam import CLAM, CLAMMB, CLAMConfig
from wsipipe.models.mil.feature_matching import FeatureMatching, FeatureMatchingConfig
from wsipipe.models.mil.losses import LossSettings, alignment, soft_angle
from wsipipe.models.mil.mean_pooling import MeanPooling, MeanPoolingConfig
from wsipipe.models.mil.memory import ClassMemory
from wsipipe.models.mil.momkd import MoMKD, MoMKDConfig
from wsipipe.models.mil.network import NetworkConfig, SlideNetwork
from wsipipe.models.mil.transmil import TransMIL, TransMILConfig
from wsipipe.models.tasks.binary import BINARY
from wsipipe.models.tasks.multiclass import MulticlassTask
from wsipipe.models.tasks.task import Task
from wsipipe.models.training.convex import solve
from wsipipe.models.training.fit import FitSettings, fit
from wsipipe.models.training.logistic import fit_mean

TWO = MulticlassTask(("negative", "positive"))
THREE = MulticlassTask(("a", "b", "c"))
SIZES = {"in_features": 6, "hidden": 8}
OF_RNA = {"n_genes": 5, "shared": 4, "omics_hidden": 8, "omics_embedding": 8, "head_hidden": 8}


def patients(task: Task, number: int = 12, rna: bool = True) -> list[Patient]:
    torch.manual_seed(0)
    made = []
    for n in range(number):
        y = n % len(task.classes)
        x = torch.randn(5, 6) + y
        edges = torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]], dtype=torch.int32)
        g = torch.randn(5) + y
        made.append(Patient(f"P{n}", y, [BagTensors(f"S{n}", x, edges)], g if rna else None, task=task))
    return made


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (MoMKD, MoMKDConfig.model_validate({**SIZES, **OF_RNA, "slots": 2})),
        (MoMKD, MoMKDConfig.model_validate({**SIZES, **OF_RNA, "slots": 2, "memory": "momentum"})),
        (FeatureMatching, FeatureMatchingConfig.model_validate({**SIZES, **OF_RNA})),
        (ABMIL, ABMILConfig.model_validate(SIZES)),
        (CLAM, CLAMConfig.model_validate({**SIZES, "attended": 2})),
        (TransMIL, TransMILConfig.model_validate(SIZES)),
        (MeanPooling, MeanPoolingConfig(in_features=6)),
    ],
)
def test_two_classes_are_the_binary_task_to_the_bit(kind: type[SlideNetwork], config: NetworkConfig) -> None:
    fits = []
    for task in (BINARY, TWO):
        torch.manual_seed(1)
        network = kind(config, task)
        run = fit_mean if isinstance(network, MeanPooling) else fit
        known = patients(task, rna=config.n_genes > 0)
        fits.append(run(network, known, known, FitSettings(epochs=3, bags_per_step=2)))  # type: ignore[arg-type]
    one, other = fits
    assert [epoch.losses for epoch in one.history] == [epoch.losses for epoch in other.history]
    assert [epoch.gain for epoch in one.history] == pytest.approx([epoch.gain for epoch in other.history], abs=1e-12)
    assert [epoch.validation_loss for epoch in one.history] == [epoch.validation_loss for epoch in other.history]
    assert one.state.keys() == other.state.keys()
    for name, tensor in one.state.items():
        assert torch.equal(tensor, other.state[name]), name


def test_two_classes_give_the_binary_probability_to_the_bit() -> None:
    logits = torch.tensor([[0.3, -1.7], [0.1, 0.2]], dtype=torch.float64)
    by_fold = [tuple(row) for row in TWO.score(logits).tolist()]
    binary = BINARY.answer(BINARY.score(logits).tolist(), [0.5, 0.5])
    found = TWO.answer(by_fold, [0.0, 0.0])
    assert found.shares[1] == binary.probability
    assert found.call == int(binary.probability >= 0.5)


def test_three_classes_by_hand() -> None:
    logits = torch.tensor([[1.0, 2.0, 6.0]], dtype=torch.float64)
    assert THREE.score(logits).tolist() == [[-3.0, -1.5, 4.5]]
    shares = THREE.shares(THREE.score(logits).numpy())
    assert shares == pytest.approx(functional.softmax(logits, dim=1).numpy(), abs=1e-12)
    loss = THREE.loss(logits, torch.tensor([1.0]))
    assert float(loss) == pytest.approx(float(-functional.log_softmax(logits, dim=1)[0, 1]))
    answer = THREE.answer([(-3.0, -1.5, 4.5), (3.0, 1.5, -4.5)], [0, 0])
    assert answer.shares == pytest.approx([1 / 3] * 3)
    assert answer.call == 0
    with pytest.raises(UsageError):
        THREE.value("P", 3, None)
    with pytest.raises(UsageError):
        THREE.value("P", 1.0, None)
    with pytest.raises(CohortError, match="no patient of class c"):
        THREE.sampling_groups([0, 1, 1])


def test_alignment_and_attention_of_three_classes_by_hand() -> None:
    torch.manual_seed(0)
    C = functional.normalize(torch.randn(3, 4, 5, dtype=torch.float64), dim=-1)
    f = functional.normalize(torch.randn(2, 5, dtype=torch.float64), dim=-1)
    settings = LossSettings()
    near = soft_angle(f, C, settings.alignment_tau)
    labels = [2, 0]
    found = alignment(f, C, functional.one_hot(torch.tensor(labels), 3).double(), settings)
    for i, y in enumerate(labels):
        terms = [
            functional.softplus(settings.alignment_beta * (settings.margin - (near[y, i] - near[c, i])))
            for c in range(3)
            if c != y
        ]
        assert float(found[i]) == pytest.approx(float(sum(terms)) / 2)
    memory = ClassMemory(4, 5, "gradient", 0.99, classes=3)
    p = functional.normalize(torch.randn(6, 5), dim=-1)
    best = (p @ memory.directions().transpose(1, 2)).amax(dim=2)
    assert torch.equal(memory.scores(p), torch.maximum(best[1], best[2]) - best[0])


@torch.no_grad()
def test_clam_of_several_branches_pools_by_each() -> None:
    torch.manual_seed(0)
    network = CLAMMB(CLAMConfig.model_validate({**SIZES, "attended": 2}), THREE).eval()
    bags = BagBatch.of([patient.bags[0] for patient in patients(THREE)[:2]])
    output = network(bags)
    h = network.embedding(bags.x)
    for b, tiles in enumerate((slice(0, 5), slice(5, 10))):
        for c, e in enumerate(network.attention.branches(h)):
            a = e[tiles].softmax(dim=0)
            logit = network.head.weight[c] @ (a @ h[tiles]) + network.head.bias[c]
            assert float(output.logits[b, c]) == pytest.approx(float(logit), abs=1e-5)
            assert torch.allclose(output.by_class[c, tiles], a)


def test_the_linear_model_is_softmax_regression() -> None:
    draw = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = draw.normal(size=(60, 4)) + np.eye(4)[y]
    found = solve(THREE, torch.tensor(x), torch.tensor(y), torch.ones(60, dtype=torch.float64), 0.5, np.zeros((3, 5)))
    model = LogisticRegression(C=0.5, max_iter=10_000, tol=1e-10).fit(x, y)
    shares = functional.softmax(torch.tensor(x @ found[:, :-1].T + found[:, -1]), dim=1).numpy()
    assert shares == pytest.approx(model.predict_proba(x), abs=1e-5)


def test_splits_of_three_classes_and_too_rare_ones() -> None:
    labels = {f"P{n:02d}": n % 3 for n in range(24)}
    splits = make_splits(labels, 4, 0, strata=THREE.strata_of_split(labels))
    for fold in range(4):
        for role in ("train", "validation", "test"):
            assert {labels[p] for p in splits.patients(fold, role)} == {0, 1, 2}  # type: ignore[arg-type]
    rare = {patient: label for n, (patient, label) in enumerate(labels.items()) if label != 2 or n < 6}
    with pytest.raises(CohortError, match="too few patients for 4 folds with all of these: 2 c, 8 b, 8 a"):
        make_splits(rare, 4, 0, strata=Strata({p: int(y) for p, y in rare.items()}, ("a", "b", "c")))
