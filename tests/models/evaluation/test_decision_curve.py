"""Net benefit: known answers by hand, and the ranges in which a model is of use."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from wsipipe.data.errors import UsageError
from wsipipe.models.evaluation.decision_curve import THRESHOLDS, decision_curve, net_benefit


def test_net_benefit_by_hand() -> None:
    y, p = [1, 1, 0, 0, 0], [0.9, 0.2, 0.6, 0.3, 0.1]
    # From 0.25 on: one true positive, two false ones at odds of 1 to 3.
    assert net_benefit(y, p, 0.25) == pytest.approx(1 / 5 - 2 / 5 * (1 / 3))
    assert net_benefit(y, p, 0.6) == pytest.approx(1 / 5 - 1 / 5 * 1.5), "at the threshold is treated"
    assert net_benefit(y, p, 0.95) == 0


def test_treating_all_is_worth_nothing_at_the_share_of_positives() -> None:
    y = [1] * 3 + [0] * 17
    curve = decision_curve(y, [0.5] * 20)
    assert curve.treat_all[THRESHOLDS.index(0.15)] == pytest.approx(0, abs=1e-12)
    assert curve.treat_all[0] == pytest.approx(0.15 - 0.85 / 99)
    better = [own > max(0, everyone) + 1e-12 for own, everyone in zip(curve.model, curve.treat_all, strict=True)]
    assert not any(better), "who gives all the same probability tells nobody apart"


def test_probabilities_at_another_prevalence_lose_net_benefit() -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(-1.7, 1.5, 4000)
    y = (draw.random(4000) < expit(logits)).astype(int)
    right, even = decision_curve(y, expit(logits)), decision_curve(y, expit(logits + 1.7))
    assert all(a >= b - 0.01 for a, b in zip(right.model, even.model, strict=True))
    assert right.model[THRESHOLDS.index(0.3)] > even.model[THRESHOLDS.index(0.3)] + 0.02
    useful = slice(THRESHOLDS.index(0.1), THRESHOLDS.index(0.3) + 1)
    assert all(
        own > max(0, everyone) for own, everyone in zip(right.model[useful], right.treat_all[useful], strict=True)
    )


@pytest.mark.parametrize(("y", "p", "t"), [([], [], 0.5), ([1], [0.5, 0.5], 0.5), ([1], [0.5], 1.0), ([1], [0.5], 0.0)])
def test_what_has_no_net_benefit_is_refused(y: list[int], p: list[float], t: float) -> None:
    with pytest.raises(UsageError):
        net_benefit(y, p, t)
