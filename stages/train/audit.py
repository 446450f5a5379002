"""The audit of a model's out-of-fold scores: columns of the cohort table in, two files and a part of a page out.

audit.json     what was found, for each method
audit.csv      the same figures as a table: a row for each subgroup, regression and test
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from ...data.artifact import remove, whole
from ...data.cohort.covariates import Covariate, read_covariates
from ...data.cohort.splits import make_splits
from ...data.cohort.table import CohortTable, read_cohort
from ...data.errors import UsageError
from ...data.files.safe_cells import SafeWriter
from ...models.audit.confounding import Audit, audit
from ...models.audit.strata import Strata
from ...models.audit.task_audit import TaskAudit, TaskWithin, audit_task
from ...models.audit.within_strata import FEWEST, WithinStrata
from ...models.evaluation.metrics import Estimate
from ...models.tasks.binary import BINARY
from ...models.tasks.prediction import PatientPrediction
from ...models.tasks.question import TaskName
from ...models.tasks.task import Task
from ..stage import Input, ValueInput

AUDIT_COLUMNS: Final = (
    "method",
    "part",
    "column",
    "stratum",
    "patients",
    "positive",
    "figure",
    "value",
    "low",
    "high",
    "p_value",
)
"""Columns of ``audit.csv``."""
_FOLDS: Final = 5  # of the regressions on a cohort that has no folds of its own


class Asks(Protocol):
    """What an audit needs of a question."""

    @property
    def task(self) -> TaskName: ...
    @property
    def label_column(self) -> str: ...
    @property
    def event_column(self) -> str: ...


@dataclass(frozen=True)
class Audited:
    """The columns that scores are audited against; none if no audit was asked for."""

    columns: tuple[Covariate, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, wanted: Sequence[str], table: Path | CohortTable | None, asked: Asks) -> Audited:
        """Read the columns.

        :param wanted: their names, as given by ``--audit``.
        :param asked: the question of the model.
        :raises CohortError: a column that the table lacks, or that cannot be audited.
        :raises UsageError: the model has several targets, or there is no table.
        """
        names = [name for name in wanted if name.strip(" ,")]
        if not names:
            return cls()
        if asked.task == "multitask":
            what = f"--audit is of one label, and this model has several targets: {asked.label_column}"
            raise UsageError(what, hint="leave it out, or train a model of the one target and audit that")
        if table is None:
            raise UsageError("--audit needs the cohort table", hint="use --table, or table in [cohort]")
        cohort = read_cohort(table) if isinstance(table, Path) else table
        columns, notes = read_covariates(cohort, names, asked.label_column)
        if asked.event_column and (own := cohort.column(asked.event_column)) in [column.name for column in columns]:
            what = f"column {own} is part of the label: it cannot be audited against itself"
            raise UsageError(what, hint="name columns that may go along with it: grade, ER, site")
        return cls(tuple(columns), tuple(notes))

    @property
    def inputs(self) -> dict[str, Input]:
        """The columns' values, as inputs of a stage."""
        return {
            f"audit of {column.name}": ValueInput({**column.values, **dict.fromkeys(column.several, None)})
            for column in self.columns
        }

    def audit(self, rows: Sequence[PatientPrediction], task: Task) -> AnyAudit | None:
        """Audit the scores of patients whose labels are known; None if no audit was asked for."""
        if not self.columns:
            return None
        patients = [row.patient_id for row in rows]
        strata = [
            Strata.of(
                column.name,
                [column.values[patient] for patient in patients],
                [patient in column.several for patient in patients],
                is_code=column.is_code,
            )
            for column in self.columns
        ]
        folds = _folds(rows, task)
        if task.name != "binary":
            return audit_task(task.name, task.outcome(rows), strata, folds)
        return audit([int(row.label == 1) for row in rows], [row.logit for row in rows], strata, folds)


AnyAudit = Audit | TaskAudit
"""Of two classes, or of another task."""
NOT_AUDITED: Final = Audited()


def _folds(rows: Sequence[PatientPrediction], task: Task = BINARY) -> list[int]:
    """Each patient's fold: that in which the model was tested on them, else one of folds that are dealt here."""
    if all(len(row.folds) == 1 for row in rows) and len({row.folds for row in rows}) > 1:
        return [row.fold for row in rows]
    if task.name != "binary":
        strata = task.strata({row.patient_id: row.label for row in rows if row.label is not None})
        order = sorted(strata, key=lambda patient: (strata[patient], patient))
        return [order.index(row.patient_id) % _FOLDS for row in rows]
    labels = {row.patient_id: int(row.label == 1) for row in rows}
    if min(sum(labels.values()), len(labels) - sum(labels.values())) < FEWEST:
        return [0] * len(rows)  # too few patients for a regression
    splits = make_splits(labels, _FOLDS, seed=0, validation_fraction=0.2)
    return [splits.test_fold(row.patient_id) for row in rows]


