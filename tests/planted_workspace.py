"""A small workspace made by hand: features with a planted signal, as if slides had been tiled and extracted.

Positive patients have a part of their tiles shifted in the first :data:`TELLING` features; the first :data:`TELLING`
genes of their RNA are high. All else is noise.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tile_sets import tile_set
from wsipipe import __version__
from wsipipe.data.artifact import digest_of, size_of
from wsipipe.data.features.store import FeatureFacts, write_features
from wsipipe.data.manifest import InputRecord, Manifest, OutputRecord, Record, Status
from wsipipe.data.tiling.grid import plan_grid
from wsipipe.data.tiling.store import write_tiles
from wsipipe.data.units import Mpp, TilePx
from wsipipe.models.tasks.prediction import PatientPrediction
from wsipipe.pipeline.config import Config, load_config
from wsipipe.pipeline.console import Console
from wsipipe.pipeline.run.runner import Runner
from wsipipe.stages.extract.settings import ExtractSettings
from wsipipe.stages.genomics.stage import GenomicsStage
from wsipipe.stages.registry import VERSIONS
from wsipipe.stages.settings import Settings
from wsipipe.stages.tile.settings import TileSettings
from wsipipe.stages.train.cross_validate import CrossValidateSettings, CrossValidateStage, read_oof
from wsipipe.stages.train.split import SplitStage, SplitStageSettings
from wsipipe.stages.train.stage import TrainStage

WIDTH, GENES, TELLING = 16, 24, 4
TILE_PX, SIDE = 224, 5
"""A slide is a square of SIDE × SIDE tiles; which of them are tissue is its own affair."""
WEIGHTS = "sha256:" + "0" * 64
TILES, FEATURES = Path("tiles/0.5mpp-224px"), Path("features/0.5mpp-224px/efficientnet-lite0")

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Patient:
    """A patient of the cohort: a bag (tiles, :data:`WIDTH`) for each slide, and RNA (:data:`GENES`) if measured."""

    id: str
    label: str
    slides: Mapping[str, Floats]
    rna: Floats | None


@dataclass(frozen=True)
class Planted:
    """A project: its settings file, with everything else beside it."""

    folder: Path
    patients: Sequence[Patient] = field(default=(), repr=False)

    @property
    def settings(self) -> Path:
        return self.folder / "wsipipe.toml"

    @property
    def workspace(self) -> Path:
        return self.folder / "work"

    @property
    def model(self) -> Path:
        return self.workspace / "models/er"

    def store(self, slide: str) -> Path:
        return self.workspace / FEATURES / f"{slide}.zarr"

    def picture(self, slide: str) -> Path:
        """Where the slide's own file would be."""
        return self.folder / "slides" / f"{slide}.png"

    def config(self, **train: object) -> Config:
        """The settings, those of training changed."""
        return load_config(self.settings, {"train": train})

    def runner(self) -> Runner:
        return Runner(self.workspace, Console(json_only=True))

    def copied(self, folder: Path) -> Planted:
        """The same elsewhere, to play with."""
        return replace(self, folder=Path(shutil.copytree(self.folder, folder)))

    def splitter(self, **split: object) -> SplitStage:
        """The stage that makes the split of the model ``er``, by other settings if given."""
        config = load_config(self.settings, {"split": split})
        expression = self.workspace / "genomics/expression.zarr"
        return SplitStage(
            SplitStageSettings(**config.split.model_dump(), **config.question("er").model_dump()),
            self.model,
            self.workspace,
            table=self.folder / "cohort.csv",
            tiles=self.workspace / TILES,
            features=self.workspace / FEATURES,
            molecular=[expression] if expression.exists() else [],
        )

    def trainer(
        self, folder: Path | None = None, *, kind: type[TrainStage] = TrainStage, **train: object
    ) -> TrainStage:
        """The stage that trains the model ``er``, on the split that is there.

        :param folder: of the bundles; default: the model's.
        """
        config = self.config(**train)
        expression = self.workspace / "genomics/expression.zarr"
        return kind(
            config.train,
            folder or self.model,
            self.workspace,
            biomarker=config.question("er"),
            tiles=self.workspace / TILES,
            features=self.workspace / FEATURES,
            stores=[expression] if expression.exists() else [],
            splits=self.model,
            question="er",
        )

    def evaluator(self, folder: Path | None = None, **settings: object) -> CrossValidateStage:
        """The stage that tests the bundles of a folder, on the split of the model ``er``."""
        given = CrossValidateSettings.model_validate({"device": "cpu", **settings})
        features = self.workspace / FEATURES
        return CrossValidateStage(given, folder or self.model, self.workspace, features=features, splits=self.model)

    def evaluation(self, folder: Path) -> list[PatientPrediction]:
        """What cross-validation says of the bundles in a folder."""
        assert not self.runner().run(self.evaluator(folder, bootstrap_rounds=10)).failures
        return read_oof(folder / "oof_predictions.csv")


