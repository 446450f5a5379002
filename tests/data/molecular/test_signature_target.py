"""Signatures as targets: known answers by hand, whom a score depends on, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from wsipipe.data.errors import ExpressionError
from wsipipe.data.matrices.expression_units import STORED_AS
from wsipipe.data.molecular.expression_reading import read_genomics
from wsipipe.data.molecular.gene_sets import read_gmt
from wsipipe.data.molecular.signature_target import NO_RNA, TOO_FEW, Signature, singscore
from wsipipe.data.molecular.signatures import RECURRENCE, UNSCALED, recurrence_table, signature_table
from wsipipe.data.molecular.store import ExpressionTable

DATA = Path(__file__).resolve().parents[3] / "../shared/data"
GENES = ("A", "B", "C", "D", "E")
ROWS = {"P0": [1.0, 2.0, 3.0, 4.0, 5.0], "P1": [5.0, 4.0, 3.0, 2.0, 1.0], "P2": [2.0, 2.0, 9.0, 0.0, 1.0]}


def table(
    rows: dict[str, list[float]] | None = None, genes: Sequence[str] = GENES, unit: str = STORED_AS["tpm"]
) -> ExpressionTable:
    rows = ROWS if rows is None else rows
    return ExpressionTable(tuple(rows), tuple(genes), np.array(list(rows.values()), np.float32), unit, "rna.csv")


def test_singscore_is_the_scaled_mean_rank() -> None:
    matrix = table().matrix
    of_set = np.array([True, False, False, False, True])
    # k = 2 of N = 5: the mean rank lies between 1.5 and 4.5.
    # P0: ranks 1 and 5, mean 3; P1 the same; P2: A shares ranks 3 and 4 with B, E has 2: mean 2.75.
    assert singscore(matrix, of_set).tolist() == pytest.approx([0.5, 0.5, (2.75 - 1.5) / 3])
    assert singscore(matrix, np.array([False, False, False, True, True])).tolist()[0] == 1.0
    assert singscore(matrix, np.array([True, True, False, False, False])).tolist()[0] == 0.0
    missing = np.array([[np.nan, 2.0, 3.0, 4.0, 5.0]], np.float32)
    assert singscore(missing, of_set).tolist() == [1.0]  # E is the highest of the four that were measured
    assert np.isnan(singscore(missing, of_set, least=2)).all()
    assert np.isnan(singscore(matrix, np.ones(5, bool))).all()


def test_mean_z_uses_the_patients_that_it_was_fitted_on() -> None:
    signature = Signature.of("S", table(), {"S": ("E", "A")}, score="mean-z").fitted(table(), ["P0", "P1"])
    # A and E: mean 3, standard deviation 2 (divided by n).
    assert (signature.genes, signature.mean, signature.scale) == (("A", "E"), (3.0, 3.0), (2.0, 2.0))
    assert signature.labels(table(), ["P0", "P2", "P9"]) == {"P0": 0.0, "P2": -0.75, "P9": NO_RNA}
    with pytest.raises(ValueError, match="not been fitted"):
        Signature.of("S", table(), {"S": ("E", "A")}, score="mean-z").scores(table(), ["P0"])


def test_a_gene_that_does_not_vary_is_left_out_of_mean_z() -> None:
    signature = Signature.of("S", table(), {"S": ("A", "C")}, score="mean-z").fitted(table(), ["P0", "P1"])
    assert signature.scale == (2.0, 0.0)
    assert signature.scores(table(), ["P2"]) == {"P2": -0.5}  # C is 9 there, and says nothing
    with pytest.raises(ExpressionError, match="none of its genes varies"):
        Signature.of("S", table(), {"S": ("C",)}, score="mean-z").fitted(table(), ["P0", "P1"])


def test_one_gene_is_its_own_value_and_a_cut_makes_two_classes() -> None:
    gene = Signature.of("gene:B", table())
    assert gene.labels(table(), ["P0", "P1", "P2"]) == {"P0": 2.0, "P1": 4.0, "P2": 2.0}
    at = Signature.of("gene:B", table(), cut="4")
    assert at.labels(table(), ["P0", "P1"]) == {"P0": 0, "P1": 1}
    median = Signature.of("gene:A", table(), cut="median")
    fitted = median.fitted(table(), ["P0", "P1"])
    assert (fitted.cut_at, fitted.labels(table(), ["P2"])) == (3.0, {"P2": 0})
    assert Signature.model_validate_json(fitted.model_dump_json()) == fitted


def test_ssgsea_and_the_recurrence_score_are_those_of_the_genomics_stage() -> None:
    draw = np.random.default_rng(0)
    from wsipipe.data.molecular.signatures import recurrence_genes

    genes = (*recurrence_genes(), *(f"G{n}" for n in range(30)))
    rows = {f"P{n}": draw.uniform(0, 12, len(genes)).tolist() for n in range(6)}
    of = table(rows, genes)
    frame = pd.DataFrame(of.matrix, index=list(rows), columns=list(genes))
    import anndata

    uns = {"input_unit": "tpm", "unit": of.unit, "source": "rna.csv"}
    made = anndata.AnnData(frame.to_numpy(), obs=frame[[]], var=pd.DataFrame(index=genes), uns=uns)
    chosen = {"S": genes[5:20]}
    published = signature_table(made, chosen).table
    for name, column in (("recurrence-score", RECURRENCE), ("recurrence-score-unscaled", UNSCALED)):
        scores = Signature.of(name, of).scores(of, list(rows))
        assert list(scores.values()) == pytest.approx(published[column].tolist())
    scores = Signature.of("S", of, chosen, score="ssgsea").scores(of, list(rows))
    assert list(scores.values()) == pytest.approx(published["S"].tolist())
    assert recurrence_table(made)[RECURRENCE].tolist() == published[RECURRENCE].tolist()


@pytest.mark.parametrize("score", ["singscore", "ssgsea", "mean-z"])
def test_the_order_of_genes_and_the_company_make_no_difference(score: str) -> None:
    draw = np.random.default_rng(1)
    genes = tuple(f"G{n:02d}" for n in range(40))
    rows = {f"P{n}": draw.normal(5, 2, 40).round(1).tolist() for n in range(9)}
    order = draw.permutation(40)
    one, other = (
        table(rows, genes),
        table({p: [r[i] for i in order] for p, r in rows.items()}, [genes[i] for i in order]),
    )
    sets, turned = {"S": genes[:15]}, {"S": genes[:15][::-1]}
    train = ["P0", "P1", "P2", "P3", "P4"]
    first = Signature.of("S", one, sets, score=score).fitted(one, train)  # type: ignore[arg-type]
    second = Signature.of("S", other, turned, score=score).fitted(other, train[::-1])  # type: ignore[arg-type]
    assert first == second
    together = first.scores(one, list(rows))
    assert together == second.scores(other, list(rows))
    assert all(first.scores(one, [patient])[patient] == score for patient, score in together.items())
    # Another value of a patient who is tested changes neither the statistics nor the target of anybody else.
    changed = table({**rows, "P8": [99.0 - v for v in rows["P8"]]}, genes)
    again = Signature.of("S", changed, sets, score=score).fitted(changed, train)  # type: ignore[arg-type]
    assert again == first
    after = again.scores(changed, list(rows))
    assert {p for p in rows if after[p] != together[p]} == {"P8"}


def test_patients_without_enough_of_the_genes_have_the_reason() -> None:
    nan = float("nan")
    rows = {**ROWS, "P3": [nan] * 5, "P4": [nan, nan, 1.0, 2.0, 3.0]}
    for score in ("singscore", "ssgsea", "mean-z"):
        signature = Signature.of("S", table(rows), {"S": ("A", "B", "C")}, score=score).fitted(table(rows), ROWS)  # type: ignore[arg-type]
        labels = signature.labels(table(rows), ["P3", "P4", "P5"])
        assert labels == {"P3": NO_RNA, "P4": TOO_FEW, "P5": NO_RNA}, score
    assert Signature.of("gene:A", table(rows)).labels(table(rows), ["P4"]) == {"P4": TOO_FEW}


def test_what_is_not_in_the_matrix_is_recorded_or_refused_by_name() -> None:
    half = Signature.of("S", table(), {"S": ("A", "B", "X", "Y")})
    assert (half.genes, half.absent) == (("A", "B"), ("X", "Y"))
    assert "2 of 4 genes" in half.words
    with pytest.raises(ExpressionError, match="1 of its 3 genes are in the matrix; absent: X, Y"):
        Signature.of("S", table(), {"S": ("A", "X", "Y")})
    with pytest.raises(ExpressionError, match="the matrix has no gene"):
        Signature.of("gene:MKI67", table())
    with pytest.raises(ExpressionError, match="no gene set is called T"):
        Signature.of("T", table(), {"S": ("A",)})
    with pytest.raises(ExpressionError, match="no gene sets are given"):
        Signature.of("T", table())
    with pytest.raises(ExpressionError, match="A is a gene, not a gene set") as refused:
        Signature.of("A", table(), {"S": ("A",)})
    assert refused.value.hint == "write signature = gene:A"
    with pytest.raises(ExpressionError, match="every gene of the matrix is in the set"):
        Signature.of("S", table(), {"S": GENES})
    with pytest.raises(ExpressionError, match="a score is chosen for gene sets"):
        Signature.of("gene:A", table(), score="mean-z")
    # A former name in the set, or in the matrix.
    assert Signature.of("S", table(genes=("CTSV", *"BCDE")), {"S": ("CTSL2", "B")}).genes == ("B", "CTSV")
    assert Signature.of("S", table(genes=("CTSL2", *"BCDE")), {"S": ("CTSV", "B")}).genes == ("B", "CTSL2")


def test_z_scores_have_no_ranks_and_no_level() -> None:
    of = table(unit=STORED_AS["zscore"])
    sets = {"S": ("A", "B")}
    assert Signature.of("S", of, sets).score == "mean-z"
    assert Signature.of("S", table(), sets).score == "singscore"
    for score in ("singscore", "ssgsea"):
        with pytest.raises(ExpressionError, match="this matrix holds z-scores"):
            Signature.of("S", of, sets, score=score)  # type: ignore[arg-type]
    with pytest.raises(ExpressionError, match=r"which have no level; and it lacks GRB7"):
        Signature.of("recurrence-score", of)


def test_another_cohort_is_scored_with_the_statistics_of_the_first() -> None:
    fitted = Signature.of("S", table(), {"S": ("A", "B", "E")}, score="mean-z").fitted(table(), ["P0", "P1"])
    other = table({"Q0": [5.0, 0.0]}, ("E", "A"))
    own = fitted.found_in(other)
    assert (own.genes, own.mean, own.absent) == (("A", "E"), (3.0, 3.0), ("B",))
    assert own.scores(other, ["Q0"]) == {"Q0": (-1.5 + 1.0) / 2}
    with pytest.raises(ExpressionError, match="was made from"):
        fitted.found_in(table({"Q0": [5.0, 0.0]}, ("E", "A"), unit=STORED_AS["counts"]))
    with pytest.raises(ExpressionError, match="1 of its 3 genes"):
        fitted.found_in(table({"Q0": [5.0]}, ("E",)))
    with pytest.raises(ExpressionError, match="the matrix has no gene"):
        Signature.of("gene:A", table()).found_in(table({"Q0": [5.0]}, ("E",)))


@pytest.mark.skipif(not (DATA / "brca").is_dir(), reason="needs the shared data")
def test_real_matrices() -> None:
    sets = read_gmt(DATA / "rnaseq/h.all.v7.0.symbols.gmt")
    made, _ = read_genomics(DATA / "brca/expression_zscore.csv.gz", "auto")
    zscores = ExpressionTable(
        tuple(made.obs_names), tuple(made.var_names), np.asarray(made.X), made.uns["unit"], "expression_zscore.csv.gz"
    )
    with pytest.raises(ExpressionError, match=r"it lacks GRB7, ESR1, PGR, .*MKI67") as refused:
        Signature.of("recurrence-score", zscores)
    assert "z-scores" in str(refused.value)
    with pytest.raises(ExpressionError, match="the matrix has no gene"):
        Signature.of("gene:MKI67", zscores)
    with pytest.raises(ExpressionError, match="genes are in the matrix; absent"):
        Signature.of("HALLMARK_G2M_CHECKPOINT", zscores, sets)
    counts, _ = read_genomics(DATA / "rnaseq/tcga_brca_counts.csv.gz", "auto")
    raw = ExpressionTable(
        tuple(counts.obs_names), tuple(counts.var_names), np.asarray(counts.X), counts.uns["unit"], "counts"
    )
    signature = Signature.of("HALLMARK_G2M_CHECKPOINT", raw, sets)
    assert signature.score == "singscore"
    scores = np.array([one for one in signature.scores(raw, raw.patients).values() if isinstance(one, float)])
    z = Signature.of("HALLMARK_G2M_CHECKPOINT", raw, sets, score="mean-z").fitted(raw, raw.patients)
    other = np.array([one for one in z.scores(raw, raw.patients).values() if isinstance(one, float)])
    assert len(scores) == len(raw.patients) == len(other)
    assert np.corrcoef(scores, other)[0, 1] > 0.8
