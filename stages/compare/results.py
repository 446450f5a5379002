"""Results of methods on the same patients and folds: figures of each, and its difference from the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ...data.errors import UsageError
from ...models.audit.confounding import Audit
from ...models.audit.task_audit import TaskAudit
from ...models.evaluation.metrics import Estimate, Metrics
from ...models.evaluation.paired_tests import PairedDifference, holm
from ...models.evaluation.task_metrics import BootstrapDifference, TaskMetrics
from ...models.tasks.prediction import Prevalence
from ...models.training.methods import METHODS
from ..pages.asked_question import Question
from ..pages.numbers import mean_and_deviation
from ..pages.report_page import Facts
from .variants import CEILING, ON, SOFT, STARTED, label_of

ALPHA: Final = 0.05
"""A difference is called significant if its p-value, after correction, is smaller."""
GROUPS: Final = ("Methods", "Controls: a method with one part removed", "Upper limit: RNA alone, without slides")
"""Headings of the groups of methods, in this order."""

_SHORT: Final = 24  # letters of a label where there is little room


@dataclass(frozen=True, kw_only=True)
class ComparedMethod:
    """Results of one method, out of fold."""

    name: str
    """Its name in ``--methods``."""
    title: str
    """Its title, without a mention of soft targets."""
    soft_targets: bool
    metrics: Metrics | TaskMetrics
    """Pooled over the patients of all folds."""
    fold_aucs: tuple[float | None, ...]
    roc: tuple[tuple[float, float], ...]
    """Corners of the pooled ROC curve: 1 − specificity, sensitivity. Empty where there is none."""
    against_reference: PairedDifference | BootstrapDifference | None
    """AUC (or the task's figure) minus that of the reference, on the patients of both.

    None for the reference, and if it is undefined."""
    note: str = ""
    """A description in one line."""
    seconds: float | None = None
    """Seconds of training all folds."""

    @property
    def label(self) -> str:
        """The title, and whether it was trained on soft targets."""
        return label_of(self.title, soft_targets=self.soft_targets)

    @property
    def main(self) -> Estimate:
        """The figure by which methods are compared, with its interval."""
        return self.metrics.main

    @property
    def binary(self) -> Metrics:
        """The figures of a binary task."""
        assert isinstance(self.metrics, Metrics)
        return self.metrics

    @property
    def stem(self) -> str:
        """The name without the suffix of soft targets."""
        return self.name.removesuffix(SOFT)

    def difference_columns(self, p_value_holm: float | None) -> dict[str, str | int | float | None]:
        """The last columns of the method's row in ``comparison.csv``: its difference to the reference, time and note.

        :param p_value_holm: its p-value after Holm's correction, if it has one.
        """
        against = self.against_reference
        return {
            "difference": against.difference if against else None,
            "difference_low": against.low if against else None,
            "difference_high": against.high if against else None,
            "p_value": against.p_value if against else None,
            "p_value_holm": p_value_holm,
            "patients_compared": against.n_patients if against else None,
            "seconds": self.seconds,
            "note": self.note,
        }

    @property
    def reads_slides(self) -> bool:
        """Whether it uses slides; all methods do except RNA alone."""
        return self.name != CEILING

    @property
    def of_folds(self) -> tuple[float | None, float | None]:
        """Mean and standard deviation of the AUC over the folds that have one."""
        return mean_and_deviation(self.fold_aucs)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that the page of a comparison shows."""

    name: str
    question: Question
    methods: tuple[ComparedMethod, ...]
    reference: str
    """Name of the method that the others are compared with."""
    prevalence: Prevalence
    """The one that all methods' probabilities are at."""
    facts: Facts
    versions: Facts = ()
    audits: Mapping[str, Audit | TaskAudit] = field(default_factory=dict)
    """By method; empty if no audit was asked for."""

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(f"compared twice: {', '.join(twice)}", hint="give each method its own name")
        if self.reference not in names:
            raise UsageError(f"the reference {self.reference} is not among {', '.join(names) or 'no methods'}")
        if self.of_reference.against_reference is not None:
            raise UsageError(f"{self.reference} is compared with itself")

    @property
    def measure(self) -> str:
        """Name of the figure by which methods are compared."""
        return self.of_reference.metrics.measure

    @property
    def of_reference(self) -> ComparedMethod:
        """The method that the others are compared with."""
        return next(method for method in self.methods if method.name == self.reference)

    @property
    def reference_in_short(self) -> str:
        """The reference's label, or "the reference" if that is too long for a narrow column."""
        label = self.of_reference.label
        return label if len(label) <= _SHORT else "the reference"

    @property
    def others(self) -> tuple[ComparedMethod, ...]:
        """All but the reference."""
        return tuple(method for method in self.methods if method.name != self.reference)

    @property
    def groups(self) -> tuple[tuple[str, tuple[ComparedMethod, ...]], ...]:
        """The non-empty groups of :data:`GROUPS` with their methods; soft targets follow hard labels."""
        stems = list(dict.fromkeys(method.stem for method in self.methods))
        ordered = sorted(self.methods, key=lambda method: (stems.index(method.stem), method.soft_targets))

        def heading(method: ComparedMethod) -> str:
            if not method.reads_slides:
                return GROUPS[2]
            return GROUPS[
                method.stem.partition(ON)[0].removesuffix(STARTED) not in METHODS and method.name != self.reference
            ]

        groups = ((name, tuple(method for method in ordered if heading(method) == name)) for name in GROUPS)
        return tuple((name, methods) for name, methods in groups if methods)

    def corrected(self) -> dict[str, float | None]:
        """Name of each other method → its p-value after Holm's correction for all of them; None if undefined."""
        p_values = [m.against_reference.p_value if m.against_reference else None for m in self.others]
        return dict(zip((method.name for method in self.others), holm(p_values), strict=True))

    def told_apart(self, direction: int) -> tuple[ComparedMethod, ...]:
        """Methods that are significantly better (1) or worse (−1) than the reference after correction."""
        corrected = self.corrected()
        return tuple(
            method
            for method in self.others
            if method.against_reference is not None
            and (p := corrected[method.name]) is not None
            and p < ALPHA
            and method.against_reference.difference * direction > 0
        )
