"""The binary task by hand, and that networks and the fit ask the task they are given."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from wsipipe.data.errors import CohortError, UsageError
from wsipipe.models.mil.abmil import ABMIL, ABMILConfig
from wsipipe.models.mil.bag_tensors import BagTensors, Patient
from wsipipe.models.mil.network import SlideNetwork
from wsipipe.models.mil.transmil import TransMIL, TransMILConfig
from wsipipe.models.tasks.binary import BINARY, BinaryTask
from wsipipe.models.tasks.task import TASKS, find_task
from wsipipe.models.training.fit import FitSettings, fit, patient_scores


def test_every_task_of_the_table_is_there() -> None:
    for name in TASKS:
        assert find_task(name).name == name


def test_groups_are_the_classes_and_both_are_needed() -> None:
    assert BINARY.sampling_groups([1, 0, 1, 0]) == [[1, 3], [0, 2]]
    assert BINARY.strata({"a": 1, "b": 0}) == {"a": 1, "b": 0}
    with pytest.raises(CohortError, match="one class only"):
        BINARY.sampling_groups([1, 1])


def test_a_value_is_the_soft_target_or_the_label() -> None:
    assert BINARY.value("P", 1, None) == 1.0
    assert BINARY.value("P", 1, 0.25) == 0.25
    for label, target in ((2, None), (-1, None), (1, 1.5), (0, math.nan)):
        with pytest.raises(UsageError) as caught:
            BINARY.value("P7", label, target)
        assert caught.value.path == "P7"


def test_from_slides_to_a_call() -> None:
    scores = BINARY.score(torch.tensor([[1.0, 3.0], [0.5, -0.5]])).tolist()
    assert scores == [2.0, -1.0]
    joined = BINARY.join(scores)
    assert joined == 0.5
    assert BINARY.probability(joined) == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert BINARY.call(0.6, 0.6) == 1
    assert BINARY.call(0.59, 0.6) == 0


def test_the_order_of_a_patients_slides_does_not_matter() -> None:
    scores = [0.1, 1e16, 0.2, -1e16]
    assert BINARY.join(scores) == BINARY.join(scores[::-1]) == pytest.approx(0.075)


def test_early_stopping_maximises_ranks_then_the_auc_then_minus_the_loss() -> None:
    labels, scores = [0, 1, 0, 1, 0, 1], [-1.0, 1.0, -2.0, 2.0, -3.0, 3.0]
    ranked = BINARY.validate(labels, scores, [0.6, 0.5, 0.7, 0.4, 0.8, 0.3])
    assert ranked.score == ranked.rank_correlation == pytest.approx(-1)
    assert BINARY.validate(labels, scores, [None] * 6).score == 1.0
    one_class = BINARY.validate([1, 1], [0.0, 0.0], [None, None])
    assert one_class.auc is None
    assert one_class.score == pytest.approx(-math.log(2))


class ThreeOutputs(BinaryTask):
    """Positive is the third of three logits; the score is its distance to the mean of the others."""

    outputs = 3

    def loss(self, logits: Tensor, values: Tensor) -> Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(self.score(logits), values)

    def score(self, logits: Tensor) -> Tensor:
        return logits[..., 2] - logits[..., :2].mean(dim=-1)


@pytest.mark.parametrize("kind", [ABMIL, TransMIL])
def test_networks_and_the_fit_ask_the_task(kind: type[SlideNetwork]) -> None:
    config = ABMILConfig(in_features=4, hidden=8) if kind is ABMIL else TransMILConfig(in_features=4, hidden=8)
    torch.manual_seed(0)
    edges = torch.tensor([[0, 1, 2], [1, 2, 0]], dtype=torch.int32)
    patients = [
        Patient(f"P{i}", i % 2, [BagTensors(f"S{i}", torch.randn(3, 4) + 4 * (i % 2), edges)], task=ThreeOutputs())
        for i in range(8)
    ]
    network = kind(config, ThreeOutputs())
    assert network.state_dict()["head.weight"].shape[0] == 3
    fitted = fit(network, patients, patients, FitSettings(epochs=8, learning_rate=1e-2))
    assert fitted.history[fitted.best_epoch].validation_auc == 1.0
    assert patient_scores(network, patients).keys() == {patient.patient_id for patient in patients}
