"""A small synthetic cohort with a planted biomarker, so that the whole chain runs without any real data.

A continuous molecular state with a bimodal distribution, like HER2, determines three things, each with its own noise:
the label, the expression of some genes, and the fraction of the tissue with the planted texture. Like a real cohort it
has an equivocal and a missing label, patients without RNA, a patient with two slides, a slide at another resolution,
some slides in another format, and a broken slide.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...data.allotment import usable_cores
from ...data.artifact import whole
from ...data.errors import UsageError
from ...data.json_text import parse_json
from ...data.units import Microns, Mpp
from .expression import make_expression
from .slides import write_aperio, write_broken, write_generic
from .tissue import Stain, draw_tissue

LABEL = "HER2"
POSITIVE = "positive"
NEGATIVE = "negative"
FEWEST = 6
SIDE = Microns(1000.0)
"""Least length of the square that a slide's tissue is laid out in."""

SITES = {
    "Northfield": Stain(),
    "Harbour": Stain(haematoxylin=(0.72, 0.74, 0.33), eosin=(0.09, 0.66, 0.32), glass=(240.0, 240.0, 245.0)),
    "St Anne": Stain(haematoxylin=(0.62, 0.78, 0.44), eosin=(0.12, 0.80, 0.50), glass=(246.0, 244.0, 243.0)),
}
"""The laboratories that sent the slides, each with its own staining. All have the same share of positives."""

NEW_STATES = (1.2, -0.9, 0.9, -1.2)
"""Molecular states of the held-out slides: two of each class, none of them near the threshold."""

DRAWING = 1
"""Raised when the same seed no longer gives the same bytes, so that a cohort of an older version is not reused."""


@dataclass(frozen=True, kw_only=True)
class DemoCohort:
    """Files of the demo's cohort, and the label that a model learns from it."""

    slides: Path
    table: Path
    expression: Path
    label_column: str
    positive: str
    negative: str
    broken_slide: str
    """Id of the slide that cannot be opened. It is in the table, and its patient has no other slide."""
    new_slides: Path
    """Slides of patients who are not in the table."""
    new_slides_truth: Path


@dataclass(frozen=True, kw_only=True)
class Patient:
    """One patient, and their irregularities."""

    id: str
    site: str
    state: float
    """The molecular state: a mixture of two distributions around −1 and 1."""
    label: str
    """The label in the table, which may be neither positive nor negative."""
    has_rna: bool = True
    slides: int = 1
    broken: bool = False


@dataclass(frozen=True, kw_only=True)
class _Slide:
    id: str
    patient: Patient
    file: Path
    mpp: Mpp
    side: Microns
    seed: tuple[int, ...]
    """Seed of the slide's random numbers; they do not depend on the other slides or on the order of drawing."""


def make_cohort(folder: Path, *, patients: int = 40, seed: int = 0, side: Microns | None = None) -> DemoCohort:
    """Write the cohort, unless the folder already holds all of it. The same arguments give the same bytes.

    :param patients: number of patients in the table, including the few that cannot be used.
    :param side: least length of the square that a slide's tissue is laid out in; None: as of the cohort that is there,
        or :data:`SIDE`.
    :raises UsageError: fewer than six patients, or a folder with slides that are not this cohort's.
    """
    if patients < FEWEST:
        raise UsageError(f"a demo cohort of {patients} patients is too small", hint=f"take at least {FEWEST}")
    side = side or _side_of(folder)
    people = recruit(np.random.default_rng([seed, 0]), patients)
    new_patients = [
        Patient(id=f"NEW-{n}", site=list(SITES)[n % len(SITES)], state=state, label=_label(state))
        for n, state in enumerate(NEW_STATES, start=1)
    ]
    slides = _slides(people, folder / "slides", side=side, seed=(seed, 2))
    new_slides = _slides(new_patients, folder / "new_slides", side=side, seed=(seed, 3))
    cohort = DemoCohort(
        slides=folder / "slides",
        table=folder / "cohort.csv",
        expression=folder / "expression.csv",
        label_column=LABEL,
        positive=POSITIVE,
        negative=NEGATIVE,
        broken_slide=next(slide.id for slide in slides if slide.patient.broken),
        new_slides=folder / "new_slides",
        new_slides_truth=folder / "new_slides_truth.csv",
    )
    recipe = {"drawing": DRAWING, "patients": patients, "seed": seed, "side": side}
    if side == SIDE:
        del recipe["side"]  # a cohort of before it could be chosen is used as it is
    files = [cohort.table, cohort.expression, cohort.new_slides_truth, *(s.file for s in slides + new_slides)]
    if _is_whole(folder, recipe, files):
        return cohort
    _refuse_other_slides((cohort.slides, cohort.new_slides), files)

    with ThreadPoolExecutor(usable_cores()) as pool:
        for _ in pool.map(_make_slide, slides + new_slides):
            pass
    _write_table(cohort.table, slides, with_site=True)
    _write_table(cohort.new_slides_truth, new_slides, with_site=False)
    states = {person.id: person.state for person in people if person.has_rna}
    with whole(cohort.expression) as scratch:
        make_expression(np.random.default_rng([seed, 1]), states).to_csv(scratch, lineterminator="\n")
    with whole(folder / "demo.json") as scratch:
        scratch.write_text(json.dumps({**recipe, "bytes": _sizes(folder, files)}, indent=1))
    return cohort


def _label(state: float) -> str:
    return POSITIVE if state > 0 else NEGATIVE


