"""Number formats of the pages, and the templates that use them as filters."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import fmean, stdev
from typing import Final

from ...models.evaluation.metrics import Estimate
from ...models.tasks.prediction import Prevalence
from .templates import page_templates


def figure(value: float | None, digits: int = 2) -> str:
    """A number with a true minus sign; a dash for None. A value just below 1 is not rounded to 1."""
    if value is None:
        return "–"
    if not isfinite(value):
        return "not a number"
    if 1 - 0.5 * 10**-digits <= value < 1:
        return figure(value, digits + 1) if digits < 4 else "> 0.9999"
    text = f"{abs(value):.{digits}f}"
    return f"−{text}" if value < 0 and float(text) else text


def signed(value: float | None) -> str:
    """A difference, with its sign."""
    if value is None:
        return "–"
    text = f"{abs(value):.2f}"
    return text if float(text) == 0 else ("−" if value < 0 else "+") + text


def interval(estimate: Estimate) -> str:
    """The interval of an estimate, from low to high; a dash if it has none."""
    if estimate.low is None:
        return "–"
    return f"{figure(estimate.low)} {'to' if estimate.low < 0 else '–'} {figure(estimate.high)}"


def p_value(value: float | None) -> str:
    """A p-value with two digits, three if it is below 0.1, and ``< 0.001`` below that."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def in_hundred(share: float) -> str:
    """A share as a number of 100; a share just below all or above none is not rounded to it.

    >>> in_hundred(0.874), in_hundred(0.999), in_hundred(1)
    ('87', 'more than 99', '100')
    """
    n = round(100 * share)
    if n == 100 and share < 1:
        return "more than 99"
    return "fewer than 1" if n == 0 and share > 0 else str(n)


def duration(seconds: float | None) -> str:
    """A duration in seconds, in minutes, or in hours and minutes."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def mean_and_deviation(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and standard deviation of the known values; None without any, the deviation also for fewer than two."""
    known = [value for value in values if value is not None]
    return (fmean(known) if known else None), (stdev(known) if len(known) > 1 else None)


def percent(share: float) -> str:
    """A share in per cent with up to three digits.

    >>> percent(0.15), percent(0.1234)
    ('15 %', '12.3 %')
    """
    return f"{100 * share:.3g} %"


def at_prevalence(prevalence: float, *, of_several: bool = False) -> str:
    """What every page says that shows a probability, or a figure that is made of them.

    :param of_several: it is that of one of several targets, of which each has its own, and no flag gives another.
    """
    at = f"Probabilities, thresholds, Brier score and calibration are at a prevalence of {percent(prevalence)}: the "
    if of_several:
        return f"{at}share of positive training patients. AUC, sensitivity and specificity do not depend on it."
    return (
        f"{at}share of positive patients where the model is used, by default that of its training patients. "
        "--prevalence gives another; AUC, sensitivity and specificity do not depend on it."
    )


def at_shares(prevalence: Prevalence, classes: Sequence[str]) -> str:
    """What every page says that shows probabilities of several classes.

    :param prevalence: the share of each; empty where they count as equally frequent.
    """
    if not isinstance(prevalence, tuple) or not prevalence:
        return (
            "Probabilities are those at equally frequent classes: an earlier version trained this "
            "model, and it does not say how frequent they were. Train it again to have them at those shares."
        )
    shares = ", ".join(f"{name} {percent(share)}" for name, share in zip(classes, prevalence, strict=True))
    return f"Probabilities are at the shares of the training patients: {shares}."


PAIRS_WIDER: Final = (
    "is at least as wide as the one on the log-odds, and begins no higher than if nobody were ranked wrongly"
)
"""What every page says of the interval of an AUC, concordance or C-index, after its name."""

TEMPLATES: Final = page_templates(
    figure=figure,
    signed=signed,
    interval=interval,
    p_value=p_value,
    in_hundred=in_hundred,
    duration=duration,
    percent=percent,
    at_prevalence=at_prevalence,
    at_shares=at_shares,
)
TEMPLATES.globals["PAIRS_WIDER"] = PAIRS_WIDER
