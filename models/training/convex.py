"""The linear model of any task on the means of slides: the fit of mean pooling where the task is not binary.

It minimises C · Σ weight · loss + ½ ‖W‖² over the head's weights W and its biases, which are not penalised, with the
task's own loss: softmax regression of classes, ridge regression of a number, Cox's model of all training patients with
Efron's ties, and so on. These losses are convex, so
there is one minimum, found by L-BFGS (scipy) from 0 in float64. The strength of the penalty is chosen on the validation
patients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.optimize import minimize

from ..mil.bag_tensors import Patient
from ..mil.mean_pooling import MeanPooling
from ..tasks.task import Task
from .fit import Epoch, Fit, FitSettings, sampling_groups, validate
from .slide_means import Floats, centre_and_scale, slide_means

MAX_ITERATIONS = 10_000
TOLERANCE = 1e-8
"""Of the gradient, when the solver stops."""


def fit_convex(
    network: MeanPooling,
    train: Sequence[Patient],
    validation: Sequence[Patient],
    settings: FitSettings,
    penalties: Sequence[float],
    tell: Callable[[Epoch], None],
) -> Fit:
    """Fit ``network`` in place, as :func:`~.logistic.fit_mean` does for the binary task.

    :param penalties: C, the strongest penalty first; each is an "epoch" of the history.
    """
    groups = sampling_groups(network.task, train)
    means, targets, weights = slide_means(groups, together=network.task.compares_patients)
    centre, scale = centre_and_scale(means, weights)
    values = torch.tensor(targets)
    network.load_state_dict({**network.state_dict(), "centre": torch.tensor(centre), "scale": torch.tensor(scale)})
    x = torch.tensor((means - centre) / scale)
    done = Fit()
    start = np.zeros((network.task.outputs, x.shape[1] + 1))
    for C in penalties:
        start = solve(network.task, x, values, torch.tensor(weights), C, start)
        with torch.no_grad():
            network.head.weight.copy_(torch.tensor(start[:, :-1]))
            network.head.bias.copy_(torch.tensor(start[:, -1]))
        logits = x @ torch.tensor(start[:, :-1]).T + torch.tensor(start[:, -1])
        task = float(_weighted(network.task, logits, values, torch.tensor(weights)) / weights.sum())
        judged = validate(network, validation, together=settings.bags_per_step, precision=settings.precision)
        epoch = Epoch.of(len(done.history), {"task": task, "total": task}, judged, 0.0, {"C": C})
        done.add(epoch, network)
        tell(epoch)
    network.load_state_dict(done.state)
    return done


def solve(task: Task, x: torch.Tensor, values: torch.Tensor, weights: torch.Tensor, C: float, start: Floats) -> Floats:
    """Find the weights and, in the last column, the biases (outputs, D + 1) of the least penalised loss.

    :param x: (N, D) float64.
    :param values: (N, …) target values of the task.
    :param weights: (N) weight of each row.
    :param start: (outputs, D + 1), where the search begins.
    """

    def cost(flat: Floats) -> tuple[float, Floats]:
        both = torch.tensor(flat.reshape(start.shape), requires_grad=True)
        logits = x @ both[:, :-1].T + both[:, -1]
        total = C * _weighted(task, logits, values, weights) + both[:, :-1].square().sum() / 2
        (gradient,) = torch.autograd.grad(total, both)
        return float(total.detach()), gradient.numpy().ravel()

    options = {"maxiter": MAX_ITERATIONS, "gtol": TOLERANCE, "ftol": 1e-15}
    found = minimize(cost, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    solution: Floats = found.x.reshape(start.shape)
    return solution


def _weighted(task: Task, logits: torch.Tensor, values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Σ weight · loss of the rows."""
    return (weights * task.losses(logits, values)).sum()
