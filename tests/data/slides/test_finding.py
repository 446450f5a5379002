"""Finding slides, naming them, and seeing that they have changed."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from dicom_files import dicom
from wsipipe.data.errors import CohortError, SurroundingsError, UsageError
from wsipipe.data.slides.dicom_header import read_dicom_header
from wsipipe.data.slides.finding import checked_slide_id, existing, find_slides, slide_id_of, slide_identity

SHARED = Path(__file__).resolve().parents[3] / "../shared/data/slides"


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def found(*given: Path) -> dict[str, str]:
    return {slide.slide_id: slide.path.name for slide in find_slides(given)}


def test_slides_are_found_below_a_folder_and_sorted_by_id(tmp_path):
    touch(tmp_path, "b.svs", "z/a.NDPI", "z/deep/er/c.tiff", "z/d.ome.tif", "notes.txt", "labels.csv", "z/e.png")
    slides = find_slides([tmp_path])
    assert [slide.slide_id for slide in slides] == ["a", "b", "c", "d", "e"]
    assert slides[0].path == tmp_path / "z/a.NDPI"


def test_an_id_is_the_name_without_its_extension_alone():
    for name, slide_id in {
        "TCGA-A7-A0DA-01Z-00-DX1.4E6EB156-BB19.svs": "TCGA-A7-A0DA-01Z-00-DX1.4E6EB156-BB19",
        "a.b.c.OME.TIFF": "a.b.c",
        "ome.tif": "ome",
        "Präparat 7 (HE).mrxs": "Präparat 7 (HE)",
        "other.xyz": "other",
        "bare": "bare",
    }.items():
        assert slide_id_of(Path("/somewhere") / name) == slide_id


def test_a_folder_of_dicom_files_is_one_slide(tmp_path):
    touch(tmp_path, "case-1/1.dcm", "case-1/2.DCM", "case-2.v1/1.dcm", "more/c.svs")
    assert found(tmp_path) == {"case-1": "case-1", "case-2.v1": "case-2.v1", "c": "c.svs"}
    assert found(tmp_path / "case-1") == {"case-1": "case-1"}
    assert found(tmp_path / "case-1" / "1.dcm") == {"case-1": "case-1"}, "a file of it means the slide"


def test_what_is_not_walked(tmp_path):
    touch(tmp_path, "a.mrxs", "a/Data0000.dat", "a/preview.png", "b/x.svs")
    touch(tmp_path, ".hidden.svs", "._a.svs", ".cache/c.svs")
    touch(tmp_path, "vms/s.vms", "vms/s_tile.jpg")
    assert found(tmp_path) == {"a": "a.mrxs", "x": "x.svs", "s": "s.vms"}


def test_a_file_that_is_named_itself_may_be_called_anything(tmp_path):
    touch(tmp_path, "scan.img")
    assert found(tmp_path / "scan.img") == {"scan": "scan.img"}


def test_what_is_given_twice_counts_once(tmp_path, monkeypatch):
    touch(tmp_path, "s/a.svs", "s/b.svs")
    monkeypatch.chdir(tmp_path)
    assert found(Path("s"), tmp_path / "s" / "a.svs", Path("s/../s")) == {"a": "a.svs", "b": "b.svs"}


def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path, "store/a.svs", "cohort/b.svs")
    (tmp_path / "cohort/store").symlink_to(tmp_path / "store")
    (tmp_path / "store/back").symlink_to(tmp_path / "cohort")
    assert found(tmp_path / "cohort") == {"a": "a.svs", "b": "b.svs"}
    (tmp_path / "cohort/named.svs").symlink_to(tmp_path / "store/a.svs")
    assert "named" in found(tmp_path / "cohort"), "a link to a file has its own name"


@pytest.mark.parametrize("other", ["sub/a.ndpi", "a.ndpi", "sub/a.png", "sub/a/1.dcm", "sub/A.svs", "A.ndpi"])
def test_two_slides_with_one_id_are_both_named(tmp_path, other):
    touch(tmp_path, "a.svs", other)
    with pytest.raises(CohortError) as caught:
        find_slides([tmp_path])
    second = tmp_path / (other.removesuffix("/1.dcm"))
    assert {str(tmp_path / "a.svs"), str(second)} == {
        caught.value.path,
        caught.value.what.split("this one and ")[1],
    }


def test_nothing_found_says_what_is_looked_for(tmp_path):
    touch(tmp_path, "readme.md")
    with pytest.raises(UsageError, match="no slides here") as caught:
        find_slides([tmp_path])
    assert ".svs" in caught.value.hint
    with pytest.raises(UsageError, match="no such file or folder"):
        find_slides([tmp_path / "gone"])


@pytest.mark.parametrize(
    "slide_id",
    [
        *("", " ", ".", "..", "../x", "a/b", "a\\b", "a\nb", "a\0b", "\x7f", "a\udcffb", "é" * 101, " .. "),
        *(".partial-x", ".aside-y", ".Partial-x"),
    ],
)
def test_ids_that_are_no_file_name_are_refused(slide_id):
    with pytest.raises(CohortError) as caught:
        checked_slide_id(slide_id, "cohort.csv")
    assert caught.value.path == "cohort.csv"
    str(caught.value).encode()


@pytest.mark.parametrize("slide_id", ["a", "TCGA-A7.1-2", "Fall 7 (HE)", "玻片", "...", "a..b", "x" * 200])
def test_ids_that_are_allowed(slide_id):
    assert checked_slide_id(slide_id, "cohort.csv") == slide_id


def test_a_file_name_of_bytes_that_are_no_text_is_refused(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"a\xff.svs")).touch()
    except OSError:
        pytest.skip("this file system takes text alone")
    with pytest.raises(CohortError, match="not text") as caught:
        find_slides([tmp_path])
    str(caught.value).encode()


# ------------------------------------------------------------------------------- what is left out


BESIDE = "a companion image of a slide beside it"


@pytest.mark.parametrize(
    ("names", "slides"),
    [
        (["one.svs", "one.jpg", "one.svs.png"], ["one.svs"]),
        (["one.svs", "a_thumbnail.jpg", "a_label.png", "Macro.PNG"], ["one.svs"]),
        (["one.svs", "one_macro.tif", "one-label.jpg", "thumb_one.png", "one.tile.jpg"], ["one.svs"]),
        (["Fall 7 (HE).ndpi", "Fall 7 (HE) (label).jpg", "fall 7 (he)_Macro Image.tiff"], ["Fall 7 (HE).ndpi"]),
        (["s.ome.tif", "s_overview.png", "s.ome.tif_mask.png"], ["s.ome.tif"]),
        (["tumour.png", "tumour_mask.png", "other_mask.png"], ["other_mask.png", "tumour.png"]),
        (["b_label.tif", "thumbs_up.svs", "tile_4.svs", "tile_4.png"], ["b_label.tif", "thumbs_up.svs", "tile_4.svs"]),
        (["labelled.svs", "labelled 2.png"], ["labelled 2.png", "labelled.svs"]),
    ],
)
def test_pictures_beside_a_slide_are_left_out_and_counted(tmp_path, names, slides):
    touch(tmp_path, *names)
    slides_found = find_slides([tmp_path])
    assert sorted(slide.path.name for slide in slides_found) == sorted(slides)
    beside = slides_found.left_out.get(BESIDE, [])
    assert len(beside) + len(slides_found) == len(names)
    if beside:
        (note,) = slides_found.notes()
        assert f"{len(beside)} (" in note
        assert beside[0].name in note


def test_a_picture_that_is_named_itself_is_taken(tmp_path):
    touch(tmp_path, "one.svs", "one_label.png")
    assert found(tmp_path / "one_label.png") == {"one_label": "one_label.png"}


def test_formats_that_are_not_read_and_dead_links_are_named(tmp_path):
    touch(tmp_path, "a.svs", "b.vsi", "c/d.QPTIFF", "c/e.isyntax", "notes.txt")
    (tmp_path / "gone.svs").symlink_to(tmp_path / "unmounted" / "gone.svs")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "unmounted" / "gone.txt")
    (tmp_path / "loop.ndpi").symlink_to(tmp_path / "loop.ndpi")
    slides = find_slides([tmp_path])
    assert [slide.slide_id for slide in slides] == ["a"]
    notes = "\n".join(slides.notes())
    for name in ("b.vsi", "d.QPTIFF", "e.isyntax", "gone.svs", "loop.ndpi"):
        assert name in notes
    assert "gone.txt" not in notes
    assert {why: len(paths) for why, paths in slides.left_out.items()} == {
        "a format that is not read (.vsi)": 1,
        "a format that is not read (.qptiff)": 1,
        "a format that is not read (.isyntax)": 1,
        "a link to a file that is not there": 2,
    }
    with pytest.raises(UsageError, match=r"no slides here; left out, a format .*e\.isyntax"):
        find_slides([tmp_path / "c"])


def test_packed_and_unfinished_slides_and_foreign_pictures_are_named(tmp_path):
    touch(tmp_path, "a.svs", "b.svs.gz", "c.ndpi.part", "d.mrxs.zip", "e.webp", "f.BMP", "g.tif.crdownload")
    touch(tmp_path, "counts.tsv.gz", "a.geojson.zip", "notes.part")
    slides = find_slides([tmp_path])
    assert [slide.slide_id for slide in slides] == ["a"]
    named = {path.name: why for why, paths in slides.left_out.items() for path in paths}
    assert named == {
        "b.svs.gz": "a packed slide: unpack it (.gz)",
        "c.ndpi.part": "a copy that is not finished (.part)",
        "d.mrxs.zip": "a packed slide: unpack it (.zip)",
        "e.webp": "a format that is not read (.webp)",
        "f.BMP": "a format that is not read (.bmp)",
        "g.tif.crdownload": "a copy that is not finished (.crdownload)",
    }


def test_a_folder_that_cannot_be_read_is_named_and_the_rest_goes_on(tmp_path):
    """In a process of its own, without root's rights."""
    touch(tmp_path, "cohort/a.svs", "cohort/closed/b.svs", "cohort/open/c.svs")
    (tmp_path / "cohort/closed").chmod(0)
    script = (
        "import os, sys\n"
        "from wsipipe.data.slides.finding import find_slides\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "slides = find_slides(sys.argv[1:])\n"
        "sys.stdout.write(' '.join(s.slide_id for s in slides) + chr(10) + chr(10).join(slides.notes()))\n"
    )
    system = Path(tempfile.gettempdir())
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.is_relative_to(system) and folder != system:  # pytest's own, which are for their owner alone
            folder.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "cohort")], capture_output=True, text=True)
    (tmp_path / "cohort/closed").chmod(0o755)
    assert done.returncode == 0, done.stderr
    ids, note = done.stdout.splitlines()
    assert ids == "a c"
    assert note.startswith("left out, a folder that cannot be read (Permission denied): 1 (")
    assert "closed" in note


