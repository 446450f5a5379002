"""What a fold is given: its panel of genes, as training asks for it, its soft targets, its bags, its threshold."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit
from wsipipe.data.errors import CohortError, ExpressionError, StoreError, UsageError
from wsipipe.data.features.store import FeatureFacts, write_features
from wsipipe.data.molecular.store import write_expression
from wsipipe.models.tasks.binary import BINARY
from wsipipe.models.training.gene_panel import GenePanel
from wsipipe.stages.train.fold import FoldCohort, read_bags
from wsipipe.stages.train.molecular_data import FoldRna, MolecularData, fold_targets, read_gene_list
from wsipipe.stages.train.settings import TrainSettings

PATIENTS = [f"P{i:02d}" for i in range(40)]
LABELS = {patient: i % 2 for i, patient in enumerate(PATIENTS)}


def cohort() -> FoldCohort:
    train = {patient: (label, ("S",)) for patient, label in LABELS.items() if patient < "P30"}
    return FoldCohort(1, 5, "", train, {}, 10, {}, {}, {})


def store(folder: Path, block: str, patients: list[str], unit: str = "log") -> Path:
    values = np.random.default_rng(len(block)).normal(0, 1, (len(patients), 25)).astype(np.float32)
    values[:, 7] += [3 * LABELS[patient] for patient in patients]
    genes = pd.DataFrame(index=[f"G{i:02d}" for i in range(25)])
    uns = {"unit": unit, "source": "m.csv", "block": block}
    path = folder / f"{block}.zarr"
    write_expression(path, anndata.AnnData(values, obs=pd.DataFrame(index=patients), var=genes, uns=uns))
    return path


def fitted(stores: list[Path], genes: int, gene_list: Path | None = None) -> FoldRna:
    teaching = MolecularData.read(stores, gene_list)
    assert teaching is not None
    return FoldRna.fitted(cohort(), teaching, TrainSettings(genes=genes))


def test_nothing_teaches_without_stores() -> None:
    assert MolecularData.read([], None) is None


def test_rna_alone(tmp_path: Path) -> None:
    rna = fitted([store(tmp_path, "rna", PATIENTS[5:])], 4)
    assert sorted(rna.rows) == PATIENTS[5:30]  # trained on, and with RNA
    assert rna.genes[0] == "G07"
    assert np.mean([row.numpy() for row in rna.rows.values()], axis=0) == pytest.approx([0] * 4, abs=1e-5)
    assert rna.description["unit"] == "log"
    assert GenePanel.from_state(rna.arrays, rna.description).genes == tuple(rna.genes)


def test_further_blocks_stand_beside_rna_or_alone(tmp_path: Path) -> None:
    rna, cnv = store(tmp_path, "rna", PATIENTS[:20]), store(tmp_path, "cnv", PATIENTS[10:], "log2 ratio")
    both = fitted([rna, cnv], 4)
    assert sorted(both.rows) == PATIENTS[:30]
    assert [gene.startswith("cnv:") for gene in both.genes] == [False] * 4 + [True] * 4
    assert (both.rows["P05"][4:] == 0).all()
    assert (both.rows["P25"][:4] == 0).all()
    counts = both.description["counts"]
    assert (counts["patients_without_rna"], counts["patients_without_cnv"]) == (10, 10)
    alone = fitted([cnv], 4)
    assert alone.genes == both.genes[4:]


def test_a_list_replaces_the_choice(tmp_path: Path) -> None:
    path = store(tmp_path, "rna", PATIENTS)
    (tmp_path / "panel.txt").write_text("G20\nG03\nX\n")
    rna = fitted([path], 1, tmp_path / "panel.txt")
    assert rna.genes == ("G20", "G03")
    assert rna.description["counts"]["not_to_be_had"] == 1


def test_nobody_has_rna(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="no training patient of fold 1 has RNA"):
        fitted([store(tmp_path, "rna", PATIENTS[30:])], 768)


def test_a_list_is_the_teachers_panel_too(tmp_path: Path) -> None:
    teaching = MolecularData.read([store(tmp_path, "rna", PATIENTS)], None)
    assert teaching is not None
    listed = replace(teaching, gene_list=("G20", "G07"))
    assert fold_targets(cohort(), listed, TrainSettings(genes=5), BINARY).description["genes"] == 2
    assert fold_targets(cohort(), teaching, TrainSettings(genes=5), BINARY).description["genes"] == 5


def test_shuffled_rna_stays_within_its_class_and_leaves_others_alone(tmp_path: Path) -> None:
    teaching = MolecularData.read([store(tmp_path, "rna", PATIENTS[5:])], None)
    assert teaching is not None
    train = {patient: label for patient, (label, _) in cohort().train.items()}
    shuffled = teaching.shuffled(train, seed=0)
    place = {patient: row for row, patient in enumerate(teaching.table.patients)}
    was, now = teaching.table.matrix, shuffled.table.matrix
    for label in (0, 1):
        rows = [place[p] for p in PATIENTS[5:30] if LABELS[p] == label]
        assert sorted(map(tuple, was[rows])) == sorted(map(tuple, now[rows]))
        assert (was[rows] != now[rows]).any(axis=1).sum() > len(rows) // 2
    others = [place[p] for p in PATIENTS[30:]]
    np.testing.assert_array_equal(was[others], now[others])
    np.testing.assert_array_equal(now, teaching.shuffled(train, seed=0).table.matrix)
    assert (now != teaching.shuffled(train, seed=1).table.matrix).any()


def test_soft_targets_are_the_folds_own(tmp_path: Path) -> None:
    teaching = MolecularData.read([store(tmp_path, "rna", PATIENTS[5:])], None)
    assert teaching is not None
    validation = {patient: (LABELS[patient], ("S",)) for patient in PATIENTS[28:30]}
    train = {patient: own for patient, own in cohort().train.items() if patient not in validation}
    settings = TrainSettings(genes=3)
    targets = fold_targets(replace(cohort(), train=train, validation=validation), teaching, settings, BINARY)
    assert targets.train.keys() == train.keys()
    known = {patient: targets.train[patient] for patient in PATIENTS[5:28]}
    assert np.mean([(p > 0.5) == LABELS[patient] for patient, p in known.items()]) > 0.8  # G07 says it
    for label in (0, 1):  # without RNA nothing but the class is known
        of_class = np.mean([p for patient, p in known.items() if LABELS[patient] == label])
        for patient in PATIENTS[:5]:
            if LABELS[patient] == label:
                assert targets.train[patient] == pytest.approx(of_class)
    assert targets.validation.keys() == validation.keys()
    # Nobody outside the fold, and no label of those who validate, has a part in it.
    others = teaching.table.matrix.copy()
    others[[place for place, p in enumerate(teaching.table.patients) if p in PATIENTS[30:]]] = 1e6
    flipped = {patient: (1 - label, slides) for patient, (label, slides) in validation.items()}
    changed = replace(teaching, table=replace(teaching.table, matrix=others))
    assert fold_targets(replace(cohort(), train=train, validation=flipped), changed, settings, BINARY) == targets


# Bags


def bag_store(folder: Path, slide: str, **changes: object) -> Path:
    said: dict[str, object] = {
        "slide_id": slide,
        "slide_digest": f"sha256:{slide}",
        "tiles_digest": "sha256:t",
        "mpp": 0.5,
        "tile_px": 224,
        "tile_size_level0": 224.0,
        "backbone": "efficientnet-lite0",
        "architecture": "planted",
        "pooling": "pooled",
        "width": 6,
        "weights_digest": "sha256:w",
        "precision": "fp32",
        "transform": {},
    }
    facts = FeatureFacts.model_validate(said | changes)
    coords = np.array([[0, 0], [224, 0], [0, 224]])
    write_features(folder / f"{slide}.zarr", np.ones((3, facts.width), dtype=np.float32), coords, facts)
    return folder / f"{slide}.zarr"


@pytest.mark.parametrize(
    ("name", "value"),
    [("backbone", "uni2-h"), ("pooling", "cls"), ("weights_digest", "sha256:x"), ("tile_px", 256), ("width", 7)],
)
def test_slides_that_were_not_extracted_alike_cannot_train_together(tmp_path: Path, name: str, value: object) -> None:
    stores = {"a": bag_store(tmp_path, "a"), "b": bag_store(tmp_path, "b", **{name: value})}
    mixed = replace(cohort(), slides={slide: (path, "") for slide, path in stores.items()})
    with pytest.raises(StoreError, match=f"{name} is {value}, but .* for a") as caught:
        read_bags(mixed, 8, torch.device("cpu"), {})
    assert caught.value.path == str(stores["b"])
    assert "wsipipe extract" in caught.value.hint


def test_a_bag_is_read_once(tmp_path: Path) -> None:
    slides = {slide: (bag_store(tmp_path, slide), "") for slide in "ab"}
    first = read_bags(replace(cohort(), slides={"a": slides["a"]}), 8, torch.device("cpu"), {})
    (slides["a"][0] / "zarr.json").unlink()  # it could not be read again
    both = read_bags(replace(cohort(), slides=slides), 8, torch.device("cpu"), first)
    assert both["a"] is first["a"]
    assert both.keys() == {"a", "b"}
    with pytest.raises(UsageError, match="a fold without slides"):
        read_bags(cohort(), 8, torch.device("cpu"), {})


@pytest.mark.parametrize(
    ("logits", "threshold"),
    [
        ([-2.0, -1.0, 1.0, 3.0], (0.5, "Youden on the validation patients")),
        ([1.0, 2.0, 3.0, 4.0], (float(expit([2.0, 3.0]).mean()), "Youden on the validation patients")),
        ([3.0, 4.0, 1.0, 2.0], (0.5, "default 0.5")),  # worse than chance
    ],
)
def test_the_threshold_tells_validation_patients_apart(logits: list[float], threshold: tuple[float, str]) -> None:
    assert BINARY.threshold([0, 0, 1, 1], logits) == (pytest.approx(threshold[0]), threshold[1])
    assert BINARY.threshold([1, 1], [1.0, 2.0]) == BINARY.threshold([], []) == (0.5, "default 0.5")


# Gene lists


def test_lists_of_one_gene_a_line_and_gene_sets(tmp_path: Path) -> None:
    plain = tmp_path / "panel.txt"
    plain.write_text("\ufeff# receptors\nESR1\n\n  PGR # progesterone\r\nESR1\ncnv:ERBB2\n", encoding="utf-8")
    assert read_gene_list(plain) == ("ESR1", "PGR", "cnv:ERBB2")
    sets = "A\tfirst\tESR1\tPGR\nB\tsecond\tPGR\tMKI67\n"
    (tmp_path / "sets.gmt").write_text(sets)
    (tmp_path / "sets.gmt.gz").write_bytes(gzip.compress(sets.encode()))
    for name in ("sets.gmt", "sets.gmt.gz"):
        assert read_gene_list(tmp_path / name) == ("ESR1", "PGR", "MKI67")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"# nothing\n\n", "holds no genes"),
        (b"ESR1,PGR\n", "more than one gene"),
        (b"\xff\xfe\x00", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_list(tmp_path: Path, content: bytes | None, what: str) -> None:
    path = tmp_path / "panel.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExpressionError, match=what) as caught:
        read_gene_list(path)
    assert caught.value.path == str(path)
    assert ".gmt" in caught.value.hint
