"""Signature scores: known answers, each patient by itself, and published research scores."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy.stats import spearmanr
from wsipipe.data.errors import ExpressionError
from wsipipe.data.molecular.gene_sets import read_gmt
from wsipipe.data.molecular.signatures import (
    RECURRENCE,
    UNSCALED,
    Signatures,
    _formula,
    signature_table,
    single_sample_gsea,
    write_signatures,
)

DATA = Path(__file__).resolve().parents[3] / "../shared/data"

CANCER = {
    **{"GRB7": 10.0, "ERBB2": 12.0, "ESR1": 9.0, "PGR": 7.0, "BCL2": 8.0, "SCUBE2": 6.0, "MMP11": 9.0, "CTSV": 7.0},
    **dict.fromkeys(("BIRC5", "MKI67", "MYBL2", "CCNB1", "AURKA"), 5.0),
    **{"CD68": 8.0, "GSTM1": 6.0, "BAG1": 7.0},
}
REFERENCE = {"ACTB": 13.0, "GAPDH": 12.0, "RPLP0": 11.0, "GUSB": 6.0, "TFRC": 8.0}
"""Their mean is 10, so that a gene's normalised value is its own."""
BY_HAND = 0.47 * 10.2 - 0.34 * 7.4 + 1.04 * 5.0 + 0.10 * 8.0 + 0.05 * 8.0 - 0.08 * 6.0 - 0.07 * 7.0
WITH_FLOORS = BY_HAND + 1.04 * (6.5 - 5.0)


def expression(rows: dict[str, Any] | pd.DataFrame, input_unit: str = "tpm") -> anndata.AnnData:
    """Patients × genes."""
    frame = pd.DataFrame(rows).astype(np.float32)
    frame.index = frame.index.map(lambda name: name if isinstance(name, str) else f"P{name}")
    uns = {"input_unit": input_unit, "unit": "some", "source": "matrix.csv"}
    return anndata.AnnData(
        frame.to_numpy(), obs=pd.DataFrame(index=frame.index), var=pd.DataFrame(index=frame.columns), uns=uns
    )


def patient(**changed: float | None) -> dict[str, list[float]]:
    genes = CANCER | REFERENCE | changed
    return {gene: [value] for gene, value in genes.items() if value is not None}


def scores(made: Signatures) -> tuple[float, float]:
    return float(made.table[RECURRENCE].iloc[0]), float(made.table[UNSCALED].iloc[0])


def running_sum(values: npt.NDArray[Any], inside: npt.NDArray[np.bool_]) -> float:
    """Single-sample GSEA as Barbie et al. write it, for values without ties."""
    order = np.argsort(-values)
    rank = len(values) - np.arange(len(values))
    hit = inside[order]
    weight = np.where(hit, rank**0.25, 0.0)
    return float((np.cumsum(weight) / weight.sum() - np.cumsum(~hit) / (~hit).sum()).sum() / len(values))


def test_the_closed_form_is_the_running_sum() -> None:
    rng = np.random.default_rng(0)
    genes = [f"G{i}" for i in range(200)]
    matrix = rng.normal(size=(70, 200))
    sets = {"few": genes[:5], "many": genes[::3], "most": genes[4:]}
    made = single_sample_gsea(matrix, genes, sets)
    for column, chosen in enumerate(sets.values()):
        inside = np.isin(genes, chosen)
        np.testing.assert_allclose(made[:, column], [running_sum(row, inside) for row in matrix], rtol=1e-9)


def test_it_gives_what_gseapy_gives() -> None:
    """ES of GSEApy 1.3.1 (``sample_norm_method="rank"``) for these ranks of 30 genes; times N, as ours is divided."""
    first = [26, 20, 23, 3, 27, 12, 17, 28, 18, 10, 0, 25, 11, 13, 8, 15, 9, 6, 1, 2, 29, 16, 14, 4, 7, 22, 5, 21, 19]
    second = [22, 0, 3, 15, 10, 2, 17, 16, 28, 24, 25, 26, 29, 23, 6, 4, 11, 14, 20, 9, 7, 18, 5, 27, 12, 19, 1, 13, 8]
    matrix = np.array([[*first, 24], [*second, 21]], dtype=np.float32)
    genes = [f"G{i}" for i in range(30)]
    made = single_sample_gsea(matrix, genes, {"first": genes[:8], "third": genes[::3]}) * 30
    np.testing.assert_allclose(made, [[7.893899, -1.448761], [-3.562827, 5.055090]], rtol=1e-6)


