"""A small workspace whose label is a class, a grade, a number or a follow-up, planted in the first features."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from planted_workspace import GENES, TELLING, WIDTH, Patient, Planted, write_rna, write_slide


@dataclass(frozen=True)
class Asked:
    """A patient as the cohort table has them: the label's columns, and how strongly the slide shows it."""

    columns: Mapping[str, str]
    signal: float
    further: tuple[float, ...] = ()
    """How strongly it shows further labels, each in features and genes of its own."""


def plant_task(
    folder: Path,
    asked: Sequence[Asked],
    question: str,
    *,
    epochs: int = 3,
    seed: int = 0,
    first: int = 0,
    rna: bool = True,
) -> Planted:
    """Write a project with a slide a patient, the features of which follow the patient's signal.

    :param question: the lines of the biomarker in the settings.
    :param first: number of the first patient, for cohorts that share nobody.
    """
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    patients = []
    for n, one in enumerate(asked, start=first):
        tiles = draw.normal(0, 1, (int(draw.integers(6, 14)), WIDTH)).astype(np.float32)
        genes = draw.normal(8, 1, GENES).astype(np.float32)
        for place, signal in enumerate((one.signal, *one.further)):
            own = slice(place * TELLING, (place + 1) * TELLING)
            tiles[: len(tiles) // 2 + 1, own] += signal
            genes[own] += signal
        patients.append(Patient(f"P{n:03d}", "", {f"S{n:03d}": tiles}, genes if rna else None))
    planted = Planted(folder, patients)
    names = list(asked[0].columns)
    with (folder / "cohort.csv").open("w", newline="") as stream:
        rows = [[s, p.id, *one.columns.values()] for p, one in zip(patients, asked, strict=True) for s in p.slides]
        csv.writer(stream).writerows([["slide_id", "patient_id", *names], *rows])
    matrix = 'matrix = "rna.csv"' if rna else ""
    planted.settings.write_text(
        f"""
        [cohort]
        table = "cohort.csv"
        [genomics]
        {matrix}
        unit = "log"
        [split]
        folds = 2
        validation_fraction = 0.4
        [train]
        hidden = 16
        shared = 8
        slots = 3
        genes = 12
        epochs = {epochs}
        learning_rate = 0.003
        device = "cpu"
        [report]
        figures = false
        [biomarkers.er]
        {question}
        """
    )
    for patient in patients:
        for slide, bag in patient.slides.items():
            write_slide(planted, slide, bag)
    write_rna(planted, patients)
    return planted


def of_classes(names: Sequence[str], each: int = 10, strength: float = 2.0) -> list[Asked]:
    """Patients of each class in turn; the slides of class c show c times the strength."""
    return [Asked({"grade": name}, strength * place) for _ in range(each) for place, name in enumerate(names)]


RECEPTORS = """label_column = "er"
        [biomarkers.pr]
        label_column = "pr"
        [biomarkers.her2]
        label_column = "her2_score"
        positive = ["3+"]
        negative = ["0", "1+"]
        [biomarkers.receptors]
        targets = ["er", "pr", "her2"]"""
"""Three biomarkers, and the question that has them as its targets."""


def of_receptors(n: int = 48, strength: float = 2.0) -> list[Asked]:
    """Patients of whom half are positive for er; pr agrees with it in three of four; her2 is known of two of three.

    A third of those are positive. Three patients have pr or her2 alone, one has nothing.
    """
    patients = []
    for i in range(n):
        er, pr, her2 = i % 2, (i % 2) ^ (i // 2 % 4 == 3), i // 2 % 3 == 0
        words = {"er": ("negative", "positive")[er], "pr": ("negative", "positive")[pr]}
        words["her2_score"] = "" if i // 4 % 3 == 2 else "3+" if her2 else ("0", "1+")[i % 2]
        if i in (5, 11, 17, 23):
            words["er"] = "not evaluated"
        if i in (17, 23):
            words["pr"] = ""
        if i == 23:
            words["her2_score"] = "2+"
        patients.append(Asked(words, strength * er, (strength * pr, strength * her2)))
    return patients
