"""Several targets that one network learns: what a missing label does, what is drawn, and what one target gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.special import expit
from wsipipe.data.cohort.outcomes import Label, Survival, TargetLabels, label_of
from wsipipe.data.cohort.target_splits import TargetStrata, split_patients
from wsipipe.data.errors import BundleError, CohortError, UsageError
from wsipipe.models.mil.abmil import ABMIL, ABMILConfig
from wsipipe.models.mil.bag_tensors import BagBatch, BagTensors, Patient
from wsipipe.models.mil.network import Targets
from wsipipe.models.model_question import Question
from wsipipe.models.tasks.binary import BINARY, BinaryTask
from wsipipe.models.tasks.multiclass import MulticlassTask
from wsipipe.models.tasks.multitask import MultiTask
from wsipipe.models.tasks.ordinal import OrdinalTask
from wsipipe.models.tasks.prediction import PatientPrediction, log_odds
from wsipipe.models.tasks.regression import RegressionTask
from wsipipe.models.tasks.survival import SurvivalTask
from wsipipe.models.tasks.target_figures import mean_figures, target_metrics
from wsipipe.models.tasks.task import Task
from wsipipe.models.training.fit import FitSettings, fit
from wsipipe.models.training.methods import METHODS

D = 6


def of(*labels: float | Survival | None) -> TargetLabels:
    return TargetLabels(labels)


def every_task() -> MultiTask:
    return MultiTask(
        {
            "er": BinaryTask(),
            "subtype": MulticlassTask(("a", "b", "c")),
            "grade": OrdinalTask(("1", "2", "3")),
            "score": RegressionTask(),
            "time": SurvivalTask(),
        }
    )


def cohort(task: MultiTask, labels: Sequence[TargetLabels], seed: int = 0) -> list[Patient]:
    """A patient a label, with one slide of three tiles."""
    draw = torch.Generator().manual_seed(seed)
    edges = torch.tensor([[0, 1, 2], [1, 2, 0]], dtype=torch.int32)
    return [
        Patient(f"P{n}", label, [BagTensors(f"S{n}", torch.randn(3, D, generator=draw), edges)], task=task)
        for n, label in enumerate(labels)
    ]


def test_a_missing_label_gives_no_gradient_whatever_the_task() -> None:
    task = every_task()
    known: dict[str, Label] = {"er": 1, "subtype": 2, "grade": 1, "score": 0.5, "time": Survival(1.5, True)}
    starts = np.cumsum([0, *(own.outputs for own in task.targets.values())])
    for place, name in enumerate(task.targets):
        logits = torch.randn(1, task.outputs, requires_grad=True)
        label = TargetLabels(known[one] if one == name else None for one in task.targets)
        task.loss(logits, torch.tensor([task.value("P", label, None)])).backward()
        assert logits.grad is not None
        own = torch.zeros(task.outputs, dtype=torch.bool)
        own[starts[place] : starts[place + 1]] = True
        assert (logits.grad[0, ~own] == 0).all(), name
        assert (logits.grad[0, own] != 0).any(), name


def test_a_missing_label_moves_no_weight_of_the_target_s_head() -> None:
    task = MultiTask({"er": BINARY, "pr": BINARY})
    network = ABMIL(ABMILConfig(in_features=D, hidden=8, attention=4), task)
    before = network.head.weight.detach().clone()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    patients = cohort(task, [of(1, None), of(0, None)])
    batch = BagBatch.of([patient.bags[0] for patient in patients])
    network.loss(network(batch), Targets.of(patients)).total.backward()
    optimiser.step()
    assert torch.equal(network.head.weight[2:], before[2:])
    assert not torch.equal(network.head.weight[:2], before[:2])


def test_the_loss_is_the_mean_over_the_known_targets() -> None:
    task = every_task()
    logits = torch.randn(2, task.outputs, dtype=torch.float64)
    labels = [of(1, 2, None, None, None), of(0, None, None, 0.5, None)]
    values = torch.tensor([task.value("P", label, None) for label in labels], dtype=torch.float64)
    er = BINARY.losses(logits[:, :2], torch.tensor([1.0, 0.0], dtype=torch.float64))
    subtype = task.targets["subtype"].losses(logits[:1, 2:5], torch.tensor([2.0], dtype=torch.float64))
    score = task.targets["score"].losses(logits[1:, 7:8], torch.tensor([0.5], dtype=torch.float64))
    wanted = torch.stack([(er[0] + subtype[0]) / 2, (er[1] + score[0]) / 2])
    torch.testing.assert_close(task.losses(logits, values), wanted)


SKEWED = [of(1, 1)] * 3 + [of(1, 0)] * 2 + [of(0, 0)] * 20 + [of(0, 1)] * 2 + [of(None, 1)] * 7 + [of(1, None)] * 5


def test_each_target_is_learned_as_by_itself_whoever_is_drawn_for_another() -> None:
    """The expected loss of a step, over everything that may be drawn, is the mean of the targets' own."""
    task = MultiTask({"er": BINARY, "pr": BINARY, "score": RegressionTask()}).fitted(
        [TargetLabels((*label, None if n % 3 else float(n))) for n, label in enumerate(SKEWED)]
    )
    labels = [TargetLabels((*label, None if n % 3 else float(n))) for n, label in enumerate(SKEWED)]
    logits = torch.randn(len(labels), task.outputs, dtype=torch.float64)
    values = torch.tensor([task.value("P", label, None) for label in labels], dtype=torch.float64)
    losses = task.losses(logits, values)
    groups = task.sampling_groups(labels)
    drawn = sum(losses[group].mean() for group in groups) / len(groups)

    def alone(name: str, own: slice) -> torch.Tensor:
        target = task.targets[name]
        places = [n for n, label in enumerate(labels) if task.label_of(name, label) is not None]
        known = [task.label_of(name, labels[n]) for n in places]
        wanted = torch.tensor([target.value("P", label, None) for label in known if label is not None])
        of_target = target.losses(logits[places, own], wanted.double())
        parts = target.sampling_groups([label for label in known if label is not None])
        return torch.stack([of_target[part].mean() for part in parts]).mean()

    torch.testing.assert_close(
        drawn, (alone("er", slice(0, 2)) + alone("pr", slice(2, 4)) + alone("score", slice(4, 5))) / 3
    )


