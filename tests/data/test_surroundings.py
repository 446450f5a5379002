"""Storage that fails for a moment is waited for; storage that fails for good is named, and never taken for bad data.

Failures are made at the border to the operating system. What a reader waits for ends at its n-th pause, not after so
many seconds: no test depends on time.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import tifffile
from dicom_files import dicom
from PIL import Image
from storage import Storage
from tile_sets import tile_set
from wsipipe.data.errors import InputError, SlideError, StoreError, SurroundingsError
from wsipipe.data.features.store import FeatureFacts, open_features, read_bag, read_facts, write_features
from wsipipe.data.interop.imported_features import read_foreign_features
from wsipipe.data.manifest import Manifest
from wsipipe.data.slides.finding import FoundSlide, find_slides, slide_identity
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.surroundings import patiently, reading_fault, surroundings
from wsipipe.data.tiling.grid import plan_grid
from wsipipe.data.tiling.store import read_tiles, write_tiles
from wsipipe.data.units import Mpp, TilePx
from wsipipe.pipeline.run.outcomes import explain

NETWORK = ["EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN", "ENETUNREACH", "ECONNRESET", "EMFILE", "EAGAIN"]


def picture(width: int, height: int) -> np.ndarray:
    small = np.random.default_rng(0).integers(40, 220, (height // 32 + 2, width // 32 + 2, 3), np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))


def write_tiff(path: Path, **tags: object) -> Path:
    """On the fast path with ``compression="jpeg"``; OpenSlide's otherwise."""
    tags = {"compression": "deflate", "resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"} | tags
    with tifffile.TiffWriter(path) as writer:
        writer.write(picture(300, 200), tile=(64, 64), photometric="rgb", metadata=None, **tags)
    return path


def slides(folder: Path) -> list[Path]:
    """One for each reader: the fast path, OpenSlide, OME-TIFF, a plain image."""
    ome = folder / "c.ome.tif"
    tifffile.imwrite(ome, picture(300, 200), tile=(64, 64), photometric="rgb", compression="jpeg", ome=True)
    Image.fromarray(picture(300, 200)).save(folder / "d.png")
    return [write_tiff(folder / "a.tif", compression="jpeg"), write_tiff(folder / "b.tif"), ome, folder / "d.png"]


# ----- which failures are the machine's


@pytest.mark.parametrize("name", [*NETWORK, "ENOENT", "EACCES", "ENOSPC", "EDQUOT", "EROFS", "EHOSTUNREACH", "ENFILE"])
def test_failures_of_the_machine_are_named_with_a_way_out_and_tried_again(name: str) -> None:
    told = surroundings(OSError(getattr(errno, name), "x"), Path("a.svs"))
    assert told is not None
    assert told.path == "a.svs"
    assert os.strerror(getattr(errno, name)) in str(told)
    assert told.hint
    assert explain(told).retry


@pytest.mark.parametrize("error", [OSError("truncated"), OSError(errno.EINVAL, "x"), OSError(errno.EISDIR, "x")])
def test_other_failures_are_not(error: OSError) -> None:
    assert surroundings(error, Path("a")) is None
    assert reading_fault(error) is None


def test_an_error_that_comes_of_such_a_failure_is_tried_again_by_the_next_run() -> None:
    def raised(cause: BaseException | None) -> Exception:
        try:
            raise StoreError("damaged", path="a.zarr") from cause
        except StoreError as error:
            return error

    assert explain(raised(OSError(errno.ESTALE, "x"))).retry
    assert explain(raised(FileNotFoundError("a.zarr does not exist"))).retry
    assert explain(raised(KeyError("read failed: errno = 5, error message = 'Input/output error'"))).retry
    assert not explain(raised(ValueError("a part of it is lost"))).retry
    assert not explain(raised(None)).retry


# ----- patience


@pytest.mark.parametrize("name", [*NETWORK, "ENOENT"])
def test_a_failure_that_passes_is_waited_for(name: str, storage: Storage) -> None:
    answers = [OSError(getattr(errno, name), "x")] * 3

    def attempt() -> str:
        if answers:
            raise answers.pop()
        return "read"

    assert patiently(attempt, Path("a")) == "read"
    assert len(storage.pauses) == 3
    assert storage.pauses == sorted(storage.pauses), "pauses grow"