def write_audits(folder: Path, audits: Mapping[str, AnyAudit]) -> dict[str, Path]:
    """Write ``audit.json`` and ``audit.csv``; without audits, remove those of an earlier run.

    :param audits: by method.
    :returns: the outputs of a stage.
    """
    content, table = folder / "audit.json", folder / "audit.csv"
    if not audits:
        for file in (content, table):
            remove(file)
        return {}
    with whole(content) as scratch:
        found = {method: own.model_dump(mode="json") for method, own in audits.items()}
        scratch.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with whole(table) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
        writer = SafeWriter(stream)
        writer.writerow(AUDIT_COLUMNS)
        for method, own in audits.items():
            rows = _task_rows(own) if isinstance(own, TaskAudit) else _rows(own)
            writer.writerows([[method, *(row.get(name, "") for name in AUDIT_COLUMNS[1:])] for row in rows])
    return {"audit": content, "audit_table": table}


def _rows(own: Audit) -> Iterator[dict[str, Any]]:
    """The rows of one method, without it."""
    yield {"part": "all patients", **_auc(own.n_patients, own.n_positive, own.score)}
    for column in own.columns:
        for group in column.subgroups:
            about = {"part": "subgroup", "column": column.column, "stratum": group.stratum}
            yield about | _auc(group.n_patients, group.n_positive, group.auc)
        yield {"part": "within strata", "column": column.column} | _pooled(column.pooled)
    names = "; ".join(column.column for column in own.columns)
    yield {"part": "within strata of all columns", "column": names} | _pooled(own.together)
    alone = own.alone
    if alone is None:
        return
    of_all = {"column": names, "patients": alone.n_patients, "positive": alone.n_positive}
    for part, estimate in (("columns alone", alone.columns), ("slide alone", alone.score), ("both", alone.both)):
        yield of_all | {"part": part} | _auc(alone.n_patients, alone.n_positive, estimate)
    if alone.gain is not None:
        gain = {"value": alone.gain.difference, "low": alone.gain.low, "high": alone.gain.high}
        yield of_all | {"part": "gain", "figure": "difference of AUC, DeLong", "p_value": alone.gain.p_value} | gain
    test = {"figure": "likelihood ratio, 1 degree of freedom", "value": alone.likelihood_ratio}
    yield of_all | {"part": "gain", "p_value": alone.p_value} | test
    yield of_all | {"part": "gain", "figure": "odds ratio for a standard deviation"} | alone.odds_ratio.model_dump()


def _task_rows(own: TaskAudit) -> Iterator[dict[str, Any]]:
    """The rows of one method of a task other than the binary one; the column ``positive`` stays empty."""

    def figure(patients: int, estimate: Estimate) -> dict[str, Any]:
        return {"patients": patients, "figure": own.measure, **estimate.model_dump()}

    def within(part: TaskWithin) -> dict[str, Any]:
        return figure(part.n_compared, part.within) | {"p_value": part.p_value}

    yield {"part": "all patients"} | figure(own.n_patients, own.score)
    for column in own.columns:
        for group in column.subgroups:
            about = {"part": "subgroup", "column": column.column, "stratum": group.stratum}
            yield about | figure(group.n_patients, group.figure)
        yield {"part": "within strata", "column": column.column} | within(column.pooled)
    names = "; ".join(column.column for column in own.columns)
    yield {"part": "within strata of all columns", "column": names} | within(own.together)
    alone = own.alone
    if alone is None:
        return
    of_all = {"column": names, "patients": alone.n_patients}
    for part, estimate in (("columns alone", alone.columns), ("slide alone", alone.score), ("both", alone.both)):
        yield of_all | {"part": part} | figure(alone.n_patients, estimate)
    if alone.gain is not None:
        gain = {"value": alone.gain.difference, "low": alone.gain.low, "high": alone.gain.high}
        yield of_all | {"part": "gain", "figure": f"difference of {own.measure}, bootstrap"} | gain
    yield of_all | {
        "part": "gain", "p_value": alone.p_value, "figure": f"{own.test}, 1 degree of freedom",
        "value": alone.likelihood_ratio,
    }  # fmt: skip
    yield of_all | {"part": "gain", "figure": own.effect} | alone.effect.model_dump()


def _auc(patients: int, positive: int, estimate: Estimate) -> dict[str, Any]:
    return {"patients": patients, "positive": positive, "figure": "AUC", **estimate.model_dump()}


def _pooled(pooled: WithinStrata) -> dict[str, Any]:
    return _auc(pooled.n_compared, pooled.n_compared_positive, pooled.within) | {"p_value": pooled.p_value}
