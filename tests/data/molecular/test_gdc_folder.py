"""A folder of the GDC's STAR counts with its sample sheet."""

from __future__ import annotations

import gzip
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from wsipipe.data.errors import ExpressionError, WsipipeError
from wsipipe.data.molecular.expression_reading import read_genomics
from wsipipe.data.molecular.store import read_expression, write_expression

ENDING = ".rna_seq.augmented_star_gene_counts.tsv"
GENES = {
    "ENSG00000091831.24": "ESR1",
    "ENSG00000141736.14": "ERBB2",
    "ENSG00000075624.17": "ACTB",
    "ENSG00000136943.11": "CTSL2",  # as its gene model called CTSV
    "ENSG00000198804.2": "",
    **{f"ENSG00000{i:06d}.1": f"GENE{i}" for i in range(40)},
    "ENSG00000002586.20": "CD99",
    "ENSG00000002586.20_PAR_Y": "CD99",
}
LENGTHS = np.random.default_rng(0).integers(500, 9000, len(GENES))


@dataclass
class Sample:
    case: str
    sample: str
    kind: str = "Primary Tumor"
    file: str = ""

    def __post_init__(self) -> None:
        self.file = self.file or f"file-of-{self.sample.lower()}"

    def counts(self) -> np.ndarray:
        seed = sum(map(ord, self.file))
        counts = np.random.default_rng(seed).poisson(np.linspace(20, 900, len(GENES)))
        counts[-1] = 0  # the copy on Y is empty
        return counts

    def values(self, unit: str) -> np.ndarray:
        rates = self.counts() / LENGTHS
        return rates / rates.sum() * 1e6 if unit == "tpm" else rates * 1e9 / self.counts().sum()


def star_counts(sample: Sample) -> str:
    head = "gene_id\tgene_name\tgene_type\tunstranded\tstranded_first\tstranded_second"
    lines = ["# gene-model: GENCODE v36", f"{head}\ttpm_unstranded\tfpkm_unstranded\tfpkm_uq_unstranded"]
    lines += [f"{name}\t\t\t9999999\t7\t8\t\t\t" for name in ("N_unmapped", "N_multimapping", "N_noFeature")]
    lines.append("N_ambiguous\t\t\t5\t5\t5\t\t\t")
    rows = zip(GENES.items(), sample.counts(), sample.values("tpm"), sample.values("fpkm"), strict=True)
    for (gene, name), count, tpm, fpkm in rows:
        lines.append(
            f"{gene}\t{name}\tprotein_coding\t{count}\t{count // 2}\t{count // 2}\t{tpm:.4f}\t{fpkm:.4f}\t{fpkm:.4f}"
        )
    return "\n".join(lines) + "\n"


SAMPLES = [
    Sample("TCGA-A1-A0SB", "TCGA-A1-A0SB-01A"),
    Sample("TCGA-A1-A0SD", "TCGA-A1-A0SD-01A"),
    Sample("TCGA-A1-A0SD", "TCGA-A1-A0SD-01B"),  # a later vial
    Sample("TCGA-A1-A0SD", "TCGA-A1-A0SD-11A", "Solid Tissue Normal"),
    Sample("TCGA-A1-A0SE", "TCGA-A1-A0SE-06A", "Metastatic"),
    Sample("C3L-00001", "C3L-00001-02"),
]


def sheet(samples: list[Sample], *, two_columns: bool = False) -> pd.DataFrame:
    rows = []
    for number, one in enumerate(samples):
        tumour = "Normal" if "Normal" in one.kind else "Tumor"
        descriptor = {"Primary Tumor": "Primary", "Metastatic": "Metastatic"}.get(one.kind, "Not Applicable")
        kinds = {"Tissue Type": tumour, "Tumor Descriptor": descriptor} if two_columns else {"Sample Type": one.kind}
        rows.append(
            {
                "File ID": f"id-{number}",
                "File Name": one.file + ENDING,
                "Data Category": "Transcriptome Profiling",
                "Data Type": "Gene Expression Quantification",
                "Project ID": "TCGA-BRCA",
                "Case ID": one.case,
                "Sample ID": one.sample,
                **kinds,
            }
        )
    return pd.DataFrame(rows)


