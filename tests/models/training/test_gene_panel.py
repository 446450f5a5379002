"""The gene panel: chooses as it says, in one block or several, and right at the edges; honesty is in test_leakage."""

from __future__ import annotations

import json
import sys

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load, save
from sklearn.feature_selection import f_classif
from wsipipe.data.errors import BundleError, ExpressionError, UsageError
from wsipipe.models.training.gene_panel import GenePanel, Selection

Matrix = npt.NDArray[np.float32]


def noise(patients: int, genes: int, seed: int = 0) -> tuple[Matrix, list[str], npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(5, 2, (patients, genes)).astype(np.float32)
    labels = np.arange(patients) % 2
    return matrix, [f"g{i:05d}" for i in range(genes)], labels


# Choosing


def test_anova_finds_planted_genes() -> None:
    matrix, genes, labels = noise(100, 500)
    planted = [7, 77, 177]
    matrix[:, planted] += (2.0 * labels)[:, None]
    panel = GenePanel(n_genes=3).fit(matrix, genes, labels)
    assert set(panel.genes) == {genes[i] for i in planted}


def test_anova_orders_all_genes_as_scikit_learn_does() -> None:
    matrix, genes, _ = noise(90, 400, seed=4)
    labels = (np.arange(90) % 3 == 0).astype(int)  # classes of unequal size
    panel = GenePanel(n_genes=400).fit(matrix, genes, labels)
    f = f_classif(matrix.astype(np.float64), labels)[0]
    assert panel.genes == tuple(genes[i] for i in np.argsort(-f))


def test_a_gene_that_separates_perfectly_comes_first() -> None:
    matrix, genes, labels = noise(40, 20)
    matrix[:, 11] = labels  # within the classes it does not vary: F is infinite
    assert GenePanel(3).fit(matrix, genes, labels).genes[0] == "g00011"


def test_xgboost_finds_what_no_single_gene_shows() -> None:
    pytest.importorskip("xgboost")
    matrix, genes, _ = noise(300, 60)
    labels = ((matrix[:, 5] > 5) ^ (matrix[:, 40] > 5)).astype(int)  # exclusive or: F of either gene is noise
    one = GenePanel(2, "xgboost").fit(matrix, genes, labels)
    assert set(one.genes) == {"g00005", "g00040"}
    assert set(GenePanel(2).fit(matrix, genes, labels).genes) != set(one.genes)
    order = np.random.default_rng(1).permutation(60)
    all_genes = GenePanel(60, "xgboost").fit(matrix, genes, labels)
    again = GenePanel(60, "xgboost").fit(matrix[:, order], [genes[i] for i in order], labels)
    assert all_genes.genes == again.genes
    assert len(again.genes) == 60  # those that no tree uses come last


def test_without_xgboost_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xgboost", None)  # Python's own way to make an import fail
    matrix, genes, labels = noise(20, 5)
    with pytest.raises(UsageError, match="needs the package xgboost") as caught:
        GenePanel(2, "xgboost").fit(matrix, genes, labels)
    assert "wsipipe-momkd[xgboost]" in caught.value.hint


def test_variance_and_list() -> None:
    matrix, genes, labels = noise(50, 20)
    matrix[:, 4] *= 10
    matrix[:, 9] *= 5
    assert GenePanel(2, "variance").fit(matrix, genes, labels).genes == ("g00004", "g00009")
    listed = GenePanel(1, "list", ["g00011", "absent", "g00003", "g00011"]).fit(matrix, genes, labels)
    assert listed.genes == ("g00011", "g00003")
    assert listed.counts["not_to_be_had"] == 1


def test_fewer_genes_than_asked() -> None:
    matrix, genes, labels = noise(30, 12)
    assert len(GenePanel(768).fit(matrix, genes, labels).genes) == 12


def test_the_order_of_genes_changes_nothing() -> None:
    matrix, genes, labels = noise(60, 200)
    matrix[:, 50] += 2 * labels
    matrix[:, [60, 120, 7]] = matrix[:, [50]]  # a tie, which the names settle
    order = np.random.default_rng(1).permutation(200)
    one = GenePanel(3).fit(matrix, genes, labels)
    other = GenePanel(3).fit(matrix[:, order], [genes[i] for i in order], labels)
    assert one.genes == other.genes == ("g00007", "g00050", "g00060")
    np.testing.assert_array_equal(one.mean, other.mean)


# Only training patients speak


def test_scaling_is_the_training_patients() -> None:
    matrix, genes, labels = noise(60, 10)
    panel = GenePanel().fit(matrix[:40], genes, labels[:40])
    scaled = panel.transform(matrix[:40], genes)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(axis=0), 1, atol=1e-5)
    far = matrix[40:].copy()
    far[:] = 1e4
    shifted = panel.transform(np.concatenate([matrix[40:50], far]), genes)
    np.testing.assert_array_equal(shifted[:10], panel.transform(matrix[40:50], genes))