def test_ties_leave_no_choice_and_the_order_of_genes_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    genes = [f"G{i}" for i in range(300)]
    matrix = np.maximum(rng.normal(size=(4, 300)).round(1), 0)  # half of it zeros, as in RNA-seq
    sets = {"one": genes[:40], "other": genes[100:150]}
    mixed = rng.permutation(300)
    again = single_sample_gsea(matrix[:, mixed], [genes[i] for i in mixed], sets)
    np.testing.assert_allclose(again, single_sample_gsea(matrix, genes, sets), rtol=1e-12)
    flat = single_sample_gsea(np.zeros((1, 300)), genes, sets)
    np.testing.assert_allclose(flat, 0, atol=1e-12)


def test_a_gene_that_was_not_measured_is_as_one_that_is_not_there() -> None:
    rng = np.random.default_rng(2)
    genes = [f"G{i}" for i in range(100)]
    matrix = rng.normal(size=(3, 100)).round(1)
    matrix[1, 10:30] = np.nan
    sets = {"one": genes[:20], "gone": genes[10:30]}
    made = single_sample_gsea(matrix, genes, sets, min_genes=5)
    left = [i for i in range(100) if not 10 <= i < 30]
    alone = single_sample_gsea(matrix[1:2, left], [genes[i] for i in left], {"one": genes[:20]})
    assert made[1, 0] == pytest.approx(alone[0, 0], rel=1e-12)
    assert np.isnan(made[1, 1])
    assert np.isfinite(made[[0, 2]]).all()


def test_a_patient_s_scores_are_its_own() -> None:
    rng = np.random.default_rng(3)
    names = [*CANCER, *REFERENCE, *(f"G{i}" for i in range(200))]
    frame = pd.DataFrame(rng.gamma(2, 3, (130, len(names))), columns=names)
    sets = {"one": names[30:60], "two": names[:20]}
    together = signature_table(expression(frame), sets).table
    for row in (0, 77, 129):
        alone = signature_table(expression(frame.iloc[[row]]), sets).table
        pd.testing.assert_frame_equal(alone, together.iloc[[row]], rtol=1e-12, atol=0)


def test_small_sets_are_left_out_and_named() -> None:
    names = [f"G{i}" for i in range(50)]
    frame = pd.DataFrame(np.random.default_rng(4).normal(size=(3, 50)), columns=names)
    sets = {"good": [*names[:12], "ABSENT"], "small": [*names[:9], *(f"X{i}" for i in range(11))], "all": names}
    made = signature_table(expression(frame), sets)
    assert list(made.table.columns) == [RECURRENCE, UNSCALED, "good"]
    said = "\n".join(made.sentences)
    assert "gene sets scored (ssGSEA): 1 of 3" in said
    assert "small 9 of 20" in said
    assert "good, 92%" in said
    nothing = signature_table(expression(frame), {"small": sets["small"]})
    assert any("symbols" in warning for warning in nothing.warnings)
    with pytest.raises(ExpressionError, match="name of a column of the recurrence score"):
        signature_table(expression(frame), {RECURRENCE: names})


def test_a_set_with_earlier_symbols_follows_the_matrix() -> None:
    names = ["CTSV", "AURKA", *(f"G{i}" for i in range(50))]
    made = expression(pd.DataFrame(np.random.default_rng(5).normal(size=(3, 52)), columns=names))
    tables = [
        signature_table(made, {"set": [*first, *names[2:12]]}).table["set"]
        for first in (["CTSV", "AURKA"], ["CTSL2", "STK15"], ["CTSL2", "CTSV", "STK15"])
    ]
    assert tables[0].tolist() == tables[1].tolist() == tables[2].tolist()


