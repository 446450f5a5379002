"""Finding slides, naming them, and seeing that they have changed."""

import os
from pathlib import Path

import pytest
from wsipipe.data.errors import CohortError, SurroundingsError, UsageError
from wsipipe.data.slides.finding import checked_slide_id, find_slides, slide_id_of, slide_identity

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


@pytest.mark.parametrize("other", ["sub/a.ndpi", "a.png", "sub/a/1.dcm", "sub/A.svs", "A.ndpi"])
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
    "slide_id", ["", " ", ".", "..", "../x", "a/b", "a\\b", "a\nb", "a\0b", "\x7f", "a\udcffb", "é" * 101, " .. "]
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
    with pytest.raises(CohortError, match="no text") as caught:
        find_slides([tmp_path])
    str(caught.value).encode()


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
