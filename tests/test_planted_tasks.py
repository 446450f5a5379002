"""The labels of the planted cohorts are what they say: what is measured on them rests on it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent / "benchmarks"))  # after ours: both have a tissue_masks
import learning_tasks
from planted_cohorts import DESIGNS, SLIDE_SHOWS

SEED = 31


def test_a_number_follows_the_state_with_the_noise_of_the_design():
    cohort = learning_tasks.asked("number", "base", SEED)
    everyone = [*cohort.train, *cohort.test]
    states = np.array([p.state for p in everyone])
    numbers = np.array([cohort.labels[p.id] for p in everyone])
    noise = (numbers - 50) / 10 - states
    assert noise.std() == pytest.approx(DESIGNS["base"].label_noise, abs=0.06)
    assert abs(np.corrcoef(noise, states)[0, 1]) < 0.12
    # What a perfect reading of the slide can reach: the correlation of zs with z + noise.
    assert SLIDE_SHOWS / np.hypot(1, DESIGNS["base"].label_noise) == pytest.approx(0.716, abs=0.001)


def test_each_grade_is_of_about_a_third_and_the_higher_the_higher():
    cohort = learning_tasks.asked("grade", "base", SEED)
    grades = np.array([cohort.labels[p.id] for p in cohort.test])
    states = np.array([p.state for p in cohort.test])
    assert set(grades.tolist()) == {0, 1, 2}
    assert (np.bincount(grades) / len(grades) > 0.25).all()
    means = [states[grades == grade].mean() for grade in (0, 1, 2)]
    assert means == sorted(means)


def test_the_same_seed_gives_the_same_labels_and_another_seed_others():
    first, again = (learning_tasks.asked("number", "base", SEED).labels for _ in range(2))
    assert first == again
    other = learning_tasks.asked("number", "base", SEED + 1).labels
    assert other.keys() == first.keys()
    assert other != first


def test_the_methods_that_are_compared_are_those_that_can_carry_the_question():
    for question, of in learning_tasks.QUESTIONS.items():
        for name in of.methods:
            if name != learning_tasks.TRUTH:
                assert learning_tasks.variant_of(question, name).name == name


def test_the_third_class_is_rare_and_the_event_comes_sooner_the_higher_the_state():
    cohort = learning_tasks.asked("class", "base", SEED)
    places = np.array([cohort.labels[p.id] for p in cohort.test])
    assert np.bincount(places) / len(places) == pytest.approx([0.5, 0.35, 0.15], abs=0.08)
    found = learning_tasks.measure("survival, hazards", "base", SEED, learning_tasks.TRUTH)
    assert 0.65 < found["figure"] < 0.85
    events = [label.event for label in learning_tasks.asked("survival, cox", "base", SEED).labels.values()]
    assert 0.4 < np.mean(events) < 0.8
