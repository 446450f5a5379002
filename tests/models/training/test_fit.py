"""Fitting: it learns what is planted, and refuses what cannot be fitted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_fits import GENES, WIDTH, cohort, model_of, patient, same
from wsipipe.data.errors import CohortError, UsageError
from wsipipe.data.features.bag_file import BagFile
from wsipipe.models.mil.bag_tensors import BagBatch, Patient
from wsipipe.models.mil.mean_pooling import MeanPooling, MeanPoolingConfig
from wsipipe.models.mil.momkd import MoMKD, MoMKDConfig, MoMKDOutput
from wsipipe.models.training.fit import Epoch, Fit, FitSettings, _is_over, fit, patient_scores, validate
from wsipipe.models.training.methods import METHODS

# ----- learning -----


@pytest.mark.parametrize("genes", [GENES, 0], ids=["with RNA", "histology alone"])
def test_it_learns_what_is_planted(genes: int) -> None:
    model = model_of(n_genes=genes)
    train, validation, test = cohort(0, 16), cohort(100, 8), cohort(200, 12)
    if not genes:
        train = [Patient(p.patient_id, p.label, p.bags) for p in train]
    fitted = fit(model, train, validation, FitSettings(epochs=12, learning_rate=6e-3, bags_per_step=4))
    best = fitted.history[fitted.best_epoch]
    assert best.validation_auc == 1.0
    assert best.validation_loss < 0.5 < fitted.history[0].validation_loss
    logits = patient_scores(model, test)  # never seen in any way
    assert min(logits[p.patient_id] for p in test if p.label) > max(logits[p.patient_id] for p in test if not p.label)
    assert all(torch.equal(tensor, fitted.state[name]) for name, tensor in model.state_dict().items())
    assert ("omics" in best.losses and best.losses["omics"] > 0) == bool(genes)


def test_the_best_epoch_is_the_highest_auc_and_of_equals_the_lowest_loss() -> None:
    fitted = fit(model_of(), cohort(0, 8), cohort(100, 8), FitSettings(epochs=8, learning_rate=1e-3))
    ranks = [(epoch.validation_auc or 0, -epoch.validation_loss) for epoch in fitted.history]
    assert fitted.best_epoch == ranks.index(max(ranks))


@pytest.mark.parametrize(
    ("aucs", "over", "best"),
    [
        ([0.7, 0.6], False, 0),  # not before the third epoch
        ([0.7, 0.6, 0.65], True, 0),
        ([0.7, 0.7, 0.7, 0.7], False, 3),  # an equal AUC is a gain, and the later epoch is kept
        ([0.5, 0.6, 0.7, 0.69], True, 2),
        ([0.5, 0.6, 0.7], False, 2),
    ],
)
def test_the_official_preset_stops_as_the_public_script(aucs: list[float], over: bool, best: int) -> None:
    official = FitSettings(patience=1, equal_is_gain=True, least_epochs=3)
    done, model = Fit(), model_of()
    for number, auc in enumerate(aucs):
        loss = 0.5 + number  # rises, which breaks ties the other way elsewhere
        done.add(Epoch(number, {}, auc, loss, None, 1e-3, {}), model, equal_is_gain=official.equal_is_gain)
    assert (_is_over(done, official), done.best_epoch) == (over, best)
    plain = Fit()
    for number, auc in enumerate(aucs):
        plain.add(Epoch(number, {}, auc, 0.5 + number, None, 1e-3, {}), model)
    assert plain.best_epoch == aucs.index(max(aucs)), "others keep the first of equals, by its loss"


def test_it_stops_when_nothing_is_gained_and_lowers_its_steps_before() -> None:
    fitted = fit(model_of(), cohort(0, 8), cohort(100, 4), FitSettings(epochs=100, patience=9, learning_rate=2e-3))
    aucs = [epoch.validation_auc for epoch in fitted.history]
    assert len(aucs) == aucs.index(max(aucs)) + 1 + 9 < 100
    rates = [epoch.learning_rate for epoch in fitted.history]
    assert rates[0] == 2e-3
    assert rates[-1] == pytest.approx(4e-4)  # a fifth, after five epochs without gain


def test_validation_patients_of_one_class_stop_it_by_their_loss() -> None:
    validation = [p for p in cohort(100, 12) if not p.label]
    patience = 2
    fitted = fit(model_of(), cohort(0, 8), validation, FitSettings(epochs=20, patience=patience, learning_rate=1e-3))
    losses = [epoch.validation_loss for epoch in fitted.history]
    assert {epoch.validation_auc for epoch in fitted.history} == {None}
    assert np.isfinite(losses).all()
    assert fitted.best_epoch == losses.index(min(losses)) > patience  # it went on while the loss fell
    assert len(losses) == min(20, fitted.best_epoch + 1 + patience)


def test_a_loss_that_stalls_lowers_the_steps_though_it_is_no_auc() -> None:
    model = model_of()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("omics_decoder."))  # which no slide is read with
    positive = [p for p in cohort(100, 4) if p.label]
    train = [patient(number, number % 2) for number in range(6)]
    fitted = fit(model, train, positive, FitSettings(epochs=8, patience=8, learning_rate=1e-3))
    assert len({epoch.validation_loss for epoch in fitted.history}) == 1
    rates = [epoch.learning_rate for epoch in fitted.history]
    assert rates == pytest.approx([1e-3] * 7 + [2e-4])  # the first epoch and six that did not gain


@pytest.mark.parametrize("label", [0, 1])
def test_training_patients_of_one_class_are_refused(label: int) -> None:
    with pytest.raises(CohortError, match="one class only"):
        fit(model_of(), [p for p in cohort(0, 8) if p.label == label], cohort(100, 4), FitSettings())


@pytest.mark.parametrize("validation", [[], [replace(patient(100, 1), bags=[])]], ids=["nobody", "without slides"])
@pytest.mark.parametrize("method", ["momkd", "mean"])
def test_without_anybody_to_validate_there_is_no_best_epoch(validation: list[Patient], method: str) -> None:
    network = model_of() if method == "momkd" else MeanPooling(MeanPoolingConfig(in_features=WIDTH))
    with pytest.raises(CohortError, match="no validation patient with slides"):
        METHODS[method].fit(network, cohort(0, 4), validation, FitSettings(epochs=1))


def test_patients_without_slides_count_nowhere() -> None:
    train, validation = cohort(0, 6), cohort(100, 6)
    fits = [
        fit(model_of(), [*train, *bare], [*bare, *validation], FitSettings(epochs=1))
        for bare in ([], [replace(p, bags=[]) for p in cohort(200, 3)])
    ]
    assert same(*fits)


def test_numbers_that_run_away_are_refused_at_once() -> None:
    everything = FitSettings(epochs=3, learning_rate=1e30, bags_per_step=100)  # an epoch is one step, from a sane loss
    with pytest.raises(CohortError, match="for validation patients is not a finite number") as caught:
        fit(model_of(), cohort(0, 4), cohort(100, 4), everything)
    assert "--learning-rate" in caught.value.hint
    with pytest.raises(CohortError, match="training loss of epoch 1 is not a finite number"):
        fit(model_of(), cohort(0, 4), cohort(100, 4), replace(everything, bags_per_step=1))


class CountingMoMKD(MoMKD):
    """Knows whose bags it was trained on: the first feature of the first tile says so."""

    def __init__(self, config: MoMKDConfig) -> None:
        super().__init__(config)
        self.drawn: Counter[float] = Counter()

    def forward(self, bags: BagBatch) -> MoMKDOutput:
        if self.training:
            self.drawn.update(float(x[0, 0]) for x in bags.split(bags.x))
        return super().forward(bags)


def test_patients_with_many_slides_do_not_weigh_more() -> None:
    slides = {0: 1, 2: 9, 4: 1, 1: 4, 3: 1}  # patient: slides; odd ones are positive, and fewer
    train = [patient(number, number % 2, slides=count) for number, count in slides.items()]
    for p in train:
        for place, bag in enumerate(p.bags):
            bag.features[0, 0] = int(p.patient_id[1:]) + place / 16
    model = model_of(CountingMoMKD)
    assert isinstance(model, CountingMoMKD)
    fit(model, train, cohort(100, 4), FitSettings(epochs=20, patience=20, bags_per_step=8))
    draws = sum(model.drawn.values())
    assert draws == 20 * sum(slides.values())
    by_patient: Counter[int] = Counter()
    for mark, times in model.drawn.items():
        by_patient[int(mark)] += times
    for number, share in {0: 1 / 6, 2: 1 / 6, 4: 1 / 6, 1: 1 / 4, 3: 1 / 4}.items():
        spread = (draws * share * (1 - share)) ** 0.5
        assert abs(by_patient[number] - draws * share) < 4 * spread, number
    assert all(model.drawn[2 + place / 16] for place in range(9)), "every slide has its turn"


def test_the_memorys_use_is_told_by_class() -> None:
    model = model_of()
    train = cohort(0, 8)
    fit(model, train, cohort(100, 4), FitSettings(epochs=2))
    for usage in model.slot_shares(train).values():
        assert sum(usage["shares"]) == pytest.approx(1)
        assert usage["active"] == sum(share > 0 for share in usage["shares"])
        assert len(usage["shares"]) == 3


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"label": 2}, "label is 0 or 1"),
        ({"label": -1}, "label is 0 or 1"),
        ({"target": 1.5}, "probability"),
        ({"target": float("nan")}, "probability"),
        ({"expression": torch.tensor([1.0, float("nan")])}, "must be finite"),
    ],
)
def test_a_patient_that_would_spoil_training_is_refused_by_name(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        replace(patient(7, 1), **changes)
    assert caught.value.path == "P7"


def test_an_epoch_draws_as_many_bags_however_many_a_step_takes() -> None:
    train = cohort(0, 9)
    bags = sum(len(p.bags) for p in train)
    for together in (1, 4, 100):
        model = model_of(CountingMoMKD)
        assert isinstance(model, CountingMoMKD)
        fit(model, train, cohort(100, 4), FitSettings(epochs=2, bags_per_step=together))
        assert model.drawn.total() == 2 * bags


def test_another_seed_gives_other_numbers() -> None:
    train, validation = cohort(0, 6), cohort(100, 4)
    fits = [fit(model_of(), train, validation, FitSettings(epochs=1, seed=seed)) for seed in (0, 0, 1)]
    assert same(fits[0], fits[1])
    assert not same(fits[0], fits[2])


# ----- soft targets -----


def with_targets(patients: list[Patient], targets: Iterable[float | None]) -> list[Patient]:
    return [replace(p, target=target) for p, target in zip(patients, targets, strict=True)]


def test_with_soft_targets_the_epoch_is_chosen_by_rank_and_the_labels_of_validation_do_not_matter() -> None:
    draw = np.random.default_rng(0)
    train, validation = cohort(0, 12), cohort(100, 10)
    train = with_targets(train, [0.2 + 0.6 * p.label for p in train])
    validation = with_targets(validation, draw.random(10).tolist())
    settings = FitSettings(epochs=8, learning_rate=1e-3, bags_per_step=3)
    fitted = fit(model_of(), train, validation, settings)
    ranks = [epoch.validation_rank for epoch in fitted.history]
    assert None not in ranks
    assert fitted.best_epoch == ranks.index(max(ranks))
    flipped = [replace(p, label=1 - p.label) for p in validation]
    other = fit(model_of(), train, flipped, settings)
    assert [epoch.validation_rank for epoch in other.history] == ranks
    assert [epoch.validation_auc for epoch in other.history] != [epoch.validation_auc for epoch in fitted.history]


def test_ranks_by_hand_and_too_few_of_them() -> None:
    model = model_of()
    validation = cohort(100, 8)
    logits = patient_scores(model, validation)
    order = sorted(validation, key=lambda p: logits[p.patient_id])
    rising = with_targets(order, [0.1 * place for place in range(8)])
    assert validate(model, rising).rank_correlation == pytest.approx(1)
    assert validate(model, rising[::-1], together=3).rank_correlation == pytest.approx(1)
    falling = with_targets(order, [1 - 0.1 * place for place in range(8)])
    assert validate(model, falling).rank_correlation == pytest.approx(-1)
    some = with_targets(order, [0.1, 0.2, 0.3, 0.4, *[None] * 4])
    assert validate(model, some).rank_correlation is None  # four say too little
    assert validate(model, with_targets(order, [0.5] * 8)).rank_correlation is None
    fitted = fit(model_of(), cohort(0, 4), some, FitSettings(epochs=1))
    assert fitted.history[0].gain == fitted.history[0].validation_auc


# ----- bags in a file -----


@pytest.mark.parametrize("bags_per_step", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_bags_that_are_read_as_needed_give_the_same_fit(tmp_path: Path, method: str, bags_per_step: int) -> None:
    file = BagFile(tmp_path / "bags")

    def filed(patients: list[Patient]) -> list[Patient]:
        return [replace(p, bags=[bag.read().filed(file) for bag in p.bags]) for p in patients]

    def fitted(train: list[Patient], validation: list[Patient]) -> tuple[Fit, dict[str, Any]]:
        row = METHODS[method]
        torch.manual_seed(0)
        sizes = {"in_features": WIDTH, "n_genes": GENES if row.uses_rna else 0, "hidden": 16, "shared": 8}
        known = {name: size for name, size in sizes.items() if name in row.network.Config.model_fields}
        model = row.network(row.network.Config.model_validate(known))
        settings = FitSettings(epochs=2, bags_per_step=bags_per_step)
        return row.fit(model, train, validation, settings), patient_scores(model, validation, together=bags_per_step)

    train, validation = cohort(0, 8), cohort(100, 6)
    (kept, scores), (read, their_scores) = fitted(train, validation), fitted(filed(train), filed(validation))
    assert same(kept, read)
    assert scores == their_scores