def download(
    folder: Path,
    samples: list[Sample] = SAMPLES,
    *,
    flat: bool = False,
    zipped: bool = False,
    two_columns: bool = False,
) -> Path:
    folder.mkdir(exist_ok=True)
    for number, sample in enumerate(samples):
        place = folder if flat else folder / f"id-{number}"
        place.mkdir(exist_ok=True)
        if zipped:
            (place / (sample.file + ENDING + ".gz")).write_bytes(gzip.compress(star_counts(sample).encode()))
        else:
            (place / (sample.file + ENDING)).write_text(star_counts(sample))
        (place / "annotations.txt").write_text("id\tnote\n")
    (folder / "MANIFEST.txt").write_text("id\tfilename\n")
    write_sheet(folder, sheet(samples, two_columns=two_columns))
    return folder


def write_sheet(folder: Path, rows: pd.DataFrame) -> None:
    rows.to_csv(folder / "gdc_sample_sheet.2025-01-01.tsv", sep="\t", index=False)


@pytest.mark.parametrize("form", ["folders", "flat", "zipped", "sheet of two columns", "sheet beside it"])
def test_known_answers(tmp_path: Path, form: str) -> None:
    folder = download(
        tmp_path / "gdc", flat=form == "flat", zipped=form == "zipped", two_columns=form == "sheet of two columns"
    )
    if form == "sheet beside it":
        shutil.move(next(folder.glob("gdc_sample_sheet*")), tmp_path)
    result, facts = read_genomics(folder)
    assert result.obs_names.tolist() == ["C3L-00001", "TCGA-A1-A0SB", "TCGA-A1-A0SD"]
    assert result.obs["source_id"].tolist() == ["C3L-00001-02", "TCGA-A1-A0SB-01A", "TCGA-A1-A0SD-01A"]
    assert set(result.var_names) == {*GENES.values(), "CTSV", "ENSG00000198804"} - {"CTSL2", ""}
    assert result.var.loc["ESR1", "source_id"] == "ENSG00000091831.24"
    assert result.var.loc["CD99"].tolist() == ["ENSG00000002586.20", 2]
    frame = result.to_df()
    for patient, sample in (("C3L-00001", SAMPLES[5]), ("TCGA-A1-A0SB", SAMPLES[0]), ("TCGA-A1-A0SD", SAMPLES[1])):
        tpm = pd.Series(sample.values("tpm"), index=list(GENES))
        for gene, name in (
            ("ENSG00000091831.24", "ESR1"),
            ("ENSG00000136943.11", "CTSV"),
            ("ENSG00000002586.20", "CD99"),
        ):
            assert frame.loc[patient, name] == pytest.approx(np.log2(tpm[gene] + 1), abs=1e-4)
        assert result.obs.loc[patient, "library_size"] == sample.counts().sum()  # without the aligner's summary
    assert (result.uns["unit"], result.uns["input_unit"], result.uns["input_unit_was"]) == (
        "log2(TPM + 1)",
        "tpm",
        "stated",
    )
    assert {
        "samples": 4,
        "extra_aliquots": 1,
        "files_missing": 0,
        "files_not_in_sheet": 0,
    }.items() <= facts.counts.items()
    normal = "Not Applicable Normal" if form == "sheet of two columns" else "Solid Tissue Normal"
    assert f"samples of type {normal} left out, not primary tumours: 1" in facts.sentences
    assert "genes are named by their symbols (GENCODE v36)" in facts.sentences
    assert not facts.warnings
    write_expression(tmp_path / "e.zarr", result)
    assert read_expression(tmp_path / "e.zarr").patients == tuple(result.obs_names)


def test_told_units_take_their_column(tmp_path: Path) -> None:
    folder = download(tmp_path / "gdc")
    counts, _ = read_genomics(folder, "counts")
    own = SAMPLES[0].counts()
    cpm = own[0] / own.sum() * 1e6
    assert counts.to_df().loc["TCGA-A1-A0SB", "ESR1"] == pytest.approx(np.log2(cpm + 1), rel=1e-6)
    fpkm, _ = read_genomics(folder, "fpkm")
    expected = np.log2(SAMPLES[0].values("fpkm")[0] + 1)
    assert fpkm.to_df().loc["TCGA-A1-A0SB", "ESR1"] == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ExpressionError, match="the unit zscore contradicts the files"):
        read_genomics(folder, "zscore")


