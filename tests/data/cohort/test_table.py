"""The cohort table, slides matched to it, and patients' labels with every patient accounted for."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from pydantic import ValidationError
from wsipipe.data.cohort.labels import PatientLabels, patient_labels, patient_sites
from wsipipe.data.cohort.slide_match import match_slides
from wsipipe.data.cohort.table import CohortTable, read_cohort
from wsipipe.data.cohort.tcga import is_frozen, tcga_barcode, tcga_slide_kind
from wsipipe.data.errors import CohortError
from wsipipe.data.slide_names import slide_name
from wsipipe.stages.tile.settings import TileSettings

BRCA = Path(__file__).resolve().parents[3] / "../shared/data/brca"


def table(folder: Path, text: str | bytes, name: str = "cohort.csv") -> CohortTable:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_cohort(path)


def refused(folder: Path, text: str | bytes, name: str = "cohort.csv") -> str:
    with pytest.raises(CohortError) as caught:
        table(folder, text, name)
    assert caught.value.path == str(folder / name)
    assert caught.value.hint
    return str(caught.value)


# Reading


@pytest.mark.parametrize(
    "content",
    [
        b"slide_id,patient_id,HER2\nS1,P1,pos\nS2,P2,\xc3\xa9quivoque\n",
        b"\xef\xbb\xbfslide_id,patient_id,HER2\r\nS1,P1,pos\r\n\r\nS2,P2,\xc3\xa9quivoque\r\n",
        b"Slide ID\tPatient\tHER2\nS1 \t P1\tpos\nS2\tP2\t\xe9quivoque\n",  # Windows-1252
        "WSI;case_id;HER2\nS1;P1;pos\nS2;P2;équivoque\n".encode("utf-16"),
        gzip.compress("filename,Case,HER2\nraw/S1.svs,P1,pos\nC:\\raw\\S2.ome.tiff,P2,équivoque".encode(), mtime=0),
    ],
    ids=["plain", "BOM and CRLF", "TSV in cp1252", "semicolons in UTF-16", "gzip, file names"],
)
def test_one_table_in_many_clothes(tmp_path: Path, content: bytes) -> None:
    frame = table(tmp_path, content).frame
    assert list(frame.columns) == ["slide_id", "patient_id", "path", "mpp", "site", "HER2"]
    assert frame.to_numpy().tolist() == [["S1", "P1", "", "", "", "pos"], ["S2", "P2", "", "", "", "équivoque"]]


def test_labels_stay_as_written(tmp_path: Path) -> None:
    frame = table(tmp_path, "slide_id,patient_id,a,b,c\nS1,P1,NA,001,1.50\nS2,P2, True ,1e3,\n").frame
    assert frame[["a", "b", "c"]].to_numpy().tolist() == [["NA", "001", "1.50"], ["True", "1e3", ""]]


def test_of_several_aliases_the_first_in_the_list_is_taken(tmp_path: Path) -> None:
    read = table(tmp_path, "case_id,case_submitter_id,slide,wsi\nuuid,P1,S1,other\n")
    assert read.frame.iloc[0][["slide_id", "patient_id"]].tolist() == ["S1", "P1"]
    assert read.frame.iloc[0][["case_id", "wsi"]].tolist() == ["uuid", "other"]
    assert "column 'case_submitter_id' is the patient_id" in read.notes


def test_tcga_barcodes_give_patient_and_site(tmp_path: Path) -> None:
    read = table(
        tmp_path, "slide_id,patient_id\nTCGA-A7-A0DA-01Z-00-DX1.4E6E,\ntcga.bh.a0b1.01z,TCGA-BH-A0B1-01A-11R\n"
    )
    assert read.frame["patient_id"].tolist() == ["TCGA-A7-A0DA", "TCGA-BH-A0B1"]
    assert read.frame["site"].tolist() == ["A7", "BH"]
    assert [note.rpartition(": ")[2] for note in read.notes[:2]] == ["1", "1"]
    assert "site of TCGA patients" in read.notes[2]


def test_a_site_column_is_not_mixed_with_barcodes(tmp_path: Path) -> None:
    read = table(tmp_path, "slide_id,centre\nTCGA-A7-A0DA-01Z-00-DX1,Leeds\nTCGA-A8-A0DA-01Z-00-DX1,\n")
    assert read.frame["site"].tolist() == ["Leeds", ""]
    with pytest.raises(CohortError, match=r"TCGA-A8-A0DA \(none\)"):
        patient_sites(read, read.patients)


def test_slide_ids_from_paths_and_mpp(tmp_path: Path) -> None:
    read = table(tmp_path, 'path,patient_id,MPP\nraw/S1.svs,P1,0.2501\n/abs/S2.ndpi,P2,"0,5"\nS3.tif,P3,NA\n')
    assert read.frame["slide_id"].tolist() == ["S1", "S2", "S3"]
    assert read.paths() == {"S1": tmp_path / "raw/S1.svs", "S2": Path("/abs/S2.ndpi"), "S3": tmp_path / "S3.tif"}
    assert read.mpps() == {"S1": 0.2501, "S2": 0.5}
    assert match_slides(["s1", "S2"], read).mpps(read) == {"s1": 0.2501, "S2": 0.5}


def test_equal_rows_count_once(tmp_path: Path) -> None:
    read = table(tmp_path, "slide_id,patient_id,y\nS1,P1,a\nS1,P1,a\nS2,P2,b\n")
    assert len(read.frame) == 2
    assert "rows that repeat another exactly, counted once: 1" in read.notes


def test_patients_without_a_slide_stay(tmp_path: Path) -> None:
    read = table(tmp_path, "slide_id,patient_id,y\n,P1,a\nNA,P2,a\nS3,P3,b\n")
    assert read.patients == ("P1", "P2", "P3")
    labels = patient_labels(read, "y", ["a"], ["b"], match=match_slides(["S3"], read))
    assert labels.dropped == {"P1": "no slide on disk", "P2": "no slide on disk"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("slide_id,patient_id\n", "no rows"),
        ("patient_id,HER2\nP1,pos\n", "no column of slide ids among patient_id, HER2"),
        ("slide_id,HER2\nS1,pos\n", "no column of patient ids, and 1 slide ids are no TCGA barcodes: line 2"),
        ("slide_id,patient_id\nS1,P1\nS2,\n", r"name no patient: line 3 \(S2\)"),
        ("slide_id,patient_id\nS1,P1\nS1,P2\n", r"two patients: S1 \(P1, P2\)"),
        ("slide_id,patient_id,y\nS1,P1,a\nS1,P1,b\n", r"two rows that differ: S1 \(in y\)"),
        ("slide_id,patient_id,y,y\nS1,P1,a,b\n", "two columns are called y"),
        ("slide_id,Slide ID,patient_id\nS1,S1,P1\n", "could both be the slide_id"),
        ("slide_id,patient_id,mpp\nS1,P1,40\n", "line 2: mpp '40'"),
        ("slide_id,patient_id,mpp\nS1,P1,20x\n", "line 2: mpp '20x'"),
        ("slide_id,patient_id\nS1,P1,extra\n", "line 2 has 3 cells, the header has 2"),
        (b"PK\x03\x04rest of a spreadsheet", "spreadsheet"),
        (b"slide_id\0\0\0", "binary"),
        (gzip.compress(b"slide_id,patient_id\nS1,P1\n" * 100, mtime=0)[:40], "cut off"),
    ],
)
def test_bad_tables_say_what_and_where(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(CohortError, match=message):
        table(tmp_path, content)
    refused(tmp_path, content)


@pytest.mark.parametrize(
    ("mpp", "fits"), [("0.04", False), ("0.05", True), ("0,25", True), ("12.5", True), ("20", True), ("20.1", False)]
)
def test_the_table_and_the_flag_have_one_bound_of_mpp(tmp_path: Path, mpp: str, fits: bool) -> None:
    content = f"slide_id;patient_id;mpp\nS1;P1;{mpp}\n"
    value = float(mpp.replace(",", "."))
    if fits:
        assert table(tmp_path, content).mpps() == {"S1": value}
        assert TileSettings(mpp_override=value).mpp_override == value
        return
    with pytest.raises(CohortError, match=r"microns per pixel from 0\.05 to 20"):
        table(tmp_path, content)
    with pytest.raises(ValidationError):
        TileSettings(mpp_override=value)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(CohortError) as caught:
            read_cohort(path)
        assert caught.value.path == str(path)


def test_unknown_column_suggests(tmp_path: Path) -> None:
    read = table(tmp_path, "slide_id,patient_id,HER2Calc,ER\nS1,P1,a,b\n")
    assert read.column("her2calc") == "HER2Calc"
    with pytest.raises(CohortError, match="HER2_Calc") as caught:
        read.column("HER2_Calc")
    assert "did you mean HER2Calc?" in caught.value.hint


@pytest.mark.parametrize(
    ("slide", "kind"),
    [
        ("TCGA-A7-A0DA-01Z-00-DX1", "DX"),
        ("TCGA-A7-A0DA-01Z-00-DX1.4E6EB156-BB19-410F-878F-FC0EA7BD0B53", "DX"),
        ("tcga-cr-7395-01a-01-ts1", "TS"),
        ("TCGA-E2-A14U-06A-01-BSA.0A1B", "BS"),
        ("TCGA-A7-A0DA-01A-03-MS3", "MS"),
        ("TCGA-A7-A0DA-01Z-00", None),
        ("S-12-TS1", None),
        ("TCGA-A7-A0DAX-TS1", None),
    ],
)
def test_tcga_slide_kinds(slide: str, kind: str | None) -> None:
    assert tcga_slide_kind(slide) == kind
    assert is_frozen(slide) == (kind in ("TS", "BS", "MS"))


def test_barcode_parts() -> None:
    barcode = tcga_barcode("tcga.a7.a0da.06b.11r.a115.07")
    assert barcode is not None
    assert (barcode.patient, barcode.site, barcode.sample_type, barcode.vial) == ("TCGA-A7-A0DA", "A7", "06", "B")
    assert tcga_barcode("TCGA-A7") is None


def test_slide_names_lose_only_slide_extensions() -> None:
    assert [slide_name(n) for n in ("a/b.SVS", "x.y.ome.tif", "12.345", "A.4E6E")] == ["b", "x.y", "12.345", "A.4E6E"]


# Matching


def two_columns(folder: Path, *slides: str) -> CohortTable:
    return table(folder, "slide_id,patient_id\n" + "".join(f"{slide},P{i}\n" for i, slide in enumerate(slides)))


UUID = "4e6eb156-bb19-410f-878f-fc0ea7bd0b53"
DX = "TCGA-A7-A0DA-01Z-00-DX1"


def test_the_rules_in_their_order(tmp_path: Path) -> None:
    rows = ["exact,P1,", "listed,P2,scan_07.svs", f"long.{UUID},P3,", "short,P4,", f"CASE.{UUID},P5,", "gone,P6,"]
    content = "\n".join(["slide_id,patient_id,path", *rows, ""])
    match = match_slides(["exact", "scan_07", "long", f"short.{UUID}", "case", "alien"], table(tmp_path, content))
    assert match.rows == {
        "case": f"CASE.{UUID}",
        "exact": "exact",
        "long": f"long.{UUID}",
        "scan_07": "listed",
        f"short.{UUID}": "short",
    }
    assert list(match.by_rule.values()) == [1, 1, 1, 1, 1]
    assert next(iter(match.by_rule)) == "the exact id"
    assert list(match.by_rule)[-1].endswith("in another case")
    assert (match.only_on_disk, match.only_in_table) == (("alien",), ("gone",))


def test_an_exact_match_is_out_of_reach_of_later_rules(tmp_path: Path) -> None:
    match = match_slides(["12", "12.5"], two_columns(tmp_path, "12", "12.5", "12.7"))
    assert match.rows == {"12": "12", "12.5": "12.5"}
    assert match.only_in_table == ("12.7",)


@pytest.mark.parametrize(
    ("slides", "rows"),
    [
        ([DX], [f"{DX}.1", f"{DX}.2"]),
        ([f"{DX}.1", f"{DX}.2"], [DX]),
        ([DX.lower()], [f"{DX}.1", f"{DX}.2"]),
        (["sA"], ["Sa", "SA"]),
    ],
    ids=["two rows", "two files", "two rows, case", "two rows by case alone"],
)
def test_ambiguity_is_an_error(tmp_path: Path, slides: list[str], rows: list[str]) -> None:
    with pytest.raises(CohortError, match="do not match one to one") as caught:
        match_slides(slides, two_columns(tmp_path, *rows))
    assert all(name in str(caught.value) for name in [*slides, *rows])


# Labels

LABELLED = """slide_id,patient_id,HER2
A1,A,Positive
A2,A,
B1,B,NEGATIVE
C1,C,[Not Evaluated]
D1,D,equivocal
E1,E,NA
F1,F,2+
G1,G,negative
H1,H,positive
I1,I,positive
I2,I,indeterminate
TCGA-A7-A0DA-01A-01-TS1,J,positive
TCGA-A7-A0DA-01A-01-BS1,A,positive
"""


def labelled(folder: Path, **options: bool) -> PatientLabels:
    read = table(folder, LABELLED)
    on_disk = [slide for slide in read.frame["slide_id"] if slide != "G1"]
    match = match_slides(on_disk, read)
    return patient_labels(
        read,
        "her2",
        ["positive", "pos"],
        ["negative"],
        match=match,
        unusable={"H1": "slide failed", "A2": "x"},
        **options,
    )


def test_every_patient_is_used_or_dropped_with_a_reason(tmp_path: Path) -> None:
    labels = labelled(tmp_path)
    assert labels.column == "HER2"
    assert labels.labels == {"A": 1, "B": 0}
    assert labels.slides == {"A": ("A1",), "B": ("B1",)}
    assert labels.dropped == {
        "C": "label not evaluated ([not evaluated])",
        "D": "label equivocal (equivocal)",
        "E": "label missing",
        "F": "label is neither positive nor negative (2+)",
        "G": "no slide on disk",
        "H": "slide failed",
        "I": "label clear in one row and 'indeterminate' in another",
        "J": "frozen slides only",
    }
    assert labels.frozen_slides == ("TCGA-A7-A0DA-01A-01-BS1", "TCGA-A7-A0DA-01A-01-TS1")
    assert sum(labels.reasons.values()) == 8
    assert labels.notes()[0] == "HER2: 2 of 10 patients used (1 positive, 1 negative, 2 slides)"


def test_frozen_slides_can_be_kept(tmp_path: Path) -> None:
    labels = labelled(tmp_path, keep_frozen=True)
    assert labels.slides["A"] == ("A1", "TCGA-A7-A0DA-01A-01-BS1")
    assert "J" in labels.labels
    assert labels.frozen_slides == ()


def test_what_the_caller_lists_counts(tmp_path: Path) -> None:
    read = table(tmp_path, LABELLED)
    assert patient_labels(read, "HER2", ["equivocal", "2+"], ["negative"]).labels == {"B": 0, "D": 1, "F": 1, "G": 0}


def test_conflicts_are_listed(tmp_path: Path) -> None:
    read = table(tmp_path, "slide_id,patient_id,y\nS1,P1,H\nS2,P1,L\nS3,P2,L\nS4,P3,h\nS5,P3,l\n")
    with pytest.raises(CohortError, match=r"2 patients are both.*P1 \(H and L\), P3 \(h and l\)"):
        patient_labels(read, "y", ["H"], ["L"])


def test_a_class_that_nobody_has(tmp_path: Path) -> None:
    read = table(tmp_path, LABELLED)
    with pytest.raises(CohortError, match=r"no row of column HER2 is positive: none is \+") as caught:
        patient_labels(read, "HER2", ["+"], ["negative"])
    assert "Positive (5), NEGATIVE (2), (empty) (1)" in caught.value.hint
    with pytest.raises(CohortError, match="both positive and negative"):
        patient_labels(read, "HER2", ["Positive"], ["positive"])


# The real cohort


@pytest.fixture(scope="module")
def brca() -> CohortTable:
    if not BRCA.is_dir():
        pytest.skip("the real cohort is not here")
    return read_cohort(BRCA / "clinical.csv")


def test_real_slides_all_match_by_cutting_the_uuid(brca: CohortTable) -> None:
    assert (len(brca.frame), len(brca.patients)) == (1064, 1007)
    match = match_slides([path.stem for path in (BRCA / "slides").iterdir()], brca)
    assert match.by_rule == {"the table's id cut at its first dot (TCGA's UUID)": 86}
    assert match.only_on_disk == ()
    assert len(match.only_in_table) == 1064 - 86


@pytest.mark.parametrize(
    ("column", "positive", "negative", "used", "dropped"),
    [
        ("odx85", "H", "L", (22, 59, 86), {"no slide on disk": 926}),
        ("ER_Status_By_IHC", "positive", "negative", (69, 11, 85), {"no slide on disk": 926, "label missing": 1}),
        (
            "HER2Calc",
            "positive",
            "negative",
            (13, 42, 59),
            {"no slide on disk": 926, "label missing": 23, "label equivocal (equivocal)": 3},
        ),
        (
            "pr_status_by_ihc",  # its values are written in two ways: Positive and positive
            "positive",
            "negative",
            (59, 21, 85),
            {"no slide on disk": 926, "label not evaluated ([not evaluated])": 1},
        ),
    ],
)
def test_real_patients_are_accounted_for(
    brca: CohortTable, column: str, positive: str, negative: str, used: tuple[int, int, int], dropped: dict[str, int]
) -> None:
    match = match_slides([path.stem for path in (BRCA / "slides").iterdir()], brca)
    labels = patient_labels(brca, column, [positive], [negative], match=match)
    ones = sum(labels.labels.values())
    assert (ones, len(labels.labels) - ones, sum(map(len, labels.slides.values()))) == used
    assert labels.reasons == dropped
    assert {*labels.labels, *labels.dropped} == set(brca.patients)
