"""Where the names of a matrix are: separators at line ends, row numbers, symbols beside ids, numbers as names."""

from __future__ import annotations

import gzip
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from expression_frames import GENES, PATIENTS, close, counts, cpm, log2
from wsipipe.data.errors import ExpressionError, UsageError
from wsipipe.data.matrices.naming import Naming
from wsipipe.data.molecular.expression_reading import read_genomics

IDS = [f"ENSG{index:011d}" for index in range(len(GENES))]
IN_ANOTHER_ORDER = np.random.default_rng(4).permutation(24) + 1


def expected(frame: pd.DataFrame | None = None) -> pd.DataFrame:
    return log2(cpm(counts() if frame is None else frame)).T


def read(path: Path, naming: Naming = Naming(), **options: object) -> tuple[pd.DataFrame, list[str]]:  # noqa: B008
    result, facts = read_genomics(path, naming=naming, **options)  # type: ignore[arg-type]
    return result.to_df(), facts.sentences


def lines(separator: str, corner: str | None = "", end: str = "", header_end: str = "") -> str:
    """Genes in rows; with something at the ends of the lines."""
    frame = counts()
    head = separator.join([*([] if corner is None else [corner]), *PATIENTS]) + header_end
    rows = [separator.join([gene, *map(str, row)]) + end for gene, row in zip(GENES, frame.to_numpy(), strict=True)]
    return "\n".join([head, *rows]) + "\n"


ENDS = {
    "csv": ("m.csv", lines(",", end=",")),
    "tsv with a title": ("m.tsv", lines("\t", "ID_REF", end="\t")),
    "semicolons": ("m.csv", lines(";", "Hugo_Symbol", end=";")),
    "two at the end": ("m.csv", lines(",", "gene", end=",,")),
    "in the header too": ("m.csv", lines(",", "gene", end=",", header_end=",")),
    "three in the header too": ("m.csv", lines(",", "", end=",,,", header_end=",,,")),
    "in the header alone": ("m.tsv", lines("\t", "gene", header_end="\t")),
    "gct": ("m.gct", f"#1.2\n{len(GENES)}\t{len(PATIENTS)}\n" + lines("\t", "Name", end="\t")),
    "series matrix of GEO": (
        "m.txt",
        '!Series_title\t"x"\n!series_matrix_table_begin\n' + lines("\t", '"ID_REF"') + "!series_matrix_table_end\n",
    ),
    "R without a corner": ("m.txt", lines(" ", None)),
    "R with a corner": ("m.txt", lines("\t", "")),
    "a header behind a hash": ("m.tsv", "# made by a tool\n" + lines("\t", "#gene")),
}


@pytest.mark.parametrize("form", ENDS)
def test_ends_of_lines_move_no_names(tmp_path: Path, form: str) -> None:
    name, text = ENDS[form]
    (tmp_path / name).write_text(text)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    for path in (tmp_path / name, tmp_path / f"{name}.gz"):
        close(read(path)[0], expected())