def test_the_recurrence_score_by_hand() -> None:
    made = signature_table(expression(patient()), {})
    scaled, unscaled = scores(made)
    assert unscaled == pytest.approx(BY_HAND, abs=1e-5)
    assert scaled == pytest.approx(20 * (WITH_FLOORS - 6.7), abs=1e-4)
    assert "all 16 genes, 5 of 5 reference genes" in made.sentences[0]
    assert "research use only" in made.sentences[0]


def test_reference_genes_take_out_the_amount_of_rna() -> None:
    more = {gene: [value + 3] for gene, value in (CANCER | REFERENCE).items()}
    assert scores(signature_table(expression(more), {})) == pytest.approx(
        scores(signature_table(expression(patient()), {})), abs=1e-4
    )


def test_floors_and_ends_of_the_scale() -> None:
    quiet = scores(signature_table(expression(patient(GRB7=1, ERBB2=1)), {}))
    assert quiet[0] == pytest.approx(20 * (WITH_FLOORS + 0.47 * (8 - 10.2) - 6.7), abs=1e-4)
    assert quiet[1] == pytest.approx(BY_HAND + 0.47 * (1 - 10.2), abs=1e-5)
    said = signature_table(expression(patient(GRB7=1, ERBB2=1)), {}).warnings[0]
    assert "below a floor (100% of the patients for GRB7, 100% of the patients for proliferation)" in said
    assert quiet[0] == scores(signature_table(expression(patient(GRB7=0, ERBB2=8)), {}))[0]
    wild = dict.fromkeys(("BIRC5", "MKI67", "MYBL2", "CCNB1", "AURKA"), 14.0)
    assert scores(signature_table(expression(patient(**wild)), {}))[0] == 100
    calm = dict.fromkeys(("ESR1", "PGR", "BCL2", "SCUBE2"), 14.0)
    assert scores(signature_table(expression(patient(GRB7=1, **calm)), {}))[0] == 0


def test_earlier_symbols_count() -> None:
    made = signature_table(expression(patient(CTSV=None, CTSL2=7.0, AURKA=None, STK15=5.0)), {})
    assert scores(made)[1] == pytest.approx(BY_HAND, abs=1e-5)
    assert "CTSL2 taken for CTSV" in made.sentences
    both = signature_table(expression(patient(CTSL2=0.0)), {})
    assert scores(both)[1] == pytest.approx(BY_HAND, abs=1e-5)


def test_missing_genes_leave_a_score_without_a_scale() -> None:
    made = signature_table(expression(patient(MYBL2=None, BAG1=None)), {})
    scaled, unscaled = scores(made)
    assert np.isnan(scaled)
    # Four of five proliferation genes of 5.0, and no BAG1.
    assert unscaled == pytest.approx(BY_HAND + 0.07 * 7.0, abs=1e-5)
    assert "recurrence score, genes missing: MYBL2, BAG1" in made.sentences
    assert "14 of 16 genes" in made.sentences[0]
    no_reference = signature_table(expression(patient(GUSB=None)), {})
    assert np.isnan(scores(no_reference)[0])
    assert "recurrence score, reference genes missing: GUSB" in no_reference.sentences
    none = signature_table(expression({"X": [1.0]}), {})
    assert np.isnan(scores(none)).all()
    assert "none of its 16 genes" in none.sentences[0]


def test_a_patient_with_a_gene_not_measured_has_no_score() -> None:
    rows = {gene: [value, value] for gene, value in (CANCER | REFERENCE).items()}
    rows["ESR1"] = [9.0, np.nan]
    made = signature_table(expression(rows), {})
    assert made.table[UNSCALED].notna().tolist() == [True, False]
    assert made.table[RECURRENCE].notna().tolist() == [True, False]
    assert any(sentence.endswith("not measured: 1") for sentence in made.sentences)