@pytest.mark.parametrize("name", ["EIO", "ENOENT", "EACCES", "ENOSPC"])
def test_patience_ends(name: str, storage: Storage) -> None:
    def attempt() -> None:
        raise OSError(getattr(errno, name), "x")

    with pytest.raises(SurroundingsError, match=os.strerror(getattr(errno, name))) as caught:
        patiently(attempt, Path("a"))
    assert caught.value.path == "a"
    waited = {"EIO": (5.0, 10.0), "ENOENT": (1.0, 3.0)}.get(name, (0, 0))
    assert waited[0] <= sum(storage.pauses) <= waited[1]
    before = len(storage.pauses)
    with pytest.raises(SurroundingsError):  # what has been waited for is not waited for again
        patiently(lambda: patiently(attempt, Path("a")), Path("b"))
    assert len(storage.pauses) == 2 * before


@pytest.mark.parametrize("error", [ValueError("x"), SlideError("x"), OSError("truncated")])
def test_nothing_else_is_waited_for(error: Exception, storage: Storage) -> None:
    def attempt() -> None:
        raise error

    with pytest.raises(type(error), match=r"x|truncated"):
        patiently(attempt, Path("a"))
    assert storage.pauses == []


# ----- slides


@pytest.mark.parametrize("which", range(4), ids=["fast", "openslide", "ome", "image"])
@pytest.mark.parametrize("fault", ["vanishes", *NETWORK[:4]])
def test_a_slide_is_opened_and_read_through_a_failure(which: int, fault: str, tmp_path: Path, storage: Storage) -> None:
    path = slides(tmp_path)[which]
    with open_slide(path, mpp_override=0.5) as slide:
        reader, expected = slide.reader, slide.read(0, 10, 20, 200, 150)
    with storage.failing(path, fault, pauses=3), open_slide(path, mpp_override=0.5) as slide:
        assert slide.reader == reader, "a moment's failure chooses no other reader"
        np.testing.assert_array_equal(slide.read(0, 10, 20, 200, 150), expected)
    with open_slide(path, mpp_override=0.5) as slide, storage.failing(path, fault, pauses=3):
        np.testing.assert_array_equal(slide.read(0, 10, 20, 200, 150), expected)


@pytest.mark.parametrize("which", range(4), ids=["fast", "openslide", "ome", "image"])
@pytest.mark.parametrize("fault", ["vanishes", *NETWORK[:4]])
def test_a_slide_whose_storage_stays_away_has_no_bad_tiles(
    which: int, fault: str, tmp_path: Path, storage: Storage
) -> None:
    path = slides(tmp_path)[which]
    with storage.failing(path, fault), pytest.raises(SurroundingsError) as caught:
        open_slide(path, mpp_override=0.5)
    assert caught.value.path == str(path)
    if which == 1 and fault != "vanishes":
        return  # OpenSlide reads in C, behind what is made to fail here
    with open_slide(path, mpp_override=0.5) as slide:
        if which in (0, 2) and fault == "vanishes":
            return  # an open file stays readable on a local disk
        with storage.failing(path, fault), pytest.raises(SurroundingsError):
            slide.read(0, 10, 20, 200, 150)
        assert slide.read(0, 10, 20, 200, 150).shape == (150, 200, 3), "and can be read when it is back"


@pytest.mark.parametrize(
    "name", ["a.tif", "b.tif", "c.ome.tif", "d.png", "deep.png", "deep.tif", "grey.tif", "turned.tif", "colours.tif"]
)
def test_whichever_access_to_a_slide_fails_it_is_what_it_is(name: str, tmp_path: Path, storage: Storage) -> None:
    """What is refused, corrected or chosen by a look into the file must not depend on whether one look succeeds."""
    slides(tmp_path)
    Image.fromarray(np.full((200, 300), 40_000, np.uint16)).save(tmp_path / "deep.png")
    write_tiff(tmp_path / "turned.tif", extratags=[(274, 3, 1, 6, True)])
    for other, dtype in (("deep.tif", np.uint16), ("grey.tif", np.uint8)):
        plane = np.full((200, 300), 200, dtype)
        tifffile.imwrite(tmp_path / other, plane, tile=(64, 64), photometric="minisblack", metadata=None)
    mistaken = write_tiff(tmp_path / "colours.tif", compression="jpeg")
    with tifffile.TiffFile(mistaken, mode="r+") as tiff:
        tiff.pages[0].tags["PhotometricInterpretation"].overwrite(2)

    def outcome() -> tuple[object, ...]:
        try:
            with open_slide(tmp_path / name, mpp_override=0.5) as slide:
                return slide.reader, slide.grey, slide.read(0, 10, 20, 200, 150).tobytes()
        except SlideError as error:
            return (str(error),)

    with storage.failing_once(tmp_path, "EIO", at=-1) as seen:
        expected = outcome()
    assert len(seen) >= 2
    for at in range(len(seen)):
        before = len(storage.pauses)
        with storage.failing_once(tmp_path, "EIO", at=at):
            assert outcome() == expected, seen[at]
        assert len(storage.pauses) == before + 1


