"""Names of signatures and of their scores, and what a question may say of one.

Light to import: settings and ``--help`` need it without numpy.
"""

from __future__ import annotations

from math import isfinite
from typing import Final, Literal, Protocol

SetScore = Literal["auto", "singscore", "ssgsea", "mean-z"]
"""Scores of a gene set; auto is singscore, and mean-z where the matrix holds z-scores."""
ScoreName = Literal["singscore", "ssgsea", "mean-z", "expression", "recurrence-score", "recurrence-score-unscaled"]

GENE: Final = "gene:"
"""Prefix of a signature that is one gene."""
RECURRENCE_SCORE: Final = "recurrence-score"
RECURRENCE_UNSCALED: Final = "recurrence-score-unscaled"
MEDIAN: Final = "median"
"""The cut at the median of a fold's training patients."""


class AsksForSignature(Protocol):
    """A question that may be about a signature."""

    @property
    def signature(self) -> str: ...
    @property
    def signature_score(self) -> SetScore: ...
    @property
    def cut(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def label_column(self) -> str: ...


def refuse_signature(question: AsksForSignature) -> None:
    """Refuse a question about a signature that lacks something or has too much.

    :raises ValueError: it says what.
    """
    if not question.signature:
        for name, value in (("signature_score", question.signature_score != "auto"), ("cut", question.cut)):
            if value:
                raise ValueError(f"{name} belongs to a signature, and none is given")
        return
    if question.label_column != question.signature:
        raise ValueError("give a signature or a label_column, not both: one of them is the target")
    if question.task not in ("regression", "binary"):
        raise ValueError(f"a signature is a number: task regression, or binary with a cut; task is {question.task}")
    if question.task == "binary" and not question.cut:
        raise ValueError("task binary of a signature needs a cut: median, or a number")
    if question.task != "binary" and question.cut:
        raise ValueError(f"cut is for task binary; task is {question.task}")
    if question.cut and question.cut != MEDIAN and not _is_number(question.cut):
        raise ValueError(f"a cut is median or a number, not {question.cut!r}")


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False