def test_z_scores_give_the_weighted_sum() -> None:
    made = signature_table(expression(patient(), "zscore"), {})
    scaled, unscaled = scores(made)
    assert np.isnan(scaled)
    assert unscaled == pytest.approx(BY_HAND, abs=1e-5)
    assert "z-scores have no level" in made.warnings[0]


def test_the_table_on_disk(tmp_path: Path) -> None:
    rows = {gene: [value, value + 1] for gene, value in (CANCER | REFERENCE).items()}
    rows["ESR1"] = [9.0, np.nan]
    made = signature_table(expression(rows), {})
    path = tmp_path / "signatures.csv"
    write_signatures(path, made)
    first = path.read_bytes()
    write_signatures(path, signature_table(expression(rows), {}))
    assert path.read_bytes() == first
    back = pd.read_csv(path, index_col="patient_id")
    pd.testing.assert_frame_equal(back, made.table, rtol=1e-5)
    assert first.decode().splitlines()[2] == "P1,,"


def shared(name: str) -> Path:
    path = DATA / name
    if not path.is_file():
        pytest.skip("no shared data")
    return path


def test_the_weights_are_those_that_others_use() -> None:
    others = pd.read_csv(shared("rnaseq/oncotype21_genes.csv")).set_index("symbol").rename({"CTSL2": "CTSV"})
    formula = _formula()
    ours = {
        gene: group["weight"] * weight
        for group in formula["groups"].values()
        for gene, weight in group["genes"].items()
    }
    expected = others["weight"].dropna().to_dict()
    assert ours.keys() == expected.keys()
    assert [ours[gene] for gene in expected] == pytest.approx(list(expected.values()), abs=1e-9)
    assert set(formula["reference"]["genes"]) == set(others.index[others["weight"].isna()])


def published() -> pd.Series[float]:
    table = pd.read_csv(shared("brca/clinical.csv")).drop_duplicates("patient_id")
    return table.set_index("patient_id")["odx_train"].dropna()


def agreement(made: Signatures, column: str = UNSCALED) -> tuple[float, int]:
    both = made.table[[column]].join(published(), how="inner").dropna()
    return float(spearmanr(both[column], both["odx_train"]).statistic), len(both)


def test_published_research_scores_from_raw_counts() -> None:
    with gzip.open(shared("rnaseq/tcga_brca_counts.csv.gz"), "rt") as file:
        counts = pd.read_csv(file, index_col=0).T
    made = signature_table(expression(np.log2(counts.div(counts.sum(axis=1), axis=0) * 1e6 + 1), "counts"), {})
    rank, patients = agreement(made)
    assert patients == 105
    assert rank > 0.88
    assert agreement(made, RECURRENCE)[0] > 0.8
    assert made.table[RECURRENCE].between(0, 100).all()


def test_published_research_scores_from_z_scores_of_four_genes() -> None:
    with gzip.open(shared("brca/expression_zscore.csv.gz"), "rt") as file:
        made = signature_table(expression(pd.read_csv(file, index_col=0).T, "zscore"), {})
    rank, patients = agreement(made)
    assert patients > 850
    assert rank > 0.75
    assert "4 of 16 genes" in made.sentences[0]


def test_hallmark_sets_tell_what_they_should() -> None:
    sets = read_gmt(shared("rnaseq/h.all.v7.0.symbols.gmt"))
    with gzip.open(shared("rnaseq/tcga_brca_counts.csv.gz"), "rt") as file:
        counts = pd.read_csv(file, index_col=0).T
    logs = np.log2(counts.div(counts.sum(axis=1), axis=0) * 1e6 + 1)
    table = signature_table(expression(logs, "counts"), sets).table
    assert spearmanr(table["HALLMARK_ESTROGEN_RESPONSE_EARLY"], logs["ESR1"]).statistic > 0.7
    assert spearmanr(table["HALLMARK_G2M_CHECKPOINT"], logs["MKI67"]).statistic > 0.7
    assert table.notna().all(axis=None)