def test_counts_with_the_lengths_give_the_gdcs_own_tpm(tmp_path: Path) -> None:
    folder = download(tmp_path / "gdc")
    lengths = tmp_path / "lengths.tsv"
    lengths.write_text(
        "gene_id\tlength\n" + "".join(f"{g}\t{n}\n" for g, n in zip(GENES, LENGTHS, strict=True) if "PAR" not in g)
    )
    ours, _ = read_genomics(folder, "counts", gene_lengths=lengths)
    theirs, _ = read_genomics(folder)
    assert ours.uns["unit"] == "log2(TPM + 1)"
    pd.testing.assert_frame_equal(ours.to_df(), theirs.to_df(), atol=1e-4)


def test_of_several_files_of_one_sample_the_one_with_most_reads_stands(tmp_path: Path) -> None:
    twice = [Sample("A", "A-1", file="one"), Sample("A", "A-1", file="two"), Sample("B", "B-1")]
    result, facts = read_genomics(download(tmp_path / "gdc", twice))
    assert result.obs.loc["A", "library_size"] == max(twice[0].counts().sum(), twice[1].counts().sum())
    assert twice[0].counts().sum() != twice[1].counts().sum()
    assert facts.counts["extra_files"] == 1


def test_a_pattern_decides_alone(tmp_path: Path) -> None:
    result, facts = read_genomics(download(tmp_path / "gdc"), patient_pattern=r"^(TCGA-..-....)-(?:06|11)")
    assert result.obs["source_id"].to_dict() == {
        "TCGA-A1-A0SD": "TCGA-A1-A0SD-11A",
        "TCGA-A1-A0SE": "TCGA-A1-A0SE-06A",
    }
    assert facts.counts["pattern_not_found"] == 4


@pytest.mark.parametrize("two_columns", [False, True])
def test_pieces_of_one_sample_are_that_sample(tmp_path: Path, two_columns: bool) -> None:
    """CPTAC's sheets name every piece that was sequenced together."""
    folder = download(tmp_path / "gdc")
    rows = sheet(SAMPLES, two_columns=two_columns)
    kinds = ["Tissue Type", "Tumor Descriptor"] if two_columns else ["Sample Type"]
    for column in ("Case ID", "Sample ID", *kinds):
        rows[column] = rows[column] + ", " + rows[column]
    mixed = rows.iloc[5].copy()
    for column in kinds:
        mixed[column] = "Tumor, Normal" if column == "Tissue Type" else "Primary, Not Applicable"
    if not two_columns:
        mixed["Sample Type"] = "Primary Tumor, Solid Tissue Normal"
    write_sheet(folder, pd.concat([rows.iloc[:5], mixed.to_frame().T]))
    result, facts = read_genomics(folder)
    assert result.obs_names.tolist() == ["TCGA-A1-A0SB", "TCGA-A1-A0SD"]
    assert facts.counts["pooled_files"] == 1  # a tumour and normal tissue in one file
    assert any("Normal left out, not primary tumours: 1" in sentence for sentence in facts.sentences)
    with_pattern, _ = read_genomics(folder, patient_pattern=r"^([^-]+-[^-]+-[^-]+)")
    assert with_pattern.obs["source_id"]["TCGA-A1-A0SD"].startswith("TCGA-A1-A0SD-01A")


def test_the_shared_cptac_download(shared: Path) -> None:
    folder = shared.parent / "cases/tables/gdc-cptac"
    if not folder.is_dir():
        pytest.skip("the cases are not here")
    result, facts = read_genomics(folder)
    assert result.obs_names.tolist() == ["C3L-00104", "C3L-00189", "C3L-00365"]
    assert facts.counts["sample_type_solidtissuenormal"] == 1