# The edges


def test_missing_values_are_the_training_mean() -> None:
    matrix, genes, labels = noise(40, 5)
    matrix[:4, 2] = np.nan
    panel = GenePanel().fit(matrix, genes, labels)
    column = panel.genes.index("g00002")
    assert panel.mean[column] == pytest.approx(matrix[4:, 2].mean(), rel=1e-6)
    assert panel.scale[column] == pytest.approx(matrix[4:, 2].std(), rel=1e-5)
    scaled = panel.transform(matrix, genes)
    assert np.isfinite(scaled).all()
    assert (scaled[:4, column] == 0).all()


def test_constant_and_empty_genes_are_filtered_and_counted() -> None:
    matrix, genes, labels = noise(40, 8)
    matrix[:, 0] = 3.3
    matrix[:, 1] = np.nan
    matrix[:30, 2] = np.nan
    matrix[:39, 3] = np.nan
    matrix[:2, 4] = np.nan
    panel = GenePanel().fit(matrix, genes, labels)
    assert set(panel.genes) == {"g00004", "g00005", "g00006", "g00007"}
    assert panel.counts == {"offered": 8, "too_many_missing": 3, "constant": 1, "chosen": 4}
    assert np.isfinite(panel.transform(matrix, genes)).all()


def test_another_cohort_lacks_genes() -> None:
    matrix, genes, labels = noise(40, 6)
    panel = GenePanel().fit(matrix, genes, labels)
    theirs = ["other", "g00004", "g00001"]
    values = noise(7, 3, seed=9)[0]
    with pytest.raises(ExpressionError, match="4 of the panel's 6 genes are not in the matrix") as caught:
        panel.transform(values, theirs)
    assert "other" in caught.value.hint
    panel.max_absent = 0.7
    assert panel.missing(theirs) == tuple(gene for gene in panel.genes if gene not in theirs)
    scaled = panel.transform(values, theirs)
    assert scaled.shape == (7, 6)
    assert scaled.dtype == np.float32
    for gene in genes:
        column = scaled[:, panel.genes.index(gene)]
        if gene in theirs:
            index = panel.genes.index(gene)
            expected = (values[:, theirs.index(gene)] - panel.mean[index]) / panel.scale[index]
            np.testing.assert_allclose(column, expected, rtol=1e-6)
        else:
            assert (column == 0).all()


# Several blocks


