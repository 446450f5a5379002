"""The page and the table of a comparison whose task is not binary."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from ...models.evaluation.task_metrics import TaskMetrics
from ...models.tasks.prediction import prevalence_cell
from ..pages.audit_words import AuditSection
from ..pages.numbers import TEMPLATES
from ..pages.task_page import task_cautions
from .page import verdict
from .results import Comparison


def task_comparison_page(comparison: Comparison, targets: Sequence[str] = ()) -> str:
    """The comparison as HTML: one file that needs no other.

    :param targets: those that have a page of their own, in ``targets/<name>/`` beside this one.
    """
    metrics = comparison.of_reference.metrics
    assert isinstance(metrics, TaskMetrics)
    return TEMPLATES.get_template("task_comparison.html").render(
        comparison=comparison,
        pages=[(name, f"./targets/{quote(name)}/comparison.html") for name in targets],
        reference=comparison.of_reference,
        audits={name: AuditSection(audit) for name, audit in comparison.audits.items()},
        metrics=metrics,
        verdict=verdict(comparison),
        cautions=task_cautions(metrics),
        corrected=comparison.corrected(),
        folds=max(len(method.fold_aucs) for method in comparison.methods),
    )


def task_comparison_table(comparison: Comparison) -> list[dict[str, str | int | float | None]]:
    """One row per method, for a CSV file: figures with ``_low`` and ``_high``, folds, the difference and its test."""
    corrected = comparison.corrected()
    folds = max(len(method.fold_aucs) for method in comparison.methods)
    rows: list[dict[str, str | int | float | None]] = []
    for method in comparison.methods:
        assert isinstance(method.metrics, TaskMetrics)
        row: dict[str, str | int | float | None] = {
            "method": method.name,
            "title": method.title,
            "reference": int(method.name == comparison.reference),
            "measure": comparison.measure,
            "patients": method.metrics.n_patients,
        }
        if comparison.question.classes:
            row["prevalence"] = prevalence_cell(comparison.prevalence)
        for name, estimate in method.metrics.figures.items():
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        row |= dict(zip(("fold_mean", "fold_sd"), method.of_folds, strict=True))
        row |= {f"fold_{i}": dict(enumerate(method.fold_aucs)).get(i) for i in range(folds)}
        row |= method.difference_columns(corrected.get(method.name))
        rows.append(row)
    return rows