def test_what_sheet_and_folder_do_not_share_is_said(tmp_path: Path) -> None:
    folder = download(tmp_path / "gdc")
    rows = sheet(SAMPLES)
    other = rows.iloc[[0]].assign(**{"File Name": "slide.svs"})
    gone = rows.iloc[[0]].assign(**{"File Name": f"gone{ENDING}", "Case ID": "TCGA-A1-A0ZZ"})
    pooled = rows.iloc[[0]].assign(**{"Case ID": "TCGA-A1-A0SB, TCGA-A1-A0SX"})
    write_sheet(folder, pd.concat([pooled, rows.iloc[1:5], other, gone]))
    result, facts = read_genomics(folder)
    assert result.obs_names.tolist() == ["TCGA-A1-A0SD"]
    wanted = {"sheet_other_data": 1, "files_missing": 1, "pooled_files": 1, "files_not_in_sheet": 1}
    assert wanted.items() <= facts.counts.items()
    assert facts.warnings == [f"files of the sheet that are not in the folder: 1 (gone{ENDING})"]


def _other_model(folder: Path) -> None:
    path = next(folder.rglob(SAMPLES[1].file + ENDING))
    path.write_text("\n".join(path.read_text().replace("v36", "v22").splitlines()[:-3]))


def _cut(folder: Path) -> None:
    path = next(folder.rglob(SAMPLES[1].file + ENDING))
    path.write_text(path.read_text()[:-40])


def _cut_gzip(folder: Path) -> None:
    path = next(folder.rglob(SAMPLES[1].file + ENDING))
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes())[:-200])
    path.unlink()


def _no_star(folder: Path) -> None:
    next(folder.rglob(SAMPLES[1].file + ENDING)).write_text("gene\tcount\nESR1\t5\n")


def _twice(folder: Path) -> None:
    shutil.copy(next(folder.rglob(SAMPLES[1].file + ENDING)), folder)


def _no_files(folder: Path) -> None:
    for path in folder.rglob(f"*{ENDING}"):
        path.unlink()


BAD = {
    "no sheet": (lambda folder: next(folder.glob("gdc_*")).unlink(), "there is no sample sheet"),
    "two sheets": (
        lambda folder: (folder / "gdc_sample_sheet.2.tsv").write_text("x"),
        "there are 2 sample sheets: gdc_sample_sheet.2.tsv, gdc",
    ),
    "a sheet without columns": (
        lambda folder: write_sheet(folder, sheet(SAMPLES).drop(columns=["Case ID", "Sample Type"])),
        "the sample sheet has no column Case ID, Sample Type",
    ),
    "an empty sheet": (lambda folder: next(folder.glob("gdc_*")).write_text(""), "the sample sheet could not be read"),
    "another cart's sheet": (
        lambda folder: write_sheet(folder, sheet([Sample("X", "X-1")])),
        "names none of the 6 files of the folder",
    ),
    "one file of two samples": (
        lambda folder: write_sheet(
            folder, pd.concat([sheet(SAMPLES), sheet(SAMPLES[:1]).assign(**{"Sample ID": "S"})])
        ),
        "is there twice, of TCGA-A1-A0SB-01A and S",
    ),
    "no tumour": (
        lambda folder: write_sheet(folder, sheet(SAMPLES[3:5])),
        "no file is of a primary tumour, but of Metastatic, Solid Tissue Normal",
    ),
    "two gene models": (_other_model, r"its genes are not those of .*: 44 \(GENCODE v22\) against 47 \(GENCODE v36\)"),
    "cut off": (_cut, "the file is cut off: a gene has no values|its genes are not those of"),
    "cut gzip": (_cut_gzip, "damaged or cut off"),
    "no STAR counts": (_no_star, "is not a STAR-count file of the GDC"),
    "a file twice": (_twice, "is there twice, in "),
    "another folder": (_no_files, "this is a folder, and no file in it ends with .rna_seq"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_folders_say_what_and_where(tmp_path: Path, kind: str) -> None:
    spoil, message = BAD[kind]
    folder = download(tmp_path / "gdc")
    spoil(folder)
    with pytest.raises(WsipipeError, match=message) as caught:
        read_genomics(folder)
    assert isinstance(caught.value, ExpressionError)
    assert str(caught.value.path).startswith(str(folder))
    assert caught.value.hint
