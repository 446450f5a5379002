"""One small slide of each patient through every stage: the real ones, in a temporary folder, with a tiny network."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from ...data.units import Mpp
from .. import chain
from ..config import Config, parse
from ..console import Console
from ..demo.slides import write_aperio
from ..run.runner import Runner
from .finding import Finding, Subject, failed, ok
from .scratch import scratch_folder, temporary

_PATIENTS: Final = 8
_GENES: Final = 24
_SIDE: Final = 256  # pixels
_GLASS: Final = 243
_SHOWN: Final = ("tile", "extract", "genomics", "train", "predict")
_NETWORK: Final = "test_vit"
"""A transformer of timm for tests, of 0.4 million parameters."""


def every_stage(subject: Subject) -> Finding:
    """Tile, extract, genomics, train and predict on a device; each must do all of its items."""
    begin = time.monotonic()
    with scratch_folder(temporary(), subject) as folder:
        config = _config(folder, subject.device)
        summaries, result = chain.everything(config, Runner(config.workspace, Console(json_only=True)))
        seconds: dict[str, float] = {}
        for summary in summaries:
            seconds[summary.stage] = round(seconds.get(summary.stage, 0.0) + summary.seconds, 2)
        for summary in summaries:
            if summary.failures:
                failure = summary.failures[0]
                return failed(f"{summary.stage} of {failure.item} fails: {failure.message}", failure.hint)
        rows = _predictions(Path(result["predictions"]["doctor"]["predictions"]))
    slides = [row for row in rows if row["level"] == "slide"]
    if [row["slide_id"] for row in slides] != ["new"] or not 0 <= float(slides[0]["probability"]) <= 1:
        return failed(f"predict gives {rows}", "run `wsipipe demo`, and report what it prints")
    took = ", ".join(f"{stage} {seconds[stage]:.1f}" for stage in _SHOWN)
    return ok(f"all {len(seconds)} in {time.monotonic() - begin:.0f} s ({took})", stages=seconds)


def _predictions(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _config(folder: Path, device: str) -> Config:
    """Write slides, table, expression and weights, and make the settings of a run on them."""
    rng = np.random.default_rng(0)
    patients = [f"patient-{number}" for number in range(_PATIENTS)]
    for name in (*patients, "new"):
        place = folder / ("new" if name == "new" else "slides") / f"{name}.svs"
        write_aperio(place, _drawn(rng), mpp=Mpp(0.5))
    labels = {patient: ("positive", "negative")[number % 2] for number, patient in enumerate(patients)}
    _write_csv(folder / "cohort.csv", ["slide_id", "patient_id", "label"], [[p, p, labels[p]] for p in patients])
    counts = rng.poisson(200, (_GENES, _PATIENTS))
    genes = [f"GENE{number}" for number in range(_GENES)]
    _write_csv(
        folder / "counts.csv", ["gene", *patients], [[g, *row] for g, row in zip(genes, counts.tolist(), strict=True)]
    )
    small = {"hidden": 16, "shared": 8, "slots": 2, "genes": 8, "epochs": 1}
    return parse(
        {
            "workspace": folder / "work",
            "cohort": {"slides": [folder / "slides"], "table": folder / "cohort.csv"},
            "tile": {"tile_px": 64, "workers": 1},
            "extract": {"backbone": _NETWORK, "weights": _weights(folder), "device": device, "batch_size": 8},
            "genomics": {"matrix": folder / "counts.csv"},
            "split": {"folds": 2},
            "train": {**small, "device": device},
            "predict": {"slides": [folder / "new"], "device": device},
            "biomarkers": {"doctor": {"label_column": "label"}},
        }
    )


def _drawn(rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A square of stained noise on glass: (side, side, 3) RGB."""
    pixels = np.full((_SIDE, _SIDE, 3), _GLASS, np.float64)
    edge, side = _SIDE // 8, _SIDE * 3 // 4
    spots = np.kron(rng.normal(size=(side // 8, side // 8)), np.ones((8, 8)))
    grey = 20 * spots + 10 * rng.normal(size=(side, side))
    pixels[edge : edge + side, edge : edge + side] = np.array([190, 110, 170]) + grey[..., None]
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _weights(folder: Path) -> Path:
    """Write the random weights of the tiny network."""
    import torch
    from safetensors.torch import save_file

    from ...models.backbones.backbone import find_backbone

    torch.manual_seed(0)
    file = folder / "random.safetensors"
    save_file({k: v.contiguous() for k, v in find_backbone(_NETWORK).build("cpu").state_dict().items()}, file)
    return file


def _write_csv(file: Path, head: list[str], rows: list[list[Any]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([head, *rows])
