"""The genomics QC page: one static file that shows whether an expression matrix can be trusted.

The comparisons of patients on it (PCA, distances) are for display only, and used nowhere else. The same matrix gives
the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import anndata
import numpy as np
import numpy.typing as npt
import pandas as pd
from markupsafe import Markup

from ..pages.charts import Plot, nice_ticks
from ..pages.numbers import TEMPLATES
from .checks import FAR, FEMALE_Y, FEWEST, MALE_Y, SAME, Checks, PatientCheck, check_expression, gene

Floats = npt.NDArray[np.float64]

MARKERS: Final = ("ESR1", "PGR", "ERBB2", "MKI67")
BATCH_COLOURS: Final = 7
"""The largest batches have a colour each, the others share grey."""
_BARS: Final = 30


def render_genomics_qc(
    expression: anndata.AnnData,
    facts: Sequence[str],
    warnings: Sequence[str],
    clinical: pd.DataFrame | None = None,
    checks: Checks | None = None,
) -> str:
    """Render the page as HTML, in one file that needs no other.

    :param expression: patients × genes, as :func:`~.expression_reading.read_genomics` makes, with ``uns``
        ``unit`` and ``source``.
    :param facts: what was done, a sentence each.
    :param warnings: what the user should think about.
    :param clinical: a table by patient with sex and batch, or None.
    :param checks: result of :func:`~.checks.check_expression`, if it is known already.
    """
    checks = checks or check_expression(expression, clinical)
    zscore = expression.uns.get("input_unit") == "zscore"
    colours = _batch_colours(checks)
    missing = [patient.missing for patient in checks.patients]
    return TEMPLATES.get_template("genomics_qc.html").render(
        source=str(expression.uns["source"]),
        unit=str(expression.uns["unit"]),
        patients=expression.n_obs,
        genes=expression.n_vars,
        missing=sum(missing),
        checks=checks,
        odd=sorted((p for p in checks.patients if p.why), key=lambda p: (-len(p.why), p.patient)),
        facts=facts,
        warnings=warnings,
        zscore=zscore,
        histograms=_histograms(checks, missing),
        pca=_pca_chart(checks, colours),
        legend=_legend(checks, colours),
        markers=[_marker(expression, symbol) for symbol in MARKERS],
        sex=_sex_chart(checks, gene(expression, "XIST"), zscore),
        male_y=MALE_Y,
        female_y=FEMALE_Y,
        far=FAR,
        fewest=FEWEST,
        same=SAME,
    )


def _histograms(checks: Checks, missing: Sequence[int]) -> list[tuple[str, Markup]]:
    """Charts of the patients' figures that the matrix provides, with their titles."""
    patients = checks.patients
    charts = []
    libraries = [patient.library_size for patient in patients if patient.library_size is not None]
    if libraries:
        millions = np.array(libraries) / 1e6
        charts.append(("Library size", _histogram("Library size", millions, "Million reads")))
    detected = [patient.detected for patient in patients if patient.detected is not None]
    if detected:
        charts.append(
            ("Detected genes", _histogram("Detected genes", np.array(detected) / 1e3, "Thousand genes above 0"))
        )
    if any(missing):
        charts.append(
            ("Missing genes", _histogram("Missing genes", np.array(missing, dtype=np.float64), "Genes without a value"))
        )
    distances = np.array([patient.distance for patient in patients])
    label = "Root mean square of the genes"
    charts.append(("Distance from the cohort's mean", _histogram("Distance from the cohort's mean", distances, label)))
    return charts


def _marker(expression: anndata.AnnData, symbol: str) -> tuple[tuple[str, int], Markup | None]:
    """A marker gene, the number of patients beyond its axis, and its chart.

    The axis ends at six robust standard deviations; patients beyond it are in the outermost bars.
    """
    values = gene(expression, symbol)
    if values is None or not np.isfinite(values).any():
        return (symbol, 0), None
    values = values[np.isfinite(values)]
    middle = np.median(values)
    limit = 6 * 1.4826 * np.median(np.abs(values - middle)) or np.inf
    cut = np.clip(values, middle - limit, middle + limit)
    return (symbol, int((cut != values).sum())), _histogram(symbol, cut, str(expression.uns["unit"]))


