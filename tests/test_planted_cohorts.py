"""The planted cohorts are what they say: what is measured on them rests on it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

sys.path.append(str(Path(__file__).parent / "benchmarks"))  # after ours: both have a tissue_masks
import audit as audit_of_planted
import planted_cohorts as planted

SEED = 31


@pytest.fixture(scope="module")
def cohorts():
    return {design: planted.planted_cohort(design, SEED) for design in planted.DESIGN_NAMES}


def _columns(patients, name):
    return np.array([getattr(p, name) for p in patients])


def _bytes(cohort):
    return [
        (p.id, p.label, p.state, p.site, *(a.tobytes() for a in (p.features, p.coords, p.expression, p.blob)))
        for p in cohort.train + cohort.test
    ]


@pytest.mark.parametrize("design", planted.DESIGN_NAMES)
def test_same_seed_same_bytes_and_another_seed_others(cohorts, design):
    again = planted.planted_cohort(design, SEED)
    assert _bytes(again) == _bytes(cohorts[design])
    assert _bytes(planted.planted_cohort(design, SEED + 1)) != _bytes(again)


@pytest.mark.parametrize("design", planted.DESIGN_NAMES)
def test_shapes_types_and_names(cohorts, design):
    cohort = cohorts[design]
    assert (len(cohort.train), len(cohort.test)) == (planted.DESIGNS[design].train_patients, 300)
    assert 100 <= len(cohort.train) <= 200
    everyone = cohort.train + cohort.test
    assert len({p.id for p in everyone}) == len(everyone)
    for p in everyone:
        assert (p.features.shape, p.features.dtype) == ((81, 128), np.float32)
        assert (p.coords.shape, p.coords.dtype) == ((81, 2), np.int64)
        assert (p.expression.shape, p.expression.dtype) == ((64,), np.float32)
        assert p.label in (0, 1)
        assert np.isfinite(p.features).all()
        assert np.isfinite(p.expression).all()
    places = {tuple(place) for place in everyone[0].coords.tolist()}
    assert places == {(256 * x, 256 * y) for x in range(9) for y in range(9)}


def test_states_labels_and_genes_are_the_same_where_only_the_slide_differs(cohorts):
    for design in ("sparse", "coherent"):
        for ours, base in zip(cohorts[design].test, cohorts["base"].test, strict=True):
            assert (ours.state, ours.label) == (base.state, base.label)
            assert np.array_equal(ours.expression, base.expression)
    assert any(
        a.label != b.label for a, b in zip(cohorts["noisy"].test, cohorts["base"].test, strict=True)
    )  # the same states, more label noise


@pytest.mark.parametrize(("design", "tiles"), [("base", 8), ("sparse", 2), ("coherent", 8), ("site_noisy", 8)])
def test_the_blob_is_connected_and_of_the_stated_size(cohorts, design, tiles):
    for p in cohorts[design].train:
        left = set(p.blob.tolist())
        assert len(left) == tiles == len(p.blob)
        reached = [left.pop()]
        while reached:
            here = p.coords[reached.pop()]
            beside = {tile for tile in left if np.abs(p.coords[tile] - here).sum() == 256}
            left -= beside
            reached += beside
        assert not left


def test_the_blob_shows_the_state_along_one_direction_and_the_rest_does_not(cohorts):
    train, test = cohorts["base"].train, cohorts["base"].test
    state = _columns(train, "state")
    inside = np.stack([p.features[p.blob].mean(axis=0) for p in train])
    direction = inside.T @ state
    direction /= np.linalg.norm(direction)
    state = _columns(test, "state")
    shown = np.array([p.features[p.blob].mean(axis=0) @ direction for p in test])
    outside = np.array([np.delete(p.features, p.blob, axis=0).mean(axis=0) @ direction for p in test])
    assert np.corrcoef(shown, state)[0, 1] == pytest.approx(planted.SLIDE_SHOWS, abs=0.07)
    assert abs(np.corrcoef(outside, state)[0, 1]) < 0.15
    inside = np.stack([p.features[p.blob].mean(axis=0) for p in test])
    variances = np.linalg.eigvalsh(np.cov(inside.T))  # ascending
    assert variances[-1] == pytest.approx(planted.STRENGTH**2, rel=0.2)
    assert variances[-2] < 0.4  # the mean of 8 tiles' white noise over 128 features and 300 slides: at most about 0.35


@pytest.mark.parametrize(("design", "follows"), [("site_mild", 0.5), ("site_noisy", 0.7), ("base", 0.0)])
def test_the_site_goes_with_the_label_in_training_alone(cohorts, design, follows):
    def agreement(patients):
        return float(((_columns(patients, "site") >= 3) == _columns(patients, "label")).mean())

    assert agreement(cohorts[design].train) == pytest.approx((1 + follows) / 2, abs=0.11)
    assert agreement(cohorts[design].test) == pytest.approx(0.5, abs=0.09)


def test_a_site_moves_all_tiles_of_its_slides_by_the_stated_length(cohorts):
    for design, shift in (("site_mild", 1.5), ("site_noisy", 3.0), ("base", 0.0)):
        test = cohorts[design].test
        means = np.stack([np.delete(p.features, p.blob, axis=0).mean(axis=0) for p in test])
        sites = _columns(test, "site")
        lengths = [float(np.linalg.norm(means[sites == site].mean(axis=0))) for site in range(planted.SITES)]
        assert lengths == pytest.approx([shift] * planted.SITES, abs=0.3)


def test_rna_carries_no_site(cohorts):
    everyone = cohorts["site_noisy"].test
    genes, site = _columns(everyone, "expression"), _columns(everyone, "site") >= 3
    model = LogisticRegression(C=0.03, max_iter=1000).fit(genes[:150], site[:150])
    assert roc_auc_score(site[150:], model.decision_function(genes[150:])) == pytest.approx(0.5, abs=0.12)
    means = np.stack([p.features.mean(axis=0) for p in everyone])  # the slide does
    model = LogisticRegression(C=0.03, max_iter=1000).fit(means[:150], site[:150])
    assert roc_auc_score(site[150:], model.decision_function(means[150:])) > 0.95


@pytest.mark.parametrize(("design", "expected"), [("base", 0.885), ("noisy", 0.696), ("site_noisy", 0.783)])
def test_rna_alone_reads_the_label_as_well_as_it_should(cohorts, design, expected):
    """The level that the simulation before this one reports; one cohort scatters by a few points."""
    train, test = cohorts[design].train, cohorts[design].test
    model = LogisticRegression(C=0.02, max_iter=1000).fit(_columns(train, "expression"), _columns(train, "label"))
    auc = roc_auc_score(_columns(test, "label"), model.decision_function(_columns(test, "expression")))
    assert auc == pytest.approx(expected, abs=0.07)


def test_only_the_coherent_background_resembles_its_neighbourhood(cohorts):
    def likeness(design):
        """Mean correlation of horizontally neighbouring background tiles, over patients and features."""
        grids = np.stack([p.features for p in cohorts[design].test[:60]]).reshape(60, 9, 9, 128)
        quiet = np.stack([~np.isin(np.arange(81), p.blob) for p in cohorts[design].test[:60]]).reshape(60, 9, 9)
        both = quiet[:, :, 1:] & quiet[:, :, :-1]
        return float((grids[:, :, 1:] * grids[:, :, :-1])[both].mean()), float(grids[quiet].var())

    along, spread = likeness("coherent")
    # exp(-1/4) for a field blended by a Gaussian kernel of one tile, for the half of the variance that is smooth
    assert along == pytest.approx(0.5 * np.exp(-0.25), abs=0.05)
    assert spread == pytest.approx(1.0, abs=0.03)
    along, spread = likeness("base")
    assert along == pytest.approx(0.0, abs=0.01)
    assert spread == pytest.approx(1.0, abs=0.01)


def test_an_unknown_design_is_refused():
    with pytest.raises(KeyError, match="nowhere"):
        planted.planted_cohort("nowhere", 0)


def test_grade_and_er_go_along_with_the_label_in_every_design(cohorts):
    for cohort in cohorts.values():
        label = _columns(cohort.train, "label")
        for name in ("grade", "er"):
            assert roc_auc_score(label, _columns(cohort.train, name)) > 0.6


@pytest.fixture(scope="module")
def audits():
    """Six cohorts of each design: with 150 patients, one alone may go either way."""
    designs = ("base", "grade", "two_confounders")
    return {design: [audit_of_planted.audited(design, seed, rounds=100) for seed in range(6)] for design in designs}


def _within(found):
    """Mean AUC within grade, within ER, and within both."""
    return np.mean([[*(c.pooled.within.value for c in a.columns), a.together.within.value] for a in found], axis=0)


def _sure(found):
    """In how many cohorts the slide adds to the columns, by the likelihood ratio and by permutation."""
    return sum(a.alone.p_value < 0.05 for a in found), sum(a.together.p_value < 0.05 for a in found)


def test_the_audit_finds_what_the_slide_shows_in_place_of_the_state(audits):
    for design in ("grade", "two_confounders"):
        assert np.mean([a.score.value for a in audits[design]]) > 0.7
        assert np.mean([a.alone.columns.value for a in audits[design]]) > 0.7
        assert max(_sure(audits[design])) <= 1
        assert sum(a.together.within.low < 0.5 < a.together.within.high for a in audits[design]) >= 5
    grade, er, both = _within(audits["grade"])
    assert (abs(grade - 0.5) < 0.06, abs(both - 0.5) < 0.06, er > 0.6) == (True, True, True)
    grade, er, both = _within(audits["two_confounders"])  # neither alone explains it
    assert (grade > 0.55, er > 0.6, abs(both - 0.5) < 0.06) == (True, True, True)


def test_the_audit_clears_a_slide_that_shows_the_state(audits):
    assert (_within(audits["base"]) > 0.6).all()
    assert min(_sure(audits["base"])) >= 3