def test_probabilities_are_calibrated_at_each_target_s_prevalence() -> None:
    """Simulated: two correlated targets of 10 % and 70 %, one of which half of the patients miss.

    The best linear logits under the sampling are found by descent on all that may be drawn; with the prevalence put
    back their mean is the prevalence, and the Brier score that of the true probabilities.
    """
    draw = np.random.default_rng(0)
    n = 6000
    x = draw.normal(size=(n, 2))
    truth = [expit(log_odds(0.1) - 0.55 + 1.5 * x[:, 0]), expit(log_odds(0.7) + 0.25 + 1.2 * x[:, 0] + x[:, 1])]
    y = [draw.random(n) < p for p in truth]
    missing = draw.random(n) < 0.5
    labels = [of(int(a), None if gone else int(b)) for a, b, gone in zip(*y, missing, strict=True)]
    task = MultiTask({"rare": BINARY, "common": BINARY}).fitted(labels)
    values = torch.tensor([task.value("P", label, None) for label in labels], dtype=torch.float64)
    chances = torch.zeros(n, dtype=torch.float64)
    groups = task.sampling_groups(labels)
    for group in groups:
        chances[group] += 1 / len(groups) / len(group)
    features = torch.tensor(np.c_[x, np.ones(n)])
    weights = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        optimiser.zero_grad()
        loss = (chances * task.losses(features @ weights, values)).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(step)
    scores = task.score((features @ weights).detach())
    for place, name in enumerate(task.targets):
        known = np.array([label[place] is not None for label in labels])
        prevalence = BINARY.prevalence([label[place] for label in labels if label[place] is not None])
        assert prevalence is not None
        p = expit(scores[:, place].numpy() + log_odds(prevalence))[known]
        of_known = y[place][known]
        assert p.mean() == pytest.approx(prevalence, abs=0.005), name
        brier, best = np.mean((p - of_known) ** 2), np.mean((truth[place][known] - of_known) ** 2)
        assert brier == pytest.approx(best, rel=0.01), name


