"""A normal sample never stands for a tumour, whoever calls it normal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from wsipipe.data.cohort.sample_types import sample_types, type_of_code, type_of_words
from wsipipe.data.errors import ExpressionError
from wsipipe.data.molecular.expression_reading import read_genomics


def written(folder: Path, samples: list[str]) -> Path:
    """Logarithms: every gene of sample i lies above i, so that a value says whose it is."""
    values = np.arange(len(samples)) + np.array([[0.25], [0.5]])
    path = folder / "m.csv"
    pd.DataFrame(values, index=["ESR1", "PGR"], columns=samples).rename_axis("gene").to_csv(path)
    return path


def stands(folder: Path, samples: list[str], pattern: str | None = None) -> tuple[dict[str, str], list[str]]:
    result, facts = read_genomics(written(folder, samples), "log", patient_pattern=pattern)
    return result.obs["source_id"].to_dict(), facts.sentences


TCGA = r"^(TCGA-\w{2}-\w{4})"


def test_a_pattern_takes_no_normal_for_a_tumour(tmp_path: Path) -> None:
    a, b, c = "TCGA-EB-A42Y-06A-12R", "TCGA-EB-A42Y-11A-12R", "TCGA-EB-A44O-01A-11R"
    d, e = "TCGA-EB-A44O-11A-11R", "TCGA-EB-A551-10A-11R"
    found, said = stands(tmp_path, [a, b, c, d, e], TCGA)
    assert found == {"TCGA-EB-A42Y": a, "TCGA-EB-A44O": c}
    assert f"normal samples left out, which are not tumours ({b}, {d}, {e}): 3" in said
    # Of a primary tumour and a metastasis the primary stands, and both are named.
    found, said = stands(tmp_path, [c, "TCGA-EB-A44O-06A-99R", "TCGA-EB-A44O-01B-99R"], TCGA)
    assert found == {"TCGA-EB-A44O": c}
    assert any(f"{c} is used for TCGA-EB-A44O, not TCGA-EB-A44O-06A-99R" in sentence for sentence in said)
    # A pattern that asks for normal samples itself gets them.
    assert stands(tmp_path, [a, b], r"^(TCGA-..-....)-11")[0] == {"TCGA-EB-A42Y": b}
    with pytest.raises(ExpressionError, match="all are normal"):
        stands(tmp_path, [b, d], TCGA)


NAMES = {
    "CPTAC's": ["C3L-00104", "C3L-00104_NAT", "C3L-00189.N", "C3L-00189"],
    "in words": ["C3L-00104", "C3L-00104-normal", "C3L-00189_adjacent", "C3L-00189"],
    "T and N": ["C3L-00104-T", "C3L-00104-N", "C3L-00189-N1", "C3L-00189-T"],
    "tumor and normal": ["C3L-00104_tumor", "C3L-00104_Normal", "C3L-00189_Normal_1", "C3L-00189_tumor"],
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("pattern", [None, r"^(C3L-\d+)"])
def test_normal_samples_by_their_names(tmp_path: Path, kind: str, pattern: str | None) -> None:
    samples = NAMES[kind]
    found, said = stands(tmp_path, samples, pattern)
    assert sorted(found.values()) == sorted([samples[0], samples[3]])
    assert any(sentence.startswith("normal samples left out") for sentence in said)


def test_an_n_at_the_end_is_a_name_like_any_other(tmp_path: Path) -> None:
    samples = ["Mayer-N", "Huber-N", "Kunz-T"]
    assert sorted(stands(tmp_path, samples)[0].values()) == sorted(samples)


def test_where_no_type_is_known_both_are_named(tmp_path: Path) -> None:
    found, said = stands(tmp_path, ["PT-07_r1", "PT-07_r2", "PT-08_r1"], r"^(PT-\d+)")
    assert found == {"PT-07": "PT-07_r2", "PT-08": "PT-08_r1"}
    assert "of several samples: PT-07_r2 is used for PT-07, not PT-07_r1" in said


def test_samples_named_by_their_files_of_alignments(tmp_path: Path) -> None:
    """featureCounts' own header."""
    files = ["/data/run 1/P1.Aligned.sortedByCoord.out.bam", "P2.sorted.bam", "bam/P.3_T.markdup.cram", "P4.x"]
    found, said = stands(tmp_path, files)
    assert found == dict(zip(["P1", "P2", "P.3_T", "P4.x"], files, strict=True))
    assert "samples named by alignment files shortened to the sample: 3" in said


def test_names_that_differ_in_capital_letters_alone_are_asked_about(tmp_path: Path) -> None:
    with pytest.raises(ExpressionError, match="P05 and p05 differ only in capital letters"):
        stands(tmp_path, ["P05", "p05", "P06"])


def test_a_column_of_patients_takes_no_normal_either(tmp_path: Path) -> None:
    samples = ["TCGA-A1-A0SB-01A", "TCGA-A1-A0SB-11A", "TCGA-A1-A0SD-11A"]
    frame = pd.DataFrame({"ESR1": [1.5, 2.5, 3.5], "PGR": [1.0, 2, 3]}, index=samples).rename_axis("sample")
    frame.insert(0, "patient_id", [sample[:12] for sample in samples])
    frame.to_csv(tmp_path / "m.csv")
    result, _ = read_genomics(tmp_path / "m.csv", "log")
    assert result.obs["source_id"].to_dict() == {"TCGA-A1-A0SB": "TCGA-A1-A0SB-01A"}


def test_primary_cancers_of_the_blood_are_primary(tmp_path: Path) -> None:
    assert set(stands(tmp_path, ["TCGA-AB-2802-03A", "TCGA-AB-2803-09A", "TCGA-AB-2804-04A"])[0]) == {
        "TCGA-AB-2802",
        "TCGA-AB-2803",
    }


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Primary Tumor", "primary"),
        ("Primary solid Tumor", "primary"),
        ("Primary Tumor, Primary Tumor", "primary"),
        ("Primary Blood Derived Cancer - Peripheral Blood", "primary"),
        ("Primary", "primary"),
        ("Solid Tissue Normal", "normal"),
        ("Solid Tissue Normal;Solid Tissue Normal", "normal"),
        ("Blood Derived Normal", "normal"),
        ("Not Applicable Normal", "normal"),
        ("Adjacent normal", "normal"),
        ("Metastatic", "tumour"),
        ("Additional - New Primary", "tumour"),
        ("Recurrent Tumor", "tumour"),
        ("Tumor", "tumour"),
        ("Primary Tumor, Solid Tissue Normal", "other"),
        ("Primary Xenograft Tissue", "other"),
        ("Cell Lines", "other"),
        ("", "unknown"),
        ("S1", "unknown"),
    ],
)
def test_words_of_the_portals(words: str, kind: str) -> None:
    assert type_of_words(words) == kind


def test_codes_and_what_goes_first() -> None:
    kinds = {code: type_of_code(code) for code in ("01", "02", "03", "06", "10", "11", "14", "20", "50", "")}
    assert kinds == {
        "01": "primary", "02": "tumour", "03": "primary", "06": "tumour", "10": "normal", "11": "normal",
        "14": "normal", "20": "other", "50": "other", "": "unknown",
    }  # fmt: skip
    assert sample_types(["TCGA-A1-A0SB-01A"], ["Solid Tissue Normal"]) == ["normal"]
    assert sample_types(["TCGA-A1-A0SB-11A"], None) == ["normal"]