def test_an_empty_last_cell_and_a_header_that_may_lack_its_corner(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(lines(",", "tumours", end=","))
    with pytest.raises(ExpressionError, match="either 'tumours' is the title of the names, or") as caught:
        read_genomics(path)
    assert "--name-column tumours" in caught.value.hint
    close(read(path, Naming("tumours"), orientation="genes-in-rows")[0], expected())
    path.write_text(lines(",", "gene", end=",") + "LAST,1,2,3,4,5,6,7,8,9\n")
    with pytest.raises(ExpressionError, match="the row LAST has more cells"):
        read_genomics(path)
    path.write_text(lines(",", "gene").replace("\nESR1,", "\nESR1,7,"))
    with pytest.raises(ExpressionError, match="line 3"):
        read_genomics(path)


# Row numbers and columns of names


def test_a_column_of_patients_goes_before_row_numbers(tmp_path: Path) -> None:
    """R's write.csv of a data frame, of patients 1 to 24 in another order."""
    values = np.random.default_rng(5).poisson(80, (24, 30))
    frame = pd.DataFrame(values, columns=["ACTB", *(f"GENE{i}" for i in range(29))])
    want = expected(frame.set_axis(map(str, IN_ANOTHER_ORDER)).T)
    with_ids = frame.copy()
    with_ids.insert(0, "patient_id", IN_ANOTHER_ORDER)
    numbered = with_ids.set_axis(range(1, 25))
    last = frame.assign(patient_id=IN_ANOTHER_ORDER)
    tables = {
        "write.csv": numbered.to_csv(quoting=2),
        "a title for the row numbers": numbered.rename_axis("X").to_csv(),
        "pandas, read and written again": with_ids.rename_axis("Unnamed: 0").to_csv(),
        "row numbers twice": with_ids.rename_axis("Unnamed: 0").reset_index().rename_axis("index").to_csv(),
        "names in the last column": last.to_csv(index=False),
        "names with a point": with_ids.assign(patient_id=IN_ANOTHER_ORDER.astype(float)).to_csv(),
        "turned": numbered.T.to_csv(),
    }
    for form, text in tables.items():
        (tmp_path / "m.csv").write_text(text)
        result, _ = read(tmp_path / "m.csv")
        assert "patient_id" not in result.columns, form
        close(result, want)
    numbered.to_parquet(tmp_path / "m.parquet")
    close(read(tmp_path / "m.parquet")[0], want)
    obs = pd.DataFrame({"patient_id": IN_ANOTHER_ORDER}, index=[str(i) for i in range(24)])
    genes = pd.DataFrame(index=frame.columns)
    anndata.AnnData(values.astype(np.float32), obs=obs, var=genes).write_h5ad(tmp_path / "m.h5ad")
    close(read(tmp_path / "m.h5ad")[0], want)


def test_row_numbers_alone_are_no_names(tmp_path: Path) -> None:
    frame = counts().T.reset_index(drop=True)
    frame.to_csv(tmp_path / "numbered.csv")
    frame.to_csv(tmp_path / "no names.csv", index=False)
    frame.to_parquet(tmp_path / "range.parquet")
    frame.set_axis(range(101, 109)).to_parquet(tmp_path / "a later range.parquet")
    frame.set_axis([3, 5, 6, 9, 11, 12, 17, 20]).to_csv(tmp_path / "what a filter left.csv")
    counts().set_axis(range(8), axis=1).to_csv(tmp_path / "numbered columns.csv")
    counts().set_axis(range(1, 9), axis=1).to_csv(tmp_path / "columns from one.csv")
    obs, var = pd.DataFrame(index=list("01234567")), pd.DataFrame(index=GENES)
    anndata.AnnData(frame.to_numpy(np.float32), obs=obs, var=var).write_h5ad(tmp_path / "numbered.h5ad")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(ExpressionError, match=r"no column of names|look like column numbers") as caught:
            read_genomics(path)
        assert "--name-column" in caught.value.hint or "--numbers-are-names" in caught.value.hint
    result, _ = read(tmp_path / "numbered.csv", Naming(numbers=True))
    close(result, expected(counts().set_axis(list("01234567"), axis=1)))
    result, _ = read(tmp_path / "a later range.parquet", Naming("#1"))
    assert result.index.tolist() == [str(number) for number in range(101, 109)]
    result, _ = read(tmp_path / "columns from one.csv", Naming(numbers=True))
    close(result, expected(counts().set_axis(list("12345678"), axis=1)))


def test_numbers_are_names_where_the_table_says_so(tmp_path: Path) -> None:
    ids = ["0587220", "0587221", "587225", "587230", "587231", "587240", "99", "7"]
    frame = counts().set_axis(ids, axis=1)
    path = tmp_path / "m.csv"
    for corner in ("Hugo_Symbol", "gene_id", ""):
        frame.rename_axis(corner).to_csv(path)
        close(read(path)[0], expected(frame))  # leading zeros stay
    for corner in ("patient_id", "MRN", "sample"):
        frame.T.rename_axis(corner).to_csv(path)
        close(read(path)[0], expected(frame))
    with_points = frame.set_axis([587220.0 + index for index in range(8)], axis=1)
    with_points.T.rename_axis("patient_id").to_csv(path)
    assert read(path)[0].index.tolist() == [str(587220 + index) for index in range(8)]


def test_two_columns_that_could_be_the_names_are_asked_about(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    frame = counts().T
    frame.insert(0, "patient_id", [f"{index}" for index in range(20, 28)])
    frame.to_csv(path)
    with pytest.raises(ExpressionError, match="could both be the names of the patients") as caught:
        read_genomics(path)
    assert "'#1' or 'patient_id'" in caught.value.hint
    close(read(path, Naming("#1"))[0], expected())
    close(read(path, Naming("patient_id"))[0], expected(counts().set_axis(map(str, range(20, 28)), axis=1)))
    frame.rename_axis("case_id").to_csv(path)
    with pytest.raises(ExpressionError, match="'patient_id' and 'case_id' could both"):
        read_genomics(path)
    # Samples and their patients are no contradiction.
    frame.assign(patient_id=PATIENTS).set_axis([f"{p}_T1" for p in PATIENTS]).to_csv(path)
    result, said = read(path)
    close(result, expected())
    assert any("patients are those of the column 'patient_id'" in sentence for sentence in said)
    frame.assign(patient_id=PATIENTS).to_csv(path)
    close(read(path)[0], expected())
    # So does a row beside the header.
    turned = counts().astype(object)
    turned.loc["patient_id"] = [f"Q{index}" for index in range(8)]
    turned.rename_axis("gene").to_csv(path)
    with pytest.raises(ExpressionError, match="the header and the row 'patient_id' could both"):
        read_genomics(path)
    close(read(path, Naming(drop=("patient_id",)))[0], expected())
    assert read(path, Naming("patient_id"))[0].index.tolist() == [f"Q{index}" for index in range(8)]


def with_column(title: str, values: list[object], at: int = 0) -> pd.DataFrame:
    frame = counts()
    frame.insert(at, title, values)
    return frame


GENE_COLUMNS = {
    "write.csv of a data frame": with_column("Hugo_Symbol", list(GENES)).set_axis(range(1, 64)),
    "pandas with row numbers": with_column("gene_name", list(GENES)).reset_index(drop=True),
    "ids and symbols": with_column("gene_symbol", list(GENES)).set_axis(IDS),
    "symbols in the last column": with_column("hgnc_symbol", list(GENES), at=8)
    .set_axis(IDS)
    .rename_axis("ensembl_gene_id"),
    "Entrez and symbols": with_column("Hugo_Symbol", list(GENES))
    .set_axis(range(9000, 9063))
    .rename_axis("Entrez_Gene_Id"),
    "nf-core": with_column("gene_name", list(GENES)).set_axis(IDS).rename_axis("gene_id"),
    "an unknown title for row numbers and one column of words": with_column("what", list(GENES)).reset_index(drop=True),
    "probes": with_column("Symbol", list(GENES)).set_axis([f"{i}00_s_at" for i in range(63)]).rename_axis("ID_REF"),
    "Unnamed: 0": with_column("Gene.name", list(GENES)).reset_index(drop=True).rename_axis("Unnamed: 0"),
    "names that describe": with_column("gene_name", [f"actin beta {i}" for i in range(63)]),
}


@pytest.mark.parametrize("form", GENE_COLUMNS)
def test_columns_of_genes(tmp_path: Path, form: str) -> None:
    path = tmp_path / "m.tsv"
    frame = GENE_COLUMNS[form]
    frame.to_csv(path, sep="\t")
    orientation = "genes-in-rows" if "unknown" in form else "auto"
    result, _ = read_genomics(path, orientation=orientation)
    close(result.to_df(), expected())
    if "ids" in form:
        assert result.var["source_id"].tolist() == [IDS[GENES.index(gene)] for gene in result.var_names]
    if frame.columns[0] != "hgnc_symbol" and "unknown" not in form:
        frame.to_parquet(tmp_path / "m.parquet")
        close(read_genomics(tmp_path / "m.parquet")[0].to_df(), expected())


def test_a_gene_without_a_symbol_keeps_its_id(tmp_path: Path) -> None:
    symbols = [*GENES[:60], "", None, "-"]
    with_column("symbol", symbols).set_axis(IDS).to_csv(tmp_path / "m.csv")
    result, _ = read(tmp_path / "m.csv")
    close(result, expected(counts().set_axis([*GENES[:60], *IDS[60:]])))


def test_two_kinds_of_gene_names_are_asked_about(tmp_path: Path) -> None:
    with_column("symbol", [f"OTHER{i}" for i in range(63)]).to_csv(tmp_path / "m.csv")
    with pytest.raises(ExpressionError, match="could both be the names of the genes"):
        read_genomics(tmp_path / "m.csv")
    close(read(tmp_path / "m.csv", Naming("#1"))[0], expected())


def test_gtex_names_genes_by_symbols(tmp_path: Path) -> None:
    frame = cpm(counts())
    table = frame.set_axis([f"{name}.4" for name in IDS]).rename_axis("Name").reset_index()
    table.insert(1, "Description", GENES)
    (tmp_path / "m.gct").write_text("#1.2\n63\t8\n" + table.to_csv(sep="\t", index=False))
    close(read(tmp_path / "m.gct")[0], log2(frame).T)


ANNOTATED = {
    "featureCounts": {"Chr": "chr1;chr1", "Start": "1;9", "End": "8;20", "Strand": "+;+", "Length": 1735},
    "featureCounts of one exon": {"Chr": 7, "Start": 100, "End": 200, "Strand": "+", "Length": 101},
    "biomaRt": {
        "hgnc_id": 5,
        "chromosome_name": "X",
        "start_position": 5,
        "end_position": 9,
        "strand": -1,
        "gene_biotype": "protein_coding",
        "description": "a gene",
        "percentage_gene_gc_content": 40.5,
    },
    "RSEM": {"transcript_id(s)": "a,b", "length": 900.5, "effective_length": 700.25},
    "BioMart's page": {"Chromosome/scaffold name": 1, "Gene start (bp)": 4, "Gene end (bp)": 9, "Gene type": "lncRNA"},
    "Affymetrix": {"Gene Title": "some gene", "Entrez Gene ID": 7},
}


@pytest.mark.parametrize("program", ANNOTATED)
def test_columns_that_describe_genes_are_known_by_name(tmp_path: Path, program: str) -> None:
    frame = counts().rename_axis("Geneid")
    for place, (title, value) in enumerate(ANNOTATED[program].items()):
        frame.insert(place, title, value)
    text = "# Program:featureCounts v2.0.6\n" + frame.to_csv(sep="\t")
    (tmp_path / "m.txt").write_text(text)
    result, said = read(tmp_path / "m.txt")
    close(result, expected())
    assert any("columns that describe genes left out" in sentence for sentence in said)


def test_a_second_line_of_headings(tmp_path: Path) -> None:
    """Firehose's: what the numbers are, and SYMBOL|ENTREZ."""
    values = (cpm(counts()) / 5).set_axis([f"{gene}|{index}" for index, gene in enumerate(GENES)])
    table = values.rename_axis("Hybridization REF").to_csv(sep="\t").splitlines()
    second = "\t".join(["gene_id", *["normalized_count"] * 8])
    path = tmp_path / "m.txt"
    path.write_text("\n".join([table[0], second, *table[1:]]))
    result, said = read(path, orientation="genes-in-rows")
    close(result, log2(cpm(counts()) / 5).T)
    assert any("the unit is rsem, as the heading normalized_count states" in sentence for sentence in said)
    head = "\t".join(["Hybridization REF", *[name for name in PATIENTS for _ in range(2)]])
    second = "\t".join(["gene_id", *["raw_count", "scaled_estimate"] * 8])
    path.write_text("\n".join([head, second, *(f"{gene}|1\t" + "\t".join(["5\t0.1"] * 8) for gene in GENES)]))
    with pytest.raises(ExpressionError, match="each sample has several columns: raw_count, scaled_estimate"):
        read_genomics(path)


ONE_SAMPLE = {
    "salmon": "Name\tLength\tEffectiveLength\tTPM\tNumReads\nENST00000000233\t1000\t800.5\t3.5\t10\n",
    "kallisto": "target_id\tlength\teff_length\test_counts\ttpm\nENST00000000233\t1000\t800.5\t10\t3.5\n",
    "RSEM": "gene_id\ttranscript_id(s)\tlength\texpected_count\tTPM\tFPKM\nESR1\ta\t9\t10\t3.5\t2\n",
    "STAR": "N_unmapped\t5\t5\t5\nN_multimapping\t5\t6\t7\nESR1\t10\t4\t6\n",
    "two measures of each": "gene\tP1_TPM\tP1_counts\tP2_TPM\tP2_counts\nESR1\t1.5\t10\t2.5\t20\n",
    "a long table": "patient_id,gene,value\nP1,ESR1,1.5\nP1,PGR,2.5\n",
}


@pytest.mark.parametrize("program", ONE_SAMPLE)
def test_files_that_are_no_matrix_of_patients(tmp_path: Path, program: str) -> None:
    (tmp_path / "quant.sf").write_text(ONE_SAMPLE[program])
    with pytest.raises(ExpressionError, match=r"file of one sample|several columns|holds numbers|is a long table"):
        read_genomics(tmp_path / "quant.sf")


def test_names_in_every_normal_form_are_one(tmp_path: Path) -> None:
    frame = counts().rename(columns={"P0": "Mu\u0308ller"})
    frame.rename_axis("gene").to_csv(tmp_path / "m.csv")
    assert "M\u00fcller" in read(tmp_path / "m.csv")[0].index


def test_what_is_left_out_must_be_there(tmp_path: Path) -> None:
    counts().rename_axis("gene").to_csv(tmp_path / "m.csv")
    result, said = read(tmp_path / "m.csv", Naming(drop=("GENE5", "P3")))
    close(result, expected(counts().drop("GENE5").drop(columns="P3")))
    assert "left out by --drop-columns: P3, GENE5" in said
    with pytest.raises(UsageError, match="no column or row is called GENE99"):
        read_genomics(tmp_path / "m.csv", naming=Naming(drop=("GENE99",)))


def test_an_orientation_that_the_names_contradict(tmp_path: Path) -> None:
    counts().rename_axis("gene").to_csv(tmp_path / "m.csv")
    with pytest.raises(ExpressionError, match="patients-in-rows contradicts the names"):
        read_genomics(tmp_path / "m.csv", orientation="patients-in-rows")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("blank-corner.csv", (6, 300)),
        ("id-ref.tsv", (6, 300)),
        ("row-numbers-write-csv.csv", (6, 299)),
        ("row-numbers-pandas.tsv", (6, 299)),
        ("numbers.csv", (12, 300)),
        ("firehose.txt", (6, 300)),
        ("featurecounts.txt", (6, 300)),
        ("ids-and-symbols.csv", (6, 300)),
        ("excel-dates.csv", (6, 286)),
        ("patients.parquet", None),
    ],
)
def test_the_shared_cases(shared: Path, name: str, shape: tuple[int, int] | None) -> None:
    path = shared.parent / "cases/tables" / name
    if not path.exists():
        pytest.skip("the cases are not here")
    if shape is None:
        with pytest.raises(ExpressionError, match="no column of names"):
            read_genomics(path)
        path_naming = Naming("#1")
        assert read_genomics(path, naming=path_naming)[0].obs_names[0] == "101"
        return
    result, _ = read_genomics(path)
    assert result.shape == shape
    genes = {"ACTB", "ESR1", "ERBB2"} - ({"ACTB", "ESR1", "ERBB2"} if name == "excel-dates.csv" else set())
    assert genes <= set(result.var_names)
    if name in ("blank-corner.csv", "id-ref.tsv"):
        table = pd.read_csv(path, sep=None, engine="python", header=None, skiprows=1).iloc[:, 1:7]
        assert result.obs_names.tolist() == [f"P{index}" for index in range(6)]
        np.testing.assert_allclose(result.obs["library_size"], table.sum().to_numpy())