@pytest.mark.parametrize("method", ["abmil", "transmil", "clam-sb", "clam-mb", "mean"])
@pytest.mark.parametrize("bags_per_step", [1, 3])
def test_one_target_is_a_model_of_that_target_to_the_bit(method: str, bags_per_step: int) -> None:
    labels = [n % 3 // 2 for n in range(12)]
    of_one = MultiTask({"er": BINARY}).fitted([of(label) for label in labels])
    tasks: list[Task] = [BINARY, of_one]
    states, histories = [], []
    for task in tasks:
        own: list[Patient] = [
            Patient(p.patient_id, label if task is BINARY else of(label), p.bags, task=task)
            for p, label in zip(cohort(of_one, [of(label) for label in labels]), labels, strict=True)
        ]
        torch.manual_seed(5)
        chosen = METHODS[method]
        kind = chosen.network_for(task)
        sizes = {"hidden": 16} if "hidden" in kind.Config.model_fields else {}
        network = kind(kind.Config.model_validate({"in_features": D, **sizes}), task)
        settings = FitSettings(epochs=3, bags_per_step=bags_per_step, learning_rate=0.01)
        histories.append(chosen.fit(network, own[:8], own[8:], settings).history)
        states.append(list(network.state_dict().values()))
    assert histories[0] == histories[1]
    for one, other in zip(*states, strict=True):
        assert torch.equal(one, other)


def test_soft_targets_stand_in_for_known_labels_alone() -> None:
    task = MultiTask({"er": BINARY, "pr": BINARY})
    assert task.value("P", of(1, None), (0.25, None)) == (1.0, 0.25, 0.0, 0.0)
    assert task.value("P", of(1, 0), (None, 0.75)) == (0.5, 1.0, 0.5, 0.75)
    assert task.value("P", of(None, 0), (0.9, 0.75)) == (0.0, 0.0, 1.0, 0.75)
    with pytest.raises(UsageError, match="a soft target is a probability"):
        task.value("P", of(1, None), (1.5, None))


def test_a_patient_without_slides_or_labels_of_the_validation() -> None:
    task = MultiTask({"er": BINARY, "pr": BINARY}).fitted(SKEWED)
    with pytest.raises(UsageError, match="no target has a label"):
        Patient("P", of(None, None), [], task=task)
    with pytest.raises(UsageError, match="not 2"):
        Patient("P", of(2, None), [], task=task)
    with pytest.raises(UsageError, match="of the targets er, pr"):
        Patient("P", of(1), [], task=task)


def test_early_stopping_is_by_the_mean_of_the_targets() -> None:
    task = MultiTask({"er": BINARY, "pr": BINARY})
    judged = task.validate([of(1, 0), of(0, None), of(None, 1)], [(1.0, 2.0), (0.0, 0.0), (0.0, 1.0)], [None] * 3)
    assert judged.score == pytest.approx((1.0 + 0.0) / 2)
    patients = cohort(task.fitted(SKEWED), SKEWED)
    network = ABMIL(ABMILConfig(in_features=D, hidden=8, attention=4), patients[0].task)
    done = fit(network, patients, patients, FitSettings(epochs=2, bags_per_step=4))
    assert all(epoch.validation_auc is not None for epoch in done.history)


def test_a_target_without_a_class_is_refused_by_its_name() -> None:
    task = MultiTask({"er": BINARY, "pr": BINARY})
    with pytest.raises(CohortError, match=r"pr: the training part of this fold has patients of one class only"):
        task.fitted([of(0, 1), of(1, 1)])


def test_labels_are_written_and_read() -> None:
    for label in (of(1, None, 0.5), of(None, 2, None), of(0, 1, 31.0)):
        assert label_of(str(label), (2, 3, 0)) == label
    follow_up = of(Survival(31.5, True), 1)
    assert label_of(str(follow_up), (0, 2)) == follow_up
    for damaged in ("? / ?", "1", "1 / 2 / 3", "3 / ?", "1 / x", "1.5 / 1", ""):
        assert label_of(damaged, (2, 2)) is None


def three_targets(n: int, seed: int) -> dict[str, Label]:
    draw = np.random.default_rng(seed)
    shares = (0.5, 0.3, 0.12)
    every = [of(*(None if draw.random() < 0.3 else int(draw.random() < y) for y in shares)) for _ in range(n)]
    return {f"P{i:03d}": label for i, label in enumerate(every) if any(own is not None for own in label)}


def test_folds_hold_every_class_of_every_target() -> None:
    task = MultiTask({"er": BINARY, "pr": BINARY, "her2": BINARY})
    for seed in range(5):
        labels = {
            p: TargetLabels(label[:3]) for p, label in three_targets(150, seed).items() if isinstance(label, tuple)
        }
        labels = {p: label for p, label in labels.items() if any(own is not None for own in label)}
        splits = split_patients(labels, 5, seed, 0.2, None, task.strata_of_split(labels))
        mixed = dict(sorted(labels.items(), reverse=True))
        assert split_patients(mixed, 5, seed, 0.2, None, task.strata_of_split(mixed)) == splits
        for name in task.targets:
            for y in (0, 1):
                everyone = {p for p, label in task.known(name, labels).items() if label == y}
                tested = [len(everyone & set(splits.patients(fold, "test"))) for fold in range(5)]
                validated = [len(everyone & set(splits.patients(fold, "validation"))) for fold in range(5)]
                assert max(tested) - min(tested) <= 3, (name, y, tested)
                assert min(validated) >= 1
                assert max(validated) <= 0.2 * 0.8 * len(everyone) + 4, (name, y, validated)
        assert {splits.test_fold(p) for p in labels} == set(range(5))


def test_one_target_is_split_as_a_question_of_its_own() -> None:
    binary = {f"P{i}": i % 3 // 2 for i in range(40)}
    as_target: dict[str, Label] = {p: of(y) for p, y in binary.items()}
    task = MultiTask({"er": BINARY})
    own = split_patients(binary, 4, 1, 0.2, None, BINARY.strata_of_split(binary))
    assert split_patients(as_target, 4, 1, 0.2, None, task.strata_of_split(as_target)).roles == own.roles


def test_a_class_that_does_not_suffice_is_named() -> None:
    labels: dict[str, Label] = {f"P{i}": of(i % 2, int(i == 0)) for i in range(20)}
    task = MultiTask({"er": BINARY, "her2": BINARY})
    with pytest.raises(CohortError, match="1 her2 positive"):
        split_patients(labels, 2, 0, 0.2, None, task.strata_of_split(labels))
    labels["P1"] = of(1, 1)
    with pytest.raises(CohortError, match="fold 0 has no validation patient that is her2 positive"):
        split_patients(labels, 2, 0, 0.2, None, task.strata_of_split(labels))


def test_sites_stay_together() -> None:
    task = MultiTask({"er": BINARY, "pr": BINARY})
    labels: dict[str, Label] = {f"P{i:02d}": of(i % 2, None if i % 5 == 0 else i // 2 % 2) for i in range(60)}
    sites = {patient: f"site {i % 12}" for i, patient in enumerate(labels)}
    strata = task.strata_of_split(labels)
    assert isinstance(strata, TargetStrata)
    splits = split_patients(labels, 3, 0, 0.2, sites, strata)
    assert all(len({splits.test_fold(p) for p in labels if sites[p] == site}) == 1 for site in sites.values())


def rows(labels: Sequence[int], probabilities: Sequence[float], first: int = 0) -> list[PatientPrediction]:
    return [
        PatientPrediction(
            patient_id=f"P{n + first}",
            label=y,
            probability=p,
            logit=p,
            threshold=0.5,
            call=int(p > 0.5),
            slides=1,
            folds=(0,),
        )
        for n, (y, p) in enumerate(zip(labels, probabilities, strict=True))
    ]


def test_the_mean_of_the_targets_figures() -> None:
    task = MultiTask({"er": BINARY, "pr": BINARY})
    of_targets = {"er": rows([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.8]), "pr": rows([0, 1, 1], [0.6, 0.5, 0.7], first=2)}
    patients = [f"P{n}" for n in range(5)]
    found = mean_figures(task, of_targets, patients)(np.ones((1, 5)))[task.measure]
    assert found[0] == pytest.approx((1.0 + 0.5) / 2)
    own = {name: BINARY.figures(of_target, rounds=0, seed=0) for name, of_target in of_targets.items()}
    pooled = target_metrics(task, of_targets, own, rounds=50, seed=0)
    assert pooled.main.value == pytest.approx(0.75)
    assert pooled.figures["AUC of er"].value == 1.0
    assert pooled.counts == {"with er": 4, "with pr": 3}
    assert pooled.chance[task.measure] == 0.5


def test_a_mean_of_correlations_is_no_share_of_pairs() -> None:
    """Spearman's ρ may be below 0, and 1 less of it is no lower limit."""
    numbers = RegressionTask()
    draw = np.random.default_rng(0)
    y = draw.normal(0, 1, 30)
    of_targets = {}
    for name, sign in (("ki67", -1), ("tils", -2)):
        predicted = sign * y + draw.normal(0, 1, 30)
        of_targets[name] = [
            replace(row, label=float(label), probability=float(value), logit=float(value))
            for row, label, value in zip(rows([0] * 30, [0.1] * 30), y, predicted, strict=True)
        ]
    task = MultiTask({"ki67": numbers, "tils": numbers})
    own = {name: numbers.figures(of_target, rounds=200, seed=0) for name, of_target in of_targets.items()}
    mean = target_metrics(task, of_targets, own, rounds=200, seed=0).main
    assert mean.value is not None
    assert mean.low is not None
    assert mean.high is not None
    assert mean.low < mean.value < mean.high < 0


OF_ONE = {"label_column": "er", "positive": ["positive"], "negative": ["negative"]}
OF_TWO = {**OF_ONE, "name": "both", "task": "multitask"}


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"targets": ["er", "pr"], "of_targets": {"er": OF_ONE}}, "the targets are"),
        ({"targets": ["../er"], "of_targets": {"../er": OF_ONE}}, "'../er' cannot be a target's name"),
        ({"targets": ["er", "ER"], "of_targets": {"er": OF_ONE, "ER": OF_ONE}}, "target er is there twice"),
        ({"targets": [], "of_targets": {}}, "task multitask needs targets"),
        (
            {"targets": ["a"], "of_targets": {"a": {**OF_ONE, "task": "multitask", "targets": ["er"]}}},
            "a target has targets itself",
        ),
    ],
)
def test_a_bundle_whose_targets_cannot_be_is_refused(changed: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Question.model_validate(OF_TWO | changed)
    assert what in str(refused.value)


def test_a_question_of_targets_keeps_their_order_and_their_states() -> None:
    number = {**OF_ONE, "label_column": "score", "task": "regression"}
    question = Question.model_validate({**OF_TWO, "targets": ["z", "a"], "of_targets": {"a": OF_ONE, "z": number}})
    task = question.asked({"a": {}, "z": {"centre": 5.0, "scale": 2.0}})
    assert isinstance(task, MultiTask)
    assert list(task.targets) == ["z", "a"]
    assert task.state() == {"z": {"centre": 5.0, "scale": 2.0}, "a": {}}
    assert question.of_target("z").task == "regression"
    for damaged in ({"a": {}}, {"a": {}, "z": []}, {"a": {}, "z": {"centre": 5.0, "scale": 0.0}}):
        with pytest.raises(BundleError):
            question.asked(damaged)
