"""What a paper takes from one model: sections of its page, tables as CSV, and figures as vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ...data.artifact import whole
from ...data.files.safe_cells import SafeWriter
from ...models.evaluation.metrics import Estimate, Metrics
from ..pages.numbers import TEMPLATES
from ..pages.paper_parts import NOTHING, PaperParts
from .checklist import COLUMNS as CHECKLIST_COLUMNS
from .checklist import ChecklistItem
from .cohort_flow import CohortFlow
from .drawings import Judged, drawings, learning_drawing
from .flow_figure import flow_figure
from .methods import Rows, SlideVectors, commands, settings_file, settings_rows
from .operating import named_points, operating_part
from .patient_characteristics import Characteristics
from .print_style import Drawn, remove_others, write_figures

BINARY_FIGURES = (
    "auc",
    "auprc",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "f1",
    "brier",
    "calibration_error",
    "calibration_in_the_large",
    "calibration_slope",
)
"""Fields of the metrics of two classes, in the order of the table."""
POINT_COLUMNS = ("sensitivity", "specificity", "ppv", "npv", "accuracy")


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Everything that is shown and written.

    :param judged: the model's answers, to each of its targets if it has several.
    :param together: of several targets: the learning curves are of all together.
    :param sections, biomarkers: settings by section, as JSON values, to be written as a settings file.
    :param vectors: the slide vectors that it reads; None where it reads tiles.
    """

    name: str
    flow: CohortFlow
    table: Characteristics
    judged: Sequence[Judged]
    together: Judged | None = None
    methods: Rows
    checklist: Sequence[ChecklistItem]
    sections: Mapping[str, Mapping[str, Any]]
    biomarkers: Mapping[str, Mapping[str, Any]]
    vectors: SlideVectors | None = None

    @cached_property
    def figures(self) -> dict[str, Drawn]:
        """Name → what draws it."""
        drawn: dict[str, Drawn] = {"cohort_flow": partial(flow_figure, self.flow)}
        for one in self.judged:
            drawn |= drawings(one)
        if self.together is not None:
            learning = learning_drawing(self.together.folds, self.together.measure)
            drawn |= {"learning_curves": learning} if learning else {}
        return drawn

    def parts(self, *, figures: bool = True) -> PaperParts:
        """The sections of the page of the model, or of all its targets together.

        :param figures: whether they are written beside it.
        """
        macros: Any = TEMPLATES.get_template("paper.html").module
        lines = commands(self.name, rna="genomics" in self.sections, vectors=self.vectors)
        names = [name.replace("_", " ") for name in self.figures] if figures else []
        files = [f"{name}.csv" for name in self._tables()]
        return PaperParts(
            operating=operating_part(self.judged[0].question, self.judged[0].rows)
            if self.together is None
            else NOTHING,
            cohort=macros.cohort(self.flow, self.table),
            methods=macros.methods(self.methods, lines, self.checklist, names, [*files, "settings.toml"]),
        )

    def write(self, folder: Path, *, figures: bool = True) -> dict[str, Path]:
        """Write ``tables`` and ``figures`` into a folder.

        :param figures: without, those of an earlier run are removed.
        :returns: the outputs of a stage.
        """
        outputs: dict[str, Path] = {}
        for name, (header, rows) in self._tables().items():
            path = outputs[f"table {name}"] = folder / "tables" / f"{name}.csv"
            with whole(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
                writer = SafeWriter(stream)
                writer.writerow(header)
                writer.writerows(rows)
        path = outputs["settings"] = folder / "tables" / "settings.toml"
        with whole(path) as scratch:
            scratch.write_text(settings_file(self.sections, self.biomarkers), encoding="utf-8")
        remove_others(folder / "tables", ("csv",), outputs.values())
        return outputs | write_figures(folder / "figures", self.figures if figures else {})

    def _tables(self) -> dict[str, tuple[Sequence[str], Iterable[Sequence[Any]]]]:
        table = self.table
        groups = [f"{name} (n = {n})" for name, n in table.groups]
        found: dict[str, tuple[Sequence[str], Iterable[Sequence[Any]]]] = {
            "cohort_flow": (("unit", "place", "step", "dropped", "number"), self.flow.rows()),
            "dropped": (("unit", "name", "after", "reason"), self.flow.dropped()),
            "table_1": (("name", "value", *groups), [(row.name, row.value, *row.cells) for row in table.rows]),
            "performance": (("target", "figure", "value", "low", "high"), self._performance()),
        }
        if table.sites:
            found["sites"] = (table.site_columns, table.sites)
        if points := [*self._points()]:
            limits = [f"{name}{end}" for name in POINT_COLUMNS for end in ("", "_low", "_high")]
            found["operating_points"] = (("target", "calls", "level", "threshold", *limits), points)
        found["methods"] = (("name", "value"), self.methods)
        found["settings"] = (("section", "setting", "value"), settings_rows(self.sections))
        found["tripod_ai"] = (CHECKLIST_COLUMNS, [item.cells for item in self.checklist])
        return found

    def _performance(self) -> Iterator[tuple[Any, ...]]:
        of_all = [*self.judged, *([self.together] if self.together else [])]
        for one in of_all:
            for name, estimate in figures_of(one).items():
                yield one.target, name, estimate.value, estimate.low, estimate.high

    def _points(self) -> Iterator[tuple[Any, ...]]:
        for one in self.judged:
            for name, point in named_points(one.question, one.rows):
                estimates = [getattr(point, column) for column in POINT_COLUMNS]
                limits = [limit for estimate in estimates for limit in (estimate.value, estimate.low, estimate.high)]
                yield one.target, name, point.level, point.threshold, *limits


def figures_of(judged: Judged) -> Mapping[str, Estimate]:
    """Every figure of performance, by its name."""
    metrics = judged.metrics
    if isinstance(metrics, Metrics):
        return {name: getattr(metrics, name) for name in BINARY_FIGURES}
    return metrics.figures