def test_whichever_access_to_a_dicom_slide_fails_its_identity_and_place_stay(tmp_path: Path, storage: Storage) -> None:
    one = dicom(tmp_path, "1.dcm", "1.2")
    dicom(tmp_path, "2.dcm", "1.2")
    dicom(tmp_path, "3.dcm", "9.9")

    def outcome() -> tuple[object, ...]:
        return slide_identity(one), find_slides([one])

    with storage.failing_once(tmp_path, "ESTALE", at=-1) as seen:
        expected = outcome()
    assert expected[1] == [FoundSlide("1", one)]
    for at in range(len(seen)):
        with storage.failing_once(tmp_path, "ESTALE", at=at):
            assert outcome() == expected, seen[at]
    assert len(storage.pauses) == len(seen)


def test_a_stale_handle_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: Storage) -> None:
    """On NFS a handle may be dead for good while the file is there."""
    path = write_tiff(tmp_path / "a.tif", compression="jpeg")
    opened: list[int] = []
    pread, open_ = os.pread, os.open

    def stale_pread(handle: int, count: int, offset: int) -> bytes:
        if not opened:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return pread(handle, count, offset)

    def counted_open(name: str, flags: int) -> int:
        opened.append(open_(name, flags))
        return opened[-1]

    with open_slide(path) as slide:
        monkeypatch.setattr(os, "pread", stale_pread)
        monkeypatch.setattr(os, "open", counted_open)
        assert slide.read(0, 0, 0, 300, 200).shape == (200, 300, 3)
    assert len(opened) == 1


def test_a_slide_that_is_replaced_while_it_is_read_is_not_read_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: Storage
) -> None:
    path = write_tiff(tmp_path / "a.tif", compression="jpeg")

    def failing_pread(handle: int, count: int, offset: int) -> bytes:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with open_slide(path) as slide:
        path.unlink()
        write_tiff(path, compression="jpeg", software="another scan")
        monkeypatch.setattr(os, "pread", failing_pread)
        with pytest.raises(SurroundingsError, match="replaced or changed while it was being read"):
            slide.read(0, 0, 0, 50, 50)


def test_a_slide_that_is_cut_while_it_is_read_is_the_surroundings_fault(tmp_path: Path, storage: Storage) -> None:
    """Somebody copies over it."""
    path = write_tiff(tmp_path / "a.tif", compression="jpeg")
    with open_slide(path) as slide:
        os.truncate(path, 1000)
        with pytest.raises(SurroundingsError, match="replaced or changed"):
            slide.read(0, 0, 0, 300, 200)


@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_a_tile_that_cannot_be_decoded_is_a_bad_tile_at_once(
    compression: str, tmp_path: Path, storage: Storage
) -> None:
    path = write_tiff(tmp_path / "a.tif", compression=compression)
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(bytes(count))
    with open_slide(path) as slide, pytest.raises(SlideError, match="cannot decode"):
        slide.read(0, 0, 0, 50, 50)
    assert storage.pauses == []


def test_too_many_open_files_are_waited_for(tmp_path: Path, storage: Storage) -> None:
    path = write_tiff(tmp_path / "a.tif")
    with open_slide(path) as slide:
        expected = slide.read(0, 0, 0, 300, 200)
        with storage.no_more_files(pauses=2):
            np.testing.assert_array_equal(slide.read(0, 0, 0, 300, 200), expected)
    with (
        open_slide(path) as slide,  # what was read before is in memory
        storage.no_more_files(),
        pytest.raises(SurroundingsError, match=os.strerror(errno.EMFILE)) as caught,
    ):
        slide.read(0, 0, 0, 300, 200)
    assert "ulimit -n" in caught.value.hint


