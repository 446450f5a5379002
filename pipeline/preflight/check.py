"""The whole check: everything is looked at, and what is wrong is collected. Nothing is written."""

from __future__ import annotations

from ...data.cohort.table import FIELDS, CohortTable, read_cohort
from ...data.manifest import Manifest, Record
from ...stages.settings import Settings
from ..biomarkers.to_train import biomarkers_of, cohort_table
from ..config import Config
from ..given_slides import given_slides
from .cohort import check_cohort
from .expected import expect
from .machine import check_machine
from .molecular import read_molecular
from .report import Report
from .slides import find_cohort


def check(config: Config, *, seconds: float, large: bool = True) -> Report:
    """Look at settings, tables, matrices, slides' headers and the machine.

    :param seconds: time limit for opening slides.
    :param large: whether large matrices are read.
    """
    report = Report()
    table = _table(config, report)
    with report.collecting("train"):
        biomarkers_of(config, None)
    device = check_machine(config, report)
    tables = read_molecular(config, report, large=large)
    slides = find_cohort(config, table, report, seconds)
    check_cohort(config, table, slides, tables, report)
    _check_earlier_results(config, report)
    _check_new_slides(config, report)
    expect(config, slides, device, report)
    return report


def _table(config: Config, report: Report) -> CohortTable | None:
    if config.biomarkers:
        with report.collecting("train"):
            cohort_table(config)
    if config.cohort.table is None:
        return None
    table: CohortTable | None = None
    with report.collecting("tile"):
        table = read_cohort(config.cohort.table)
        own = [name for name, cells in table.frame.items() if name not in FIELDS or (cells != "").any()]
        report.fact("table", f"{table.source}: {len(table.frame):,} rows, {len(own)} columns with a value")
    return table


def _check_earlier_results(config: Config, report: Report) -> None:
    """Results of other settings are not replaced unasked: the run would stop there."""
    workspace = config.workspace
    stages: list[tuple[str, str, Settings]] = [("extract", f"features/{config.features_name()}", config.extract)]
    stages += [("train", f"models/{name}", config.train) for name in config.biomarkers]
    for stage, folder, settings in stages:
        records = Manifest.of(workspace / folder).latest(stage).values()
        unlike = [changes for record in records if (changes := _unlike(settings, record))]
        if unlike:
            what = (
                f"{workspace / folder}: {len(unlike)} results were made with other settings ({'; '.join(unlike[-1])})"
            )
            report.stops(stage, what, "--replace makes them again; another workspace or name keeps both")


def _unlike(settings: Settings, record: Record) -> list[str]:
    return [] if record.status != "done" else settings.unlike(record.settings, settings.result_settings())


def _check_new_slides(config: Config, report: Report) -> None:
    """The slides to predict on, and their table."""
    if not (config.predict.slides or config.predict.table):
        return
    with report.collecting("predict"):
        table = read_cohort(config.predict.table) if config.predict.table else None
        found = given_slides(config.predict.slides, table, None)
        report.fact("new slides", f"{len(found):,} to predict on", slides=len(found))
