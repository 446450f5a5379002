"""Mean pooling and logistic regression: what is fitted is scikit-learn's, and patients weigh what they should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from wsipipe.data.errors import CohortError
from wsipipe.models.mil.bag_tensors import BagBatch, BagTensors, Patient
from wsipipe.models.mil.mean_pooling import MeanPooling, MeanPoolingConfig
from wsipipe.models.training.fit import Epoch, Fit, FitSettings, patient_scores, validate
from wsipipe.models.training.logistic import PENALTIES, fit_mean

WIDTH = 6


def patients(count: int, seed: int, *, slides: int = 1, positive: float = 0.5, shift: float = 1.0) -> list[Patient]:
    """The label moves the mean of the first feature; other features have other scales."""
    draw = np.random.default_rng(seed)
    scales = 10.0 ** np.arange(-2, WIDTH - 2)
    made = []
    for i in range(count):
        label = int(i < positive * count)
        bags = []
        for s in range(slides):
            x = draw.normal(size=(draw.integers(1, 8), WIDTH)) + draw.normal(size=WIDTH)
            x[:, 0] += shift * (2 * label - 1)
            edges = torch.zeros(2, 1, dtype=torch.int32)
            bags.append(BagTensors(f"p{i}-{s}", torch.from_numpy((x * scales).astype(np.float32)), edges))
        made.append(Patient(f"p{i}", label, bags))
    return made


def fitted(train: list[Patient], validation: list[Patient]) -> tuple[MeanPooling, Fit]:
    network = MeanPooling(MeanPoolingConfig(in_features=WIDTH))
    return network, fit_mean(network, train, validation, FitSettings())


def means(of: list[Patient]) -> np.ndarray:
    return np.array([bag.features.double().mean(dim=0).numpy() for patient in of for bag in patient.bags])


TRAIN, VALIDATION, TEST = patients(60, 1), patients(20, 2), patients(40, 3)


def test_it_is_scikit_learn_s_balanced_logistic_regression() -> None:
    train = patients(60, 1, positive=0.25)
    network, done = fitted(train, VALIDATION)
    x, y = means(train), np.array([p.label for p in train])
    centre = (x[y == 0].mean(axis=0) + x[y == 1].mean(axis=0)) / 2
    scale = np.sqrt(sum(((x[y == label] - centre) ** 2).mean(axis=0) for label in (0, 1)) / 2)
    C = done.history[done.best_epoch].figures["C"]
    model = LogisticRegression(C=C, class_weight="balanced", max_iter=1000, tol=1e-8).fit((x - centre) / scale, y)
    found = list(patient_scores(network, TEST).values())
    np.testing.assert_allclose(found, model.decision_function((means(TEST) - centre) / scale), atol=2e-4)
    assert validate(network, TEST).auc > 0.8


def test_the_mean_of_the_scores_is_the_slide_s_log_odds() -> None:
    network, _ = fitted(TRAIN, VALIDATION)
    batch = BagBatch.of([p.bags[0] for p in TEST[:5]])
    output = network(batch)
    torch.testing.assert_close(
        batch.mean(output.scores), output.logits[:, 1] - output.logits[:, 0], atol=1e-4, rtol=1e-4
    )
    assert output.attention.tolist() == pytest.approx([1 / n for n in batch.sizes for _ in range(n)])


def test_a_certain_soft_target_is_a_label() -> None:
    plain, _ = fitted(TRAIN, VALIDATION)
    certain, _ = fitted([replace(p, target=float(p.label)) for p in TRAIN], VALIDATION)
    assert patient_scores(plain, TEST) == patient_scores(certain, TEST)


def test_a_soft_target_is_both_labels_in_their_shares() -> None:
    """Targets of 3/4 and 1/4 fit as three copies with the label and one against it do."""
    soft, done = fitted([replace(p, target=0.25 + 0.5 * p.label) for p in TRAIN], VALIDATION)
    x, y = means(TRAIN), np.array([p.label for p in TRAIN])
    centre, scale = x.mean(axis=0), x.std(axis=0)
    copies = np.repeat((x - centre) / scale, 4, axis=0)
    labels = np.stack([y, y, y, 1 - y], axis=1).ravel()
    C = done.history[done.best_epoch].figures["C"] / 4
    model = LogisticRegression(C=C, max_iter=1000, tol=1e-8).fit(copies, labels)
    found = list(patient_scores(soft, TEST).values())
    np.testing.assert_allclose(found, model.decision_function((means(TEST) - centre) / scale), atol=2e-4)


def test_many_slides_do_not_make_a_patient_weigh_more() -> None:
    once, _ = fitted(TRAIN, VALIDATION)
    thrice, _ = fitted([replace(p, bags=list(p.bags) * 3) if i % 2 else p for i, p in enumerate(TRAIN)], VALIDATION)
    assert patient_scores(thrice, TEST) == pytest.approx(patient_scores(once, TEST), abs=2e-4)


def test_the_validation_patients_choose_the_penalty() -> None:
    told: list[Epoch] = []
    network = MeanPooling(MeanPoolingConfig(in_features=WIDTH))
    done = fit_mean(network, TRAIN, VALIDATION, FitSettings(bags_per_step=7), tell=told.append)
    assert told == done.history
    assert [epoch.figures["C"] for epoch in done.history] == list(PENALTIES)
    assert [epoch.epoch for epoch in done.history] == list(range(len(PENALTIES)))
    losses = [epoch.losses["total"] for epoch in done.history]
    assert losses == sorted(losses, reverse=True)  # a weaker penalty fits the training slides better
    best = max(done.history, key=lambda epoch: (epoch.validation_auc, -epoch.validation_loss))
    assert done.best_epoch == best.epoch
    seen = validate(network, VALIDATION)
    assert seen.auc == best.validation_auc
    assert seen.loss == pytest.approx(best.validation_loss)
    assert all(torch.equal(value, done.state[name]) for name, value in network.state_dict().items())


def test_validation_of_one_class_chooses_by_the_loss() -> None:
    _, done = fitted(TRAIN, [p for p in VALIDATION if p.label])
    assert {epoch.validation_auc for epoch in done.history} == {None}
    assert done.best_epoch == int(np.argmin([epoch.validation_loss for epoch in done.history]))


def test_soft_targets_choose_by_the_rank_correlation() -> None:
    draw = np.random.default_rng(0)
    soft = [replace(p, target=float(draw.uniform())) for p in VALIDATION]
    _, done = fitted(TRAIN, soft)
    ranks = [epoch.validation_rank for epoch in done.history]
    assert None not in ranks
    assert ranks[done.best_epoch] == max(ranks)


def test_a_constant_feature_weighs_nothing() -> None:
    def constant(of: list[Patient]) -> list[Patient]:
        changed = []
        for patient in of:
            features = patient.bags[0].features.clone()
            features[:, 3] = 0.1
            changed.append(replace(patient, bags=[replace(patient.bags[0], features=features)]))
        return changed

    network, _ = fitted(constant(TRAIN), constant(VALIDATION))
    assert float(network.scale[3]) == 1
    assert network.head.weight[:, 3].abs().max() < 1e-5
    assert all(np.isfinite(logit) for logit in patient_scores(network, TEST).values())


def test_one_class_alone_is_refused() -> None:
    with pytest.raises(CohortError, match="one class only"):
        fitted([p for p in TRAIN if p.label], VALIDATION)