def test_the_identity_of_a_slide_is_read_through_a_failure(tmp_path: Path, storage: Storage) -> None:
    path = write_tiff(tmp_path / "a.tif")
    expected = slide_identity(path)
    with storage.failing(path, "EIO", pauses=3):
        assert slide_identity(path) == expected
    with storage.failing(path, "ETIMEDOUT"), pytest.raises(SurroundingsError):
        slide_identity(path)


# ----- stores


def facts() -> FeatureFacts:
    texts = dict.fromkeys(
        ("slide_id", "slide_digest", "tiles_digest", "backbone", "architecture", "pooling", "weights_digest"), "x"
    )
    return FeatureFacts(**texts, mpp=0.5, tile_px=64, tile_size_level0=64, width=8, precision="fp32", transform={})


Read = Callable[[Path], object]


@pytest.mark.parametrize("read", [read_facts, open_features, read_bag], ids=lambda read: read.__name__)
@pytest.mark.parametrize("fault", ["vanishes", "EIO", "ESTALE", "EMFILE"])
def test_features_are_read_through_a_failure(read: Read, fault: str, tmp_path: Path, storage: Storage) -> None:
    path = tmp_path / "a.zarr"
    write_features(path, np.ones((50, 8), np.float32), np.zeros((50, 2), np.int64), facts())
    with storage.failing(path, fault, pauses=3):
        assert read(path)
    kind = StoreError if fault == "vanishes" else SurroundingsError
    with storage.failing(path, fault), pytest.raises(kind) as caught:
        read(path)
    assert caught.value.path == str(path)
    assert explain(caught.value, tmp_path).retry, "the next run tries again"


@pytest.mark.parametrize("fault", ["vanishes", "EIO"])
def test_features_that_are_open_are_read_through_a_failure(fault: str, tmp_path: Path, storage: Storage) -> None:
    path = tmp_path / "a.zarr"
    write_features(path, np.ones((50, 8), np.float32), np.zeros((50, 2), np.int64), facts())
    store = open_features(path)
    with storage.failing(path, fault, pauses=3):
        assert (store.features[:] == 1).all()
    with storage.failing(path, fault), pytest.raises(SurroundingsError):
        store.features[:]
    (path / "features" / "c" / "0" / "0").unlink()
    with pytest.raises(StoreError, match="lost"):  # the store is there, and a part of it is not
        store.features[:]


def test_tiles_are_read_through_a_failure(tmp_path: Path, storage: Storage) -> None:
    path = tmp_path / "a.h5"
    grid = plan_grid(
        level_dimensions=((640, 640),),
        level_downsamples=(1.0,),
        slide_mpp=Mpp(0.5),
        mpp=Mpp(0.5),
        tile_px=TilePx(64),
        overlap=TilePx(0),
        native_tolerance=0.02,
        allow_upsample=False,
    )
    write_tiles(path, tile_set(grid, np.zeros((3, 2), np.int64), 0.5, (640, 640)))
    with storage.failing(path, "vanishes", pauses=3):
        assert len(read_tiles(path)) == 3
    with storage.no_more_files(pauses=2):
        assert len(read_tiles(path)) == 3
    with storage.failing(path, "vanishes"), pytest.raises(StoreError, match="no such tile set") as caught:
        read_tiles(path)
    assert explain(caught.value, tmp_path).retry
    path.write_bytes(b"\0" * 5000)
    with pytest.raises(InputError, match="damaged") as caught:
        read_tiles(path)


def test_foreign_features_are_read_through_a_failure(tmp_path: Path, storage: Storage) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = np.ones((3, 8), np.float32), np.zeros((3, 2), np.int64)
    with storage.failing(path, "vanishes", pauses=3):
        assert len(read_foreign_features(path).features) == 3
    with storage.no_more_files(), pytest.raises(SurroundingsError):
        read_foreign_features(path)


def test_a_manifest_is_read_through_a_failure(tmp_path: Path, storage: Storage) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(b"")
    with storage.failing(path, "EIO", pauses=3):
        assert Manifest(path).records() == []