def make_patients(
    number: int = 40, *, seed: int = 0, without_rna: int = 0, strength: float = 1.5, tiles: tuple[int, int] = (6, 20)
) -> list[Patient]:
    """Half of them positive; each third has two slides.

    :param without_rna: so many have none, of both classes in turn.
    :param strength: how far a positive patient's telling tiles are shifted, in standard deviations.
    :param tiles: of a slide, the fewest and the most.
    """
    draw = np.random.default_rng(seed)
    patients = []
    for n in range(number):
        positive = n % 2
        slides = {}
        for m in range(2 if n % 3 == 0 else 1):
            count = int(draw.integers(*tiles, endpoint=True))
            bag = draw.normal(0, 1, (count, WIDTH)).astype(np.float32)
            bag[: count // 2 + 1, :TELLING] += positive * strength
            slides[f"S{n:02d}{'ab'[m]}"] = bag
        rna = draw.normal(8, 1, GENES).astype(np.float32)
        rna[:TELLING] += 2 * positive
        patients.append(
            Patient(f"P{n:02d}", ("negative", "positive")[positive], slides, rna if n >= without_rna else None)
        )
    return patients


def plant(folder: Path, patients: Sequence[Patient], *, epochs: int = 3) -> Planted:
    """Write the project: cohort table, matrix of RNA, what tile, extract and genomics would have left, settings."""
    folder.mkdir(parents=True, exist_ok=True)
    planted = Planted(folder, patients)
    with (folder / "cohort.csv").open("w", newline="") as stream:
        rows = [["slide_id", "patient_id", "er"], *([s, p.id, p.label] for p in patients for s in p.slides)]
        csv.writer(stream).writerows(rows)
    rna = 'matrix = "rna.csv"' if any(patient.rna is not None for patient in patients) else ""
    planted.settings.write_text(
        f"""
        [cohort]
        table = "cohort.csv"
        [genomics]
        {rna}
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
        label_column = "er"
        """
    )
    for patient in patients:
        for slide, bag in patient.slides.items():
            write_slide(planted, slide, bag)
    write_rna(planted, patients)
    return planted


def write_rna(planted: Planted, patients: Iterable[Patient]) -> None:
    """The matrix, genes × patients, and the store that ``wsipipe genomics`` makes of it."""
    measured = [patient for patient in patients if patient.rna is not None]
    if not measured:
        return
    with (planted.folder / "rna.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["gene", *(patient.id for patient in measured)])
        for gene in range(GENES):
            values = [patient.rna[gene] for patient in measured if patient.rna is not None]
            writer.writerow([f"GENE{gene:02d}", *("" if np.isnan(value) else f"{value:.5f}" for value in values)])
    settings = planted.config().genomics
    assert not planted.runner().run(GenomicsStage(settings, planted.workspace / "genomics", planted.workspace)).failures


def digest_of_slide(name: str) -> str:
    """What a slide's own file, which is not there, would be known by."""
    return "sha256:" + hashlib.sha256(name.encode()).hexdigest()


def write_slide(
    planted: Planted, slide: str, bag: Floats, *, bytes_of: str = "", extracted: Status | None = "done"
) -> None:
    """A slide's tiles and features with their records. Its own file need not be there: nobody here looks at pixels.

    :param bytes_of: another slide that it is a copy of.
    :param extracted: what became of its features; None: it is tiled only.
    """
    side = SIDE * TILE_PX
    grid = plan_grid(
        [(side, side)],
        [1.0],
        Mpp(0.5),
        mpp=Mpp(0.5),
        tile_px=TilePx(TILE_PX),
        overlap=TilePx(0),
        native_tolerance=0.02,
        allow_upsample=False,
    )
    coords = grid.coords()[: len(bag)]
    tiles = planted.workspace / TILES / f"{slide}.h5"
    write_tiles(tiles, replace(tile_set(grid, coords, 0.5, (side, side)), slide_id=slide))
    digest = digest_of_slide(bytes_of or slide)
    facts = FeatureFacts(
        slide_id=slide,
        slide_digest=digest,
        tiles_digest=digest_of(tiles),
        mpp=0.5,
        tile_px=TILE_PX,
        tile_size_level0=float(TILE_PX),
        backbone="efficientnet-lite0",
        architecture="planted",
        pooling="pooled",
        width=WIDTH,
        weights_digest=WEIGHTS,
        precision="fp32",
        transform={},
    )
    write_features(planted.store(slide), bag, coords, facts)
    file = InputRecord(digest=digest, path=str(planted.picture(slide)), bytes=1)
    stats = {"tiles": len(bag), "mpp_override": 0.5}
    record(planted, "tile", slide, TileSettings(), {"slide": file}, {"tiles": tiles}, stats)
    if extracted is not None:
        made_from = {"slide": file, "tiles": InputRecord(digest=facts.tiles_digest)}
        features = {"features": planted.store(slide)}
        record(planted, "extract", slide, ExtractSettings(), made_from, features, stats, status=extracted)


def record(
    planted: Planted,
    stage: str,
    item: str,
    settings: Settings,
    inputs: Mapping[str, InputRecord],
    outputs: Mapping[str, Path],
    stats: Mapping[str, object],
    *,
    status: Status = "done",
) -> None:
    """A record as the runner writes it, in the folder of the first output. Only what is done is said to have any."""
    written = {
        name: OutputRecord(
            path=path.relative_to(planted.workspace).as_posix(), bytes=size_of(path), digest=digest_of(path)
        )
        for name, path in outputs.items()
    }
    Manifest.of(next(iter(outputs.values())).parent).append(
        Record(
            stage=stage,
            stage_version=VERSIONS[stage],
            item=item,
            status=status,
            fingerprint="planted",
            settings=settings.result_settings(),
            inputs=dict(inputs),
            outputs=written if status == "done" else {},
            stats=dict(stats),
            start=datetime.now(UTC),
            seconds=0.0,
            wsipipe=__version__,
        )
    )