# ------------------------------------------------------------------------------------------- names


def test_names_are_in_one_unicode_form(tmp_path):
    composed, decomposed = "Pr\u00e4parat", "Pra\u0308parat"
    touch(tmp_path, f"{decomposed}.svs", f"d/{decomposed} 2/1.dcm")
    assert [slide.slide_id for slide in find_slides([tmp_path])] == [composed, f"{composed} 2"]
    assert checked_slide_id(decomposed, "cohort.csv") == composed
    assert existing(tmp_path / f"{composed}.svs") == tmp_path / f"{decomposed}.svs"
    assert existing(tmp_path / f"{decomposed}.svs") == tmp_path / f"{decomposed}.svs"
    assert existing(tmp_path / "other.svs") is None


# ------------------------------------------------------------------------------------------- DICOM


def test_the_series_of_a_dicom_file_is_that_of_its_header_alone(tmp_path):
    header = read_dicom_header(dicom(tmp_path, "1.dcm", "1.2.3"))
    assert header is not None
    assert (header.series, header.whole_slide) == ("1.2.3", True)
    assert read_dicom_header(touch(tmp_path, "no.dcm") / "no.dcm") is None
    for length in range(0, (tmp_path / "1.dcm").stat().st_size, 7):
        (tmp_path / "cut.dcm").write_bytes((tmp_path / "1.dcm").read_bytes()[:length])
        read_dicom_header(tmp_path / "cut.dcm")


