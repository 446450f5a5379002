"""A fold's panel of genes: of RNA, of further blocks, of a list, as training asks for it."""

from __future__ import annotations

import gzip
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from wsipipe.data.errors import CohortError, ExpressionError
from wsipipe.data.expression import write_expression
from wsipipe.models.gene_panel import GenePanel
from wsipipe.stages.fold import FoldCohort, FoldRna, read_gene_list
from wsipipe.stages.settings import TrainSettings

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


def test_nothing_teaches_without_stores() -> None:
    assert FoldRna.fitted(cohort(), None, TrainSettings()) is None


def test_rna_alone(tmp_path: Path) -> None:
    rna = FoldRna.fitted(cohort(), store(tmp_path, "rna", PATIENTS[5:]), TrainSettings(genes=4))
    assert rna is not None
    assert sorted(rna.rows) == PATIENTS[5:30]  # trained on, and with RNA
    assert rna.genes[0] == "G07"
    assert np.mean([row.numpy() for row in rna.rows.values()], axis=0) == pytest.approx([0] * 4, abs=1e-5)
    assert rna.description["unit"] == "log"
    assert GenePanel.from_state(rna.arrays, rna.description).genes == tuple(rna.genes)


def test_further_blocks_stand_beside_rna_or_alone(tmp_path: Path) -> None:
    rna, cnv = store(tmp_path, "rna", PATIENTS[:20]), store(tmp_path, "cnv", PATIENTS[10:], "log2 ratio")
    both = FoldRna.fitted(cohort(), rna, TrainSettings(genes=4), blocks=[cnv])
    assert both is not None
    assert sorted(both.rows) == PATIENTS[:30]
    assert [gene.startswith("cnv:") for gene in both.genes] == [False] * 4 + [True] * 4
    assert (both.rows["P05"][4:] == 0).all()
    assert (both.rows["P25"][:4] == 0).all()
    counts = both.description["counts"]
    assert (counts["patients_without_rna"], counts["patients_without_cnv"]) == (10, 10)
    alone = FoldRna.fitted(cohort(), None, TrainSettings(genes=4), blocks=[cnv])
    assert alone is not None
    assert alone.genes == both.genes[4:]


def test_a_list_replaces_the_choice(tmp_path: Path) -> None:
    path = store(tmp_path, "rna", PATIENTS)
    rna = FoldRna.fitted(cohort(), path, TrainSettings(genes=1), gene_list=["G20", "G03", "X"])
    assert rna is not None
    assert rna.genes == ("G20", "G03")
    assert rna.description["counts"]["not_to_be_had"] == 1


def test_nobody_has_rna(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="no training patient of fold 1 has RNA"):
        FoldRna.fitted(cohort(), store(tmp_path, "rna", PATIENTS[30:]), TrainSettings())


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
        (b"ESR1,PGR\n", "more than a gene"),
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
