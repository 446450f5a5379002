"""The figures of several targets together: the mean of the figure by which each is judged, beside each one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..evaluation.metrics import Metrics
from ..evaluation.task_metrics import Figures, TaskMetrics, weighted_auc, with_intervals
from .multitask import MultiTask
from .prediction import PatientPrediction
from .task import Task

Floats = npt.NDArray[np.float64]
Rows = Mapping[str, Sequence[PatientPrediction]]
"""Target → the patients who have its label."""


def patients_of(rows: Rows) -> list[str]:
    """The patients who have a label of any target."""
    return sorted({row.patient_id for own in rows.values() for row in own})


def mean_figures(task: MultiTask, rows: Rows, patients: Sequence[str]) -> Figures:
    """Make the function that computes the mean of the targets' figures in bootstrap rounds over the patients.

    :param rows: of the targets that are judged; others are left out.
    :param patients: of the columns of the weights.
    """
    place = {patient: n for n, patient in enumerate(patients)}
    parts = [([place[row.patient_id] for row in own], _main(task.targets[name], own)) for name, own in rows.items()]

    def figures(weights: Floats) -> dict[str, Floats]:
        return {task.measure: np.mean([main(weights[:, columns]) for columns, main in parts], axis=0)}

    return figures


def _main(task: Task, rows: Sequence[PatientPrediction]) -> Callable[[Floats], Floats]:
    """The figure by which one target is judged, in bootstrap rounds over its patients."""
    if task.name == "binary":
        positive, scores = np.array([row.label == 1 for row in rows]), np.array([row.probability for row in rows])
        return lambda weights: weighted_auc(weights, positive, scores)
    figures = task.figures_of(rows)
    return lambda weights: figures(weights)[task.measure]


def target_metrics(
    task: MultiTask, rows: Rows, metrics: Mapping[str, Metrics | TaskMetrics], *, rounds: int, seed: int
) -> TaskMetrics:
    """Compute the mean over the targets, with its interval from rounds over all patients, beside each one's figure.

    A round in which the figure of a target is not defined is not counted.

    :param metrics: target → its own figures, of the same rows.
    """
    patients = patients_of(rows)
    figures = mean_figures(task, rows, patients)
    lows = [of.main.low for of in metrics.values()]  # where all are 1, a lower mean needs one below its own limit
    known_lows = [low for low in lows if low is not None]
    of_pairs = all(of.main_chance == 0.5 for of in metrics.values())  # a correlation is no share of pairs
    lowest = {task.measure: float(np.mean(known_lows))} if of_pairs and len(known_lows) == len(lows) else {}
    mean = with_intervals((task.measure,), figures, np.zeros(len(patients)), rounds=rounds, seed=seed, pairs=lowest)
    own = {f"{of.measure} of {name}": of.main for name, of in metrics.items()}
    chance = {f"{of.measure} of {name}": of.main_chance for name, of in metrics.items()}
    known = {name: value for name, value in chance.items() if value is not None}
    of_mean = {task.measure: float(np.mean(list(known.values())))} if len(known) == len(chance) else {}
    return TaskMetrics(
        task=task.name,
        n_patients=len(patients),
        counts={f"with {name}": len(own) for name, own in rows.items()},
        figures={**mean, **own},
        chance={**of_mean, **known},
        bootstrap_rounds=rounds,
        seed=seed,
    )