def recruit(rng: np.random.Generator, patients: int) -> list[Patient]:
    """Draw the patients: half from either distribution of the state, spread evenly over the sites."""
    state = np.where(np.arange(patients) % 2, -1.0, 1.0) + rng.normal(0, 0.45, patients)
    order = np.argsort(state)
    site = np.empty(patients, int)
    for start in range(0, patients, len(SITES)):  # neighbours in state go to different sites
        block = order[start : start + len(SITES)]
        site[block] = rng.permutation(len(SITES))[: len(block)]
    observed = state + rng.normal(0, 0.25, patients)
    numbers = rng.permutation(patients) + 1
    people = [
        Patient(
            id=f"DEMO-{numbers[i]:03d}", site=list(SITES)[site[i]], state=float(state[i]), label=_label(observed[i])
        )
        for i in range(patients)
    ]

    # Patients with irregularities, from both classes in turn: the equivocal one is the nearest to the threshold.
    people.sort(key=lambda person: abs(person.state))
    equivocal = people.pop(0)
    people.sort(key=lambda person: person.id)
    unlabelled = _take(people, other_than=equivocal.label)
    broken = _take(people, other_than=unlabelled.label)
    twice = _take(people, other_than=broken.label)
    without_rna = [_take(people, other_than=(NEGATIVE, POSITIVE)[i % 2]) for i in range(max(1, patients // 8))]
    people += [
        replace(equivocal, label="equivocal"),
        replace(unlabelled, label=""),
        replace(broken, broken=True),
        replace(twice, slides=2),
        *(replace(person, has_rna=False) for person in without_rna),
    ]
    return sorted(people, key=lambda person: person.id)


def _take(people: list[Patient], *, other_than: str) -> Patient:
    """Remove and return the first patient of the other class (or of any class, if there is none)."""
    chosen = next((person for person in people if person.label != other_than), people[0])
    people.remove(chosen)
    return chosen


def _slides(people: list[Patient], folder: Path, *, side: Microns, seed: tuple[int, int]) -> list[_Slide]:
    """The slides of the patients: every sixth is a generic TIFF, the third is scanned at 0.25 microns per pixel."""
    slides: list[_Slide] = []
    for person in people:
        for number in range(1, person.slides + 1):
            count = len(slides)
            generic = count % 6 == 1 and not person.broken
            slides.append(
                _Slide(
                    id=f"{person.id}-{number}",
                    patient=person,
                    file=folder / f"{person.id}-{number}{'.tif' if generic else '.svs'}",
                    mpp=Mpp(0.25 if count == 2 else 0.5),
                    side=side,
                    seed=(*seed, count),
                )
            )
    return slides


def _make_slide(slide: _Slide) -> None:
    rng = np.random.default_rng(slide.seed)
    side = Microns(rng.uniform(slide.side, 1.12 * slide.side) if slide.mpp == 0.5 else 0.9 * slide.side)
    shown = slide.patient.state + rng.normal(0, 0.25)
    pixels = draw_tissue(
        rng,
        side=side,
        mpp=slide.mpp,
        planted_fraction=0.02 + 0.48 / (1 + np.exp(-4 * shown)),
        stain=_restained(rng, SITES[slide.patient.site]),
    )
    if slide.patient.broken:
        write = write_broken
    elif slide.file.suffix == ".tif":
        write = write_generic
    else:
        write = write_aperio
    write(slide.file, pixels, mpp=slide.mpp)


def _restained(rng: np.random.Generator, stain: Stain) -> Stain:
    """The site's stain with the variation of one day: each dye stronger or weaker, with a slightly different hue."""

    def varied(density: tuple[float, float, float]) -> tuple[float, float, float]:
        red, green, blue = np.array(density) * rng.lognormal(0, 0.10) * rng.lognormal(0, 0.03, 3)
        return float(red), float(green), float(blue)

    return replace(stain, haematoxylin=varied(stain.haematoxylin), eosin=varied(stain.eosin))


def _write_table(path: Path, slides: list[_Slide], *, with_site: bool) -> None:
    with whole(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["slide_id", "patient_id", *(["site"] if with_site else []), LABEL])
        for slide in slides:
            patient = slide.patient
            writer.writerow([slide.id, patient.id, *([patient.site] if with_site else []), patient.label])


def _sizes(folder: Path, files: Iterable[Path]) -> dict[str, int]:
    return {str(file.relative_to(folder)): file.stat().st_size for file in files}


def _record_of(folder: Path) -> dict[str, object]:
    """What ``demo.json`` says of the cohort that is there; nothing if it is not there or damaged."""
    try:
        record = parse_json((folder / "demo.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _side_of(folder: Path) -> Microns:
    side = _record_of(folder).get("side")
    return Microns(side) if isinstance(side, float) and 0 < side < SIDE else SIDE


def _is_whole(folder: Path, recipe: dict[str, float], files: list[Path]) -> bool:
    """Whether the folder holds exactly these files, completely written. The record ``demo.json`` is written last."""
    try:
        return _record_of(folder) == {**recipe, "bytes": _sizes(folder, files)}
    except OSError:
        return False


def _refuse_other_slides(folders: Iterable[Path], files: list[Path]) -> None:
    """Refuse folders with slides of another cohort: the chain would use all of them."""
    known = {file.name for file in files}
    for folder in folders:
        for file in sorted(folder.glob("[!.]*")):
            if file.name not in known:
                raise UsageError(
                    "not a slide of this demo cohort", path=file, hint="choose an empty folder for the demo"
                )
