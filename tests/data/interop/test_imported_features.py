"""Features of other programs: what is refused, and what a store of them says that nobody knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from foreign_files import COORDS, FEATURES, TRIDENT, clam_features, feature_file, trident_features
from wsipipe.data.errors import SlideError, StoreError, UsageError
from wsipipe.data.features.store import read_bag, write_features
from wsipipe.data.interop.imported_features import (
    UNKNOWN,
    find_foreign_features,
    imported_facts,
    read_foreign_features,
)
from wsipipe.data.units import Mpp, TilePx

# ----- reading -----


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no file": (lambda p: p / "none.h5", "no such file"),
    "no HDF5": (lambda p: ((p / "a.h5").write_text("x"), p / "a.h5")[1], "not HDF5"),
    "numbers alone": (lambda p: p / "S1.pt", "without coordinates"),
    "a vector a slide": (lambda p: trident_features(p, features=FEATURES[0]), "one vector for the whole slide"),
    "words": (lambda p: trident_features(p, features=np.array([[b"a"]])), "not \\(N, D\\) and numbers"),
    "another count": (lambda p: clam_features(p, features=FEATURES[:2]), "2 feature vectors and 3 coordinates"),
    "half pixels": (lambda p: clam_features(p, coords=COORDS + 0.5), "not whole pixels"),
    "negative": (lambda p: clam_features(p, coords=COORDS - 1), "not whole pixels"),
    "no places": (lambda p: clam_features(p, coords=COORDS + np.nan), "not whole pixels"),
    "three axes": (lambda p: clam_features(p, coords=np.zeros((3, 3), int)), "not \\(N, 2\\) and numbers"),
    "sizes that contradict": (
        lambda p: feature_file(p / "a.h5", {}, TRIDENT | {"patch_size_level0": 256}),
        "contradicts itself",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_read_is_said_with_the_way_out(tmp_path: Path, kind: str) -> None:
    make, message = BAD[kind]
    path = make(tmp_path)
    with pytest.raises(StoreError, match=message) as caught:
        read_foreign_features(path)
    assert caught.value.path == str(path)
    assert caught.value.hint


def test_a_file_without_coordinates_is_named_with_what_it_holds(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = FEATURES
    with pytest.raises(StoreError, match="no dataset `coords` in it \\(it holds features\\)"):
        read_foreign_features(tmp_path / "a.h5")


def test_a_tensor_alone_says_where_the_coordinates_are(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        read_foreign_features(tmp_path / "pt_files" / "S1.pt")
    assert "h5_files/S1.h5" in caught.value.hint


@pytest.mark.parametrize("name", ["S 1.2.h5", "h5_files/S 1.2.h5"])
def test_the_features_of_a_slide_are_found(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert find_foreign_features(tmp_path, "S 1.2") == tmp_path / name


def test_features_under_a_name_from_a_mac_are_found(tmp_path: Path) -> None:
    (tmp_path / "Pra\u0308parat.h5").touch()
    assert find_foreign_features(tmp_path, "Pr\u00e4parat").name == "Pra\u0308parat.h5"


def test_missing_features_say_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"no features of S1; looked for S1.h5, h5_files/S1.h5") as caught:
        find_foreign_features(tmp_path, "S1")
    assert caught.value.path == str(tmp_path)


# ----- what an imported store says of itself -----


def test_imported_features_are_a_store_that_says_what_is_not_known(tmp_path: Path) -> None:
    read = read_foreign_features(trident_features(tmp_path))
    facts = imported_facts(read, slide_id="S1", backbone="uni", slide_mpp=Mpp(0.2527))
    write_features(tmp_path / "S1.zarr", read.features, read.coords, facts, dtype="float32")
    bag = read_bag(tmp_path / "S1.zarr")
    np.testing.assert_array_equal(bag.features, FEATURES)
    np.testing.assert_array_equal(bag.coords, COORDS)
    assert bag.facts == facts
    assert (facts.backbone, facts.width, facts.tile_px, facts.tile_size_level0) == ("uni", 4, 256, 512)
    assert facts.mpp == pytest.approx(2 * 0.2527)
    assert facts.weights_digest == "unknown: imported from trident, encoder uni_v1"
    for fact in (facts.slide_digest, facts.tiles_digest, facts.pooling, facts.architecture, facts.precision):
        assert fact.startswith(UNKNOWN)


def test_imported_slides_are_alike_in_their_weights_and_never_in_their_slide(tmp_path: Path) -> None:
    read = read_foreign_features(trident_features(tmp_path))
    one, two = (imported_facts(read, slide_id=name, backbone="uni", mpp=Mpp(0.5)) for name in ("S1", "S2"))
    assert one.weights_digest == two.weights_digest
    assert one.slide_digest != two.slide_digest
    other = imported_facts(read_foreign_features(feature_file(tmp_path / "b.h5", {"encoder": "uni_v2"}, TRIDENT)),
                           slide_id="S1", backbone="uni", mpp=Mpp(0.5))  # fmt: skip
    assert other.weights_digest != one.weights_digest


def test_what_is_vouched_for_is_taken(tmp_path: Path) -> None:
    known = {"slide_digest": "sha256:a", "weights_digest": "sha256:b", "architecture": "vit", "pooling": "cls"}
    facts = imported_facts(
        read_foreign_features(trident_features(tmp_path)), slide_id="S1", backbone="uni", mpp=Mpp(0.5), **known
    )
    assert {name: getattr(facts, name) for name in known} == known


def test_the_resolution_must_be_known(tmp_path: Path) -> None:
    told, untold = read_foreign_features(trident_features(tmp_path)), read_foreign_features(clam_features(tmp_path))
    with pytest.raises(UsageError, match="only a nominal magnification") as caught:
        imported_facts(told, slide_id="S1", backbone="uni")
    assert "--mpp" in caught.value.hint
    with pytest.raises(UsageError, match="does not say how large the tiles are") as caught:
        imported_facts(untold, slide_id="S1", backbone="uni", mpp=Mpp(0.5), tile_px=TilePx(256))
    assert "patches/" in caught.value.hint
    facts = imported_facts(
        untold, slide_id="S1", backbone="uni", mpp=Mpp(0.5), tile_px=TilePx(256), slide_mpp=Mpp(0.25)
    )
    assert (facts.mpp, facts.tile_px, facts.tile_size_level0) == (0.5, 256, 512)


def test_what_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    read = read_foreign_features(trident_features(tmp_path))
    with pytest.raises(UsageError, match="have 256 px, not 224"):
        imported_facts(read, slide_id="S1", backbone="uni", mpp=Mpp(0.5), tile_px=TilePx(224))
    with pytest.raises(UsageError, match=r"have 0\.5 µm per pixel on a slide of 0\.25, not 1"):
        imported_facts(read, slide_id="S1", backbone="uni", mpp=Mpp(1), slide_mpp=Mpp(0.25))
    near = imported_facts(read, slide_id="S1", backbone="uni", mpp=Mpp(0.5), slide_mpp=Mpp(0.252))
    assert near.mpp == 0.504