def test_a_dicom_file_that_is_named_is_that_slide_and_no_other(tmp_path):
    slide = tmp_path / "slide"
    for name in ("1.dcm", "2.dcm"):
        dicom(slide, name, "1.2.3")
    dicom(slide, "report.dcm", "1.2.99", whole_slide=False)
    assert found(slide / "1.dcm") == {"slide": "slide"}, "a report beside it does not matter"
    assert found(slide / "report.dcm") == {"report": "report.dcm"}, "which is then no slide"
    touch(slide, "broken.dcm")
    assert found(slide / "broken.dcm") == {"broken": "broken.dcm"}
    dicom(slide, "other.dcm", "1.2.4")
    assert found(slide / "other.dcm") == {"other": "other.dcm"}
    assert found(slide / "1.dcm", slide / "2.dcm") == {"1": "1.dcm", "2": "2.dcm"}


def test_a_dicom_file_among_others_is_known_by_all_files_of_its_series(tmp_path):
    one, two, other = (
        dicom(tmp_path, "1.dcm", "1.2.3"),
        dicom(tmp_path, "2.dcm", "1.2.3"),
        dicom(tmp_path, "3.dcm", "1.4"),
    )
    before = slide_identity(one)
    assert slide_identity(two) == before
    changed(other, 0)
    assert slide_identity(one) == before
    changed(two, 5)
    assert slide_identity(one) != before