def joined(patients: int = 80) -> tuple[Matrix, list[str], npt.NDArray[np.int64]]:
    """RNA of 30 genes, and copy numbers of 10 that the last quarter of the patients lacks."""
    matrix, genes, labels = noise(patients, 40)
    matrix[:, 3] += 3 * labels
    matrix[:, 30:] /= 20  # another unit
    matrix[:, 35] += 0.3 * labels
    matrix[patients * 3 // 4 :, 30:] = np.nan
    matrix[:3, 31] = np.nan
    return matrix, [*genes[:30], *(f"cnv:{gene}" for gene in genes[:10])], labels


def test_each_block_is_chosen_from_by_itself() -> None:
    matrix, genes, labels = joined()
    panel = GenePanel(10).fit(matrix, genes, labels)
    rna = GenePanel(10).fit(matrix[:, :30], genes[:30], labels)
    cnv = GenePanel(10).fit(matrix[:60, 30:], genes[30:], labels[:60])
    assert panel.genes == (*rna.genes, *cnv.genes)
    assert (panel.genes[0], panel.genes[10]) == ("g00003", "cnv:g00005")
    np.testing.assert_array_equal(panel.mean, [*rna.mean, *cnv.mean])
    assert panel.counts == {
        "offered": 40,
        "too_many_missing": 0,
        "constant": 0,
        "chosen": 20,
        "chosen_rna": 10,
        "chosen_cnv": 10,
        "patients_without_cnv": 20,
    }
    scaled = panel.transform(matrix, genes)
    np.testing.assert_array_equal(scaled[:, :10], rna.transform(matrix[:, :30], genes[:30]))
    np.testing.assert_array_equal(scaled[:60, 10:], cnv.transform(matrix[:60, 30:], genes[30:]))
    assert (scaled[60:, 10:] == 0).all()  # not measured: the training mean


def test_a_listed_gene_means_it_in_every_block() -> None:
    matrix, genes, labels = joined()
    listed = ["g00007", "cnv:g00002", "g00029", "nowhere"]
    panel = GenePanel(selection="list", gene_list=listed).fit(matrix, genes, labels)
    assert panel.genes == ("g00007", "g00029", "cnv:g00007", "cnv:g00002")
    assert panel.counts["not_to_be_had"] == 1


def test_a_block_measured_in_one_class_is_refused() -> None:
    matrix, genes, labels = joined()
    matrix[labels == 1, 30:] = np.nan
    with pytest.raises(ExpressionError, match="cnv is chosen between two classes") as caught:
        GenePanel().fit(matrix, genes, labels)
    assert "leave cnv out" in caught.value.hint


def test_what_fit_refuses() -> None:
    matrix, genes, labels = noise(10, 3)
    with pytest.raises(ExpressionError, match="labels of shape"):
        GenePanel().fit(matrix, genes, labels[:5])
    with pytest.raises(ExpressionError, match="both must be there"):
        GenePanel().fit(matrix, genes, np.zeros(10))
    with pytest.raises(ExpressionError, match="does not fit 2 genes"):
        GenePanel().fit(matrix, genes[:2], labels)
    with pytest.raises(ExpressionError, match="occurs twice"):
        GenePanel().fit(matrix, ["a", "b", "a"], labels)
    with pytest.raises(ExpressionError, match="none of 3 genes varies"):
        GenePanel().fit(np.ones_like(matrix), genes, labels)
    with pytest.raises(ExpressionError, match="none of the 1 listed genes"):
        GenePanel(selection="list", gene_list=["x"]).fit(matrix, genes, labels)
    with pytest.raises(UsageError):
        GenePanel().transform(matrix, genes)


@pytest.mark.parametrize(
    "wrong",
    [{"n_genes": 0}, {"max_missing": 1.0}, {"max_absent": -0.1}, {"selection": "list"}, {"gene_list": ["a"]}],
)
def test_settings_that_cannot_be_meant(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        GenePanel(**wrong)  # type: ignore[arg-type]


# In the bundle


@pytest.mark.parametrize("selection", ["anova", "variance", "list"])
def test_round_trip_to_the_bit(selection: Selection) -> None:
    matrix, genes, labels = noise(40, 30)
    panel = GenePanel(10, selection, genes[5:15] if selection == "list" else ()).fit(matrix, genes, labels)
    arrays, info = panel.state()
    again = GenePanel.from_state(load(save(arrays)), json.loads(json.dumps(info)))
    assert vars(again).keys() == vars(panel).keys()
    assert again.state()[1] == info
    np.testing.assert_array_equal(again.transform(matrix, genes), panel.transform(matrix, genes))


def test_a_damaged_state_is_refused() -> None:
    matrix, genes, labels = noise(40, 30)
    arrays, info = GenePanel(10).fit(matrix, genes, labels).state()
    for bad_arrays, bad_info in (
        ({"mean": arrays["mean"]}, info),
        ({**arrays, "scale": arrays["scale"][:5]}, info),
        ({**arrays, "scale": 0 * arrays["scale"]}, info),
        (arrays, {**info, "genes": info["genes"][:3]}),
        (arrays, {"genes": info["genes"]}),
        (arrays, {**info, "n_genes": 0}),
    ):
        with pytest.raises(BundleError):
            GenePanel.from_state(bad_arrays, bad_info)
