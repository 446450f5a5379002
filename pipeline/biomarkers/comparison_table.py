"""The closing table of ``wsipipe compare``, from the rows of its CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from ...data.manifest import Json
from ..console import Console


def show_comparisons(console: Console, results: Mapping[str, Json]) -> None:
    """Print a table for each biomarker, and where its page is."""
    for name, paths in results.items():
        if "waits" in paths:
            console.line(f"{name}: {paths['waits']}")
            continue
        if "failed" in paths:
            console.line(f"{name}: {paths['failed']} failed, no comparison")
            continue
        console.heading(name)
        with Path(paths["csv"]).open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0))
        if "measure" in rows[0]:
            _task_rows(table, rows)
            console.table(table)
            console.line(f"  {paths['html']}")
            continue
        for title in (
            "method",
            "AUC (95 %)",
            "AUC over folds",
            "AUPRC",
            "Brier",
            f"against {next(row['method'] for row in rows if row['reference'] == '1')} (95 %)",
            "p (DeLong)",
            "p (Holm)",
        ):
            table.add_column(title, justify="left" if title == "method" else "right")
        for row in rows:
            table.add_row(
                row["method"],
                _interval(row, "auc"),
                f"{_figure(row['auc_fold_mean'])} ± {_figure(row['auc_fold_sd'])}",
                _figure(row["auprc"]),
                _figure(row["brier"]),
                _interval(row, "difference", sign="+"),
                _p_value(row["p_value"]),
                _p_value(row["p_value_holm"]),
            )
        console.table(table)
        console.line(f"  Brier score at a prevalence of {100 * float(rows[0]['prevalence']):.3g} %")
        console.line(f"  {paths['html']}")


def _task_rows(table: Table, rows: Sequence[Mapping[str, str]]) -> None:
    """The table of a task other than the binary one."""
    measure = rows[0]["measure"]
    [reference] = [row["method"] for row in rows if row["reference"] == "1"]
    titles = ("method", f"{measure} (95 %)", "over folds", f"against {reference} (95 %)", "p", "p (Holm)")
    for title in titles:
        table.add_column(title, justify="left" if title == "method" else "right")
    for row in rows:
        table.add_row(
            row["method"],
            _interval(row, measure),
            f"{_figure(row['fold_mean'])} ± {_figure(row['fold_sd'])}",
            _interval(row, "difference", sign="+"),
            _p_value(row["p_value"]),
            _p_value(row["p_value_holm"]),
        )


def _interval(row: Mapping[str, str], name: str, sign: str = "") -> str:
    if not row[name]:
        return "–"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    between = f" ({_figure(low, sign)} to {_figure(high, sign)})" if low and high else ""
    return _figure(row[name], sign) + between


def _figure(value: str, sign: str = "") -> str:
    return f"{float(value):{sign}.3f}" if value else "–"


def _p_value(value: str) -> str:
    return "< 0.001" if value and float(value) < 0.001 else _figure(value)