# ---------------------------------------------------------------------------------------- identity


def changed(path: Path, offset: int) -> Path:
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)
        stream.seek(offset)
        stream.write(bytes([byte[0] ^ 1]))
    return path


def test_a_small_slide_is_hashed_whole(tmp_path):
    path = tmp_path / "a.svs"
    path.write_bytes(os.urandom(300_000))
    size, digest = slide_identity(path)
    assert size == 300_000
    assert digest.startswith("sha256:")
    for offset in (0, 150_001, 299_999):
        assert slide_identity(changed(path, offset))[1] != digest
        assert slide_identity(changed(path, offset))[1] == digest


def test_a_large_slide_is_hashed_at_its_ends_and_evenly_between(tmp_path):
    path = tmp_path / "a.svs"
    size = 200_000_000
    with path.open("wb") as stream:
        stream.truncate(size)
    bytes_, digest = slide_identity(path)
    assert bytes_ == size
    # Whatever 5 MB in a row change (a compressed level, another scan), it is seen.
    for start in range(0, size, 35_000_000):
        with path.open("r+b") as stream:
            stream.seek(start)
            stream.write(b"\x01" * 5_000_000)
        assert slide_identity(path)[1] != digest
        with path.open("r+b") as stream:
            stream.seek(start)
            stream.write(b"\x00" * 5_000_000)
    assert slide_identity(path)[1] == digest
    for offset in (0, size - 1):
        assert slide_identity(changed(path, offset))[1] != digest
        changed(path, offset)
    os.truncate(path, size - 1)
    assert slide_identity(path)[1] != digest


def test_a_moved_and_renamed_slide_is_the_same(tmp_path):
    touch(tmp_path, "a.svs", "d/1.dcm", "d/2.dcm")
    before = slide_identity(tmp_path / "a.svs"), slide_identity(tmp_path / "d")
    (tmp_path / "moved").mkdir()
    after = (
        slide_identity((tmp_path / "a.svs").rename(tmp_path / "moved/b.svs")),
        slide_identity((tmp_path / "d").rename(tmp_path / "moved/e")),
    )
    assert after == before


def test_a_slide_of_several_files_is_all_of_them(tmp_path):
    touch(tmp_path, "a.mrxs", "a/Slidedat.ini", "a/Data0000.dat", "d/1.dcm", "d/2.dcm", "v/s.vms", "v/s.jpg")
    for slide, part in (("a.mrxs", "a/Data0000.dat"), ("d", "d/2.dcm"), ("v/s.vms", "v/s.jpg")):
        size, digest = slide_identity(tmp_path / slide)
        changed(tmp_path / part, 0)
        assert slide_identity(tmp_path / slide)[1] != digest
        changed(tmp_path / part, 0)
        assert slide_identity(tmp_path / slide) == (size, digest)
        (tmp_path / part).unlink()
        assert slide_identity(tmp_path / slide) != (size, digest)


def test_two_vms_slides_in_one_folder_are_known_by_the_images_that_each_names(tmp_path):
    for name in "ab":
        index = (
            f"[Virtual Microscope Specimen]\r\nImageFile={name} 0.jpg\r\nImageFile(0,1)={name}-1.jpg\r\nMapFile=no.jpg"
        )
        touch(tmp_path, f"{name} 0.jpg", f"{name}-1.jpg")
        (tmp_path / f"{name}.vms").write_bytes(index.encode())
    a, b = (slide_identity(tmp_path / f"{name}.vms") for name in "ab")
    assert a != b
    changed(tmp_path / "b-1.jpg", 0)
    assert slide_identity(tmp_path / "a.vms") == a
    assert slide_identity(tmp_path / "b.vms") != b
    changed(tmp_path / "a 0.jpg", 0)
    assert slide_identity(tmp_path / "a.vms") != a


def test_a_slide_that_is_gone_is_the_fault_of_the_surroundings(tmp_path):
    with pytest.raises(SurroundingsError, match="could not be read"):
        slide_identity(tmp_path / "gone.svs")


def test_shared_slides_are_found():
    if not SHARED.exists():
        pytest.skip("no shared slides")
    assert set(found(SHARED)) >= {
        "CMU-1-Small-Region",
        "broken",
        "celiac_10x_nompp",
        "dicom-cmu-1-small-region",
        "giardia_40x_region",
        "ilc_breast_20x_region",
        "ndpi_fluo_dapi",
        "small",
        "tcga-cr-7395-01a-01-ts1",
        "unopenable",
        "unreadable",
    }
