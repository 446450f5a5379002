"""A cohort of which nothing has been done yet, and the faults that `wsipipe check` finds in it."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from wsipipe.pipeline.config import load_config
from wsipipe.pipeline.preflight.check import check
from wsipipe.pipeline.preflight.report import Report

PATIENTS = 24


@dataclass(frozen=True)
class Project:
    """A cohort with its settings file, of which nothing has been done yet."""

    folder: Path

    @property
    def settings(self) -> Path:
        return self.folder / "wsipipe.toml"

    @property
    def table(self) -> Path:
        return self.folder / "cohort.csv"

    def slide(self, patient: str) -> Path:
        return self.folder / "slides" / f"{patient}.tif"

    def edited(self, old: str, new: str, file: str = "wsipipe.toml") -> None:
        path = self.folder / file
        text = path.read_text()
        assert old in text, f"{old!r} is not in {file}"
        path.write_text(text.replace(old, new))

    def checked(self, **options: Any) -> Report:
        return check(load_config(self.settings), **{"seconds": 60, **options})


def draw(path: Path, *, mpp: float | None = 0.5, side: int = 512, seed: int = 0) -> None:
    """A tiled TIFF without tissue: a header is all that is looked at."""
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)
    scale: dict[str, Any] = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"} if mpp else {}
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", **scale)


def make_project(folder: Path) -> Project:
    """A cohort of 24 slides, with labels and RNA, in which nothing is wrong."""
    project = Project(folder)
    (project.folder / "slides").mkdir(parents=True)
    ids = [f"P{number:02}" for number in range(PATIENTS)]
    for number, patient in enumerate(ids):
        draw(project.slide(patient), seed=number)
    rows = [[patient, patient, ["negative", "positive"][number % 2]] for number, patient in enumerate(ids)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["slide_id", "patient_id", "HER2"], *rows])
    project.table.write_text(text.getvalue())
    values = np.random.default_rng(0).uniform(0, 12, (40, PATIENTS)).round(3)
    lines = [",".join(["gene", *ids]), *(f"GENE{n:02}," + ",".join(map(str, row)) for n, row in enumerate(values))]
    (project.folder / "rna.csv").write_text("\n".join(lines) + "\n")
    project.settings.write_text(
        """
        [cohort]
        slides = ["slides"]
        table = "cohort.csv"
        [extract]
        device = "cpu"
        [genomics]
        matrix = "rna.csv"
        unit = "log"
        [train]
        device = "cpu"
        [split]
        folds = 4
        [biomarkers.her2]
        label_column = "HER2"
        """
    )
    return project


def truncated(project: Project) -> None:
    whole = project.slide("P03").read_bytes()
    project.slide("P03").write_bytes(whole[: len(whole) // 2])


def _twin(project: Project, *, one_patient: bool) -> None:
    shutil.copy(project.slide("P00"), project.slide("P00b"))
    project.table.write_text(project.table.read_text() + f"P00b,{'P00' if one_patient else 'P98'},negative\n")


def folder_of_the_same_name(project: Project) -> None:
    (project.folder / "slides/more").mkdir()
    shutil.copy(project.slide("P01"), project.folder / "slides/more/p01.tif")


def _other_ids(project: Project) -> None:
    project.edited("P", "X-", "rna.csv")


def _slides_elsewhere(project: Project) -> None:
    """RNA of every second patient, and the slides of these are not where they are looked for."""
    (project.folder / "moved").mkdir()
    rows = [line.split(",") for line in (project.folder / "rna.csv").read_text().splitlines()]
    for patient in rows[0][1::2]:
        project.slide(patient).rename(project.folder / "moved" / f"{patient}.tif")
    kept = [",".join([row[0], *row[1::2]]) for row in rows]
    (project.folder / "rna.csv").write_text("\n".join(kept) + "\n")


def _leading_zeros(project: Project) -> None:
    project.edited("P03", "P3", "rna.csv")


def _label_among_genes(project: Project) -> None:
    label = ",".join(str(number % 2 * 4.5 + 1.37) for number in range(PATIENTS))
    with (project.folder / "rna.csv").open("a") as stream:
        stream.write(f"ABCX1,{label}\n")


def _of(name: str) -> Callable[[Project], None]:
    """A settings file with another line in place of one."""
    old, new = name.split(" → ")
    return lambda project: project.edited(old, new)


STOPS: list[tuple[str, Callable[[Project], None], str, str]] = [
    ("tile", _of('slides = ["slides"] → slides = ["gone"]'), "gone: no such file or folder", "check the path"),
    ("tile", folder_of_the_same_name, "two slides are called 'p01'", "rename one of them"),
    ("tile", _of('[extract] → [tile]\nannotation_classes = ["x"]\n[extract]'), "no annotations", "--annotations"),
    ("train", _of('label_column = "HER2" → label_column = "HER3"'), "there is no column 'HER3'", "did you mean HER2"),
    ("train", _of('"HER2" → "HER2"\npositive = ["3+"]'), "no row of column HER2 is positive", "negative (12)"),
    ("train", _of("folds = 4 → folds = 13"), "too few patients for 13 folds", "use at most 12 folds"),
    ("train", _of('[biomarkers.her2]\n        label_column = "HER2" → '), "no biomarker is given", "[biomarkers.NAME]"),
    ("train", _of('"HER2" → "HER2"\n[report]\naudit = ["grade"]'), "there is no column 'grade'", "The table has"),
    ("train", _of('[split] → method = "mean"\ninit = "x.pt"\ninit_backbone = "uni"\n[split]'), "cannot start", "abmil"),
    ("train", _of('[split] → gene_list = "none.txt"\n[split]'), "none.txt", ""),
    ("train", _of('"HER2" → "HER2"\n[biomarkers.er]\nsignature = "S"'), "no gene sets are given", "gene_sets"),
    ("train", _other_ids, "none of its patients has a slide", "use the same ids"),
    ("train", _slides_elsewhere, "none of its patients has a slide", "12 of them are in the table"),
    ("train", _label_among_genes, "ABCX1 is not a gene but the label itself", "--drop-columns"),
    ("train", lambda p: _twin(p, one_patient=False), "have the same bytes, of patients P00 and P98", "one patient_id"),
    ("genomics", _of('matrix = "rna.csv" → matrix = "gone.csv"'), "gone.csv", "check the path"),
    ("genomics", _of('unit = "log" → unit = "counts"'), "rna.csv", ""),
    ("extract", _of('device = "cpu" → device = "cuda:9"'), "there is no device 'cuda:9' here", "auto takes"),
    ("extract", _of('[extract] → [extract]\nbackbone = "uni2h-x"'), "no backbone is called", "did you mean"),
    ("extract", _of('[extract] → [extract]\nweights = "gone.pt"'), "no such weights file", "--weights"),
    ("predict", _of('"HER2" → "HER2"\n[predict]\nslides = ["new"]'), "new: no such file or folder", "check the path"),
]  # fmt: skip


LOOK: list[tuple[str, Callable[[Project], None], str, str]] = [
    ("tile", truncated, "P03.tif: ", "copy it again"),
    ("tile", lambda p: draw(p.slide("P04"), mpp=None), "P04.tif: the file does not state the size", "--mpp-override"),
    ("tile", lambda p: draw(p.slide("P04"), mpp=1.0), "P04.tif: ", "--allow-upsample"),
    ("tile", lambda p: draw(p.slide("P04"), side=128), "too small for one tile", "--tile-px"),
    ("tile", lambda p: p.slide("P05").write_bytes(b""), "P05.tif: the file is empty", "copy it again"),
    ("tile", lambda p: (p.folder / "slides/x.vsi").touch(), "a format that is not read (.vsi)", ""),
    ("train", lambda p: p.edited("P06,P06,negative", "P06,P06,2+", "cohort.csv"), "no class: 2+ (1)", "add them"),
    ("train", lambda p: p.slide("P07").rename(p.slide("Q07")), "no row names: 1 (Q07)", "file's name"),
    ("train", lambda p: p.slide("P07").unlink(), "not on disk: 1 (P07)", "check slides"),
    ("train", _leading_zeros, "P3 and P03", "--patient-pattern"),
    ("train", lambda p: _twin(p, one_patient=True), "slides P00 and P00b have the same bytes", "remove one"),
    ("train", _of("folds = 4 → folds = 12"), "a fold tests 1 negative, 1 positive only", "fewer folds"),
]  # fmt: skip