def _histogram(title: str, values: Floats, label: str) -> Markup:
    ticks = nice_ticks(float(values.min()), float(values.max()), 5)
    bars = min(_BARS, max(6, len(values) // 3))
    counts, edges = np.histogram(values, bins=bars, range=_ends(ticks))
    steps = nice_ticks(0, max(1, int(counts.max())), 3, whole=True)
    plot = Plot(title, 330, 210, _ends(ticks), _ends(steps))
    plot.x_axis(ticks, label)
    plot.y_axis(steps, "Patients")
    for i, n in enumerate(counts.tolist()):
        if n:
            plot.bar(edges[i], edges[i + 1], 0, n, "bar", f"{n} patients, {edges[i]:.4g} to {edges[i + 1]:.4g}")
    return plot.markup()


def _batch_colours(checks: Checks) -> dict[str, int]:
    sizes = Counter(patient.batch for patient in checks.patients if patient.batch is not None)
    largest = sorted(sizes, key=lambda batch: (-sizes[batch], batch))[:BATCH_COLOURS]
    return {batch: number for number, batch in enumerate(largest, start=1)}


def _legend(checks: Checks, colours: dict[str, int]) -> list[tuple[int, str, int]]:
    """Colour, batch and number of patients of each entry; small batches share grey, colour 0."""
    sizes = Counter(patient.batch for patient in checks.patients)
    named = [(number, batch, sizes[batch]) for batch, number in colours.items()]
    others = [batch for batch in sizes if batch is not None and batch not in colours]
    if others:
        named.append((0, f"{len(others)} smaller ones", sum(sizes[batch] for batch in others)))
    if colours and sizes[None]:
        named.append((0, "unknown", sizes[None]))
    return named


def _pca_chart(checks: Checks, colours: dict[str, int]) -> Markup | None:
    """A chart of the first two principal components; None for fewer than three patients."""
    points = np.array([patient.pc for patient in checks.patients])
    if not points.any():
        return None
    ranges = [nice_ticks(float(side.min()), float(side.max()), 5) for side in points.T]
    plot = Plot("Principal components", 560, 420, _ends(ranges[0]), _ends(ranges[1]))
    plot.x_axis(ranges[0], f"First component, {100 * checks.pc_share[0]:.0f} % of the variance")
    plot.y_axis(ranges[1], f"Second component, {100 * checks.pc_share[1]:.0f} %")
    for patient in checks.patients:
        colour = colours.get(patient.batch or "", 0 if colours else 1)
        title = patient.patient + (f", {patient.batch}" if patient.batch else "")
        plot.dot(*patient.pc, f"c{colour}", title)
    return plot.markup()


def _sex_chart(checks: Checks, xist: Floats | None, zscore: bool) -> Markup | None:
    """A chart of the Y genes against XIST, or against the recorded sex if the matrix lacks XIST."""
    shown = [
        (row, patient, patient.y)
        for row, patient in enumerate(checks.patients)
        if patient.y is not None and np.isfinite(patient.y) and (xist is None or np.isfinite(xist[row]))
    ]
    if not shown:
        return None
    levels = [y for _, _, y in shown] + ([] if zscore else [MALE_Y + 1])  # shows the limit for men in a cohort of women
    x_ticks = nice_ticks(min(0.0, *levels), max(levels), 5)
    heights = [_lane(patient, row) if xist is None else float(xist[row]) for row, patient, _ in shown]
    y_ticks = nice_ticks(min(0.0, *heights), max(heights), 4) if xist is not None else []
    plot = Plot("Sex genes", 560, 260, _ends(x_ticks), _ends(y_ticks or [0, 3]))
    plot.x_axis(x_ticks, "Mean of the genes of the Y chromosome")
    if xist is not None:
        plot.y_axis(y_ticks, "XIST")
    else:
        plot.y_axis([0.5, 1.5, 2.5], "Recorded sex", lambda lane: "?MF"[int(lane)])
    for limit in () if zscore else (FEMALE_Y, MALE_Y):
        plot.line([(limit, plot.y_range[0]), (limit, plot.y_range[1])], "chance")
    for (_, patient, y), height in zip(shown, heights, strict=True):
        plot.dot(y, height, f"c{_SEX_COLOUR[patient.recorded_sex]}", f"{patient.patient}, {patient.recorded_sex}")
    return plot.markup()


_SEX_COLOUR: Final = {"female": 2, "male": 1, None: 0}


def _lane(patient: PatientCheck, row: int) -> float:
    """A height in the lane of the recorded sex, spread evenly (golden ratio) so that dots do not overlap."""
    return {"female": 2, "male": 1, None: 0}[patient.recorded_sex] + 0.15 + 0.7 * (row * 0.6180339887 % 1)


def _ends(ticks: Sequence[float]) -> tuple[float, float]:
    return ticks[0], ticks[-1]
