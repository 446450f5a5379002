"""The layers of single folds: what predict writes is their mean, and no fold reads a slide that it was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from trained_workspace import trained_workspace
from viewed_workspace import BACKBONE, TILES, Client, Viewed, served
from wsipipe.data.errors import BundleError, StoreError
from wsipipe.data.features.store import read_bag
from wsipipe.models.bundle import Bundle, folds_of, read_bundle
from wsipipe.models.mil.bag_tensors import BagBatch, bag_tensors
from wsipipe.pipeline.view.fold_layers import FoldLayers
from wsipipe.pipeline.view.fold_source import FoldSource
from wsipipe.pipeline.view.slide_list import Workspace
from wsipipe.pipeline.view.tile_columns import columns_of_geojson, places_in
from wsipipe.stages.train.split import read_splits


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Viewed:
    """Slides ``a`` and ``b``, read by `predict` with three folds, of which two were trained on ``b``."""
    viewed = Viewed(tmp_path_factory.mktemp("folds"))
    viewed.tile("a", "b")
    viewed.read(viewed.model("her2", "b"), "a", "b")
    return viewed


@pytest.fixture(scope="module")
def folds(predicted: Viewed) -> Iterator[Client]:
    with served(predicted.workspace) as server:
        yield Client(server)


def network(viewed: Viewed, fold: int) -> Bundle:
    return read_bundle(viewed.workspace / f"models/her2/fold-{fold}")


def source(viewed: Viewed, slide: str = "a", **changes: object) -> FoldSource:
    store = f"features/{TILES}/{BACKBONE}/{slide}.zarr"
    given = {"name": "her2", "model": "models/her2", "store": store, "folds": (0, 1, 2)} | changes
    return FoldSource(**given)  # type: ignore[arg-type]


def test_the_mean_of_the_folds_is_what_predict_wrote(predicted: Viewed) -> None:
    coords = predicted.tiles("a").coords
    computed = FoldLayers(predicted.workspace)
    layers = [computed.of(source(predicted), fold, coords) for fold in range(3)]
    corners, columns = columns_of_geojson(predicted.workspace / "predictions/her2/geojson/a.geojson")
    at = places_in(coords, corners)
    assert set(columns) == {"attention", "score"}
    for name, column in columns.items():
        own = np.stack([of[f"her2, fold {fold}/{name}"].values for fold, of in enumerate(layers)])
        np.testing.assert_allclose(own.mean(axis=0)[at], column, rtol=1e-12)
        assert np.ptp(own, axis=0).max() > 1e-4, "the folds differ"


def test_a_slide_offers_the_folds_that_were_not_trained_on_its_patient_and_they_are_shown(
    folds: Client, predicted: Viewed
) -> None:
    assert folds.of("/slide.json").json["sources"] == [
        {
            "of": "her2",
            "model": "models/her2",
            "folds": ["her2, fold 0", "her2, fold 1", "her2, fold 2"],
            "why_none": "",
        }
    ]
    assert folds.of("/slide.json", "b").json["sources"][0]["folds"] == ["her2, fold 2"]
    for path in ("/fold.json", "/layer"):
        got = folds.of(path, "b", of="her2, fold 0", layer="her2, fold 0/attention", z=0, x=0, y=0)
        assert got.status == 404
    [attention, score, slot] = folds.of("/fold.json", "b", of="her2, fold 2").json
    assert [layer["id"] for layer in (attention, score, slot)] == [
        f"her2, fold 2/{name}" for name in ("attention", "score", "slot")
    ]
    store = predicted.workspace / f"features/{TILES}/{BACKBONE}/b.zarr"
    reading = network(predicted, 2).read(read_bag(store), store)
    coords = predicted.tiles("b").coords
    best = int(reading.attention.argmax())
    assert attention["top"][0] == [*coords[best].tolist(), pytest.approx(float(reading.attention[best]))]
    picture = folds.of("/layer", "b", layer=attention["id"], z=0, x=0, y=0)
    assert len(set(picture.content)) > len(coords) / 2
    x, y = coords[best] + 5
    said = dict(folds.of("/at", "b", x=x, y=y, of="her2, fold 2").json["values"])
    assert said["her2, fold 2 · slot"] in ("negative 1", "negative 2", "positive 1", "positive 2")
    assert {"her2 · attention", "her2, fold 2 · attention", "tissue"} <= said.keys()
    assert not [name for name in dict(folds.of("/at", "b", x=x, y=y).json["values"]) if "fold" in name]


def test_the_slots_are_named_and_each_has_the_tiles_nearest_to_it(folds: Client, predicted: Viewed) -> None:
    layer = folds.of("/fold.json", of="her2, fold 1").json[-1]
    bundle, store = network(predicted, 1), predicted.workspace / f"features/{TILES}/{BACKBONE}/a.zarr"
    bag = read_bag(store)
    with torch.inference_mode():
        near = bundle.network.nearness_to_slots(BagBatch.of([bag_tensors(bag, 8)], "cpu")).numpy()
    nearest, attention = near.argmax(axis=1), bundle.read(bag, store).attention
    assert (layer["kind"], layer["classes"]) == ("classes", sorted(set(nearest.tolist())))
    assert layer["names"] == ["negative 1", "negative 2", "positive 1", "positive 2"]
    shares = [slot["attention"] for slot in layer["slots"]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    for slot in layer["slots"]:
        own = np.flatnonzero(nearest == slot["slot"])
        assert (slot["tiles"], slot["weight"]) == (len(own), None)
        assert slot["attention"] == pytest.approx(float(attention[own].sum()))
        first = own[np.argsort(-near[own, slot["slot"]], kind="stable")][:4]
        assert [place[:2] for place in slot["nearest"]] == bag.coords[first].tolist()


def test_many_ask_for_a_fold_at_once_and_get_the_same(predicted: Viewed) -> None:
    computed, coords = FoldLayers(predicted.workspace), predicted.tiles("a").coords
    with ThreadPoolExecutor(6) as threads:
        layers = list(threads.map(lambda fold: computed.of(source(predicted), fold % 2, coords), range(12)))
    assert all(of is layers[number % 2] for number, of in enumerate(layers))


def test_what_a_fold_cannot_read_is_said(predicted: Viewed) -> None:
    computed, coords = FoldLayers(predicted.workspace), predicted.tiles("a").coords
    with pytest.raises(LookupError):
        computed.of(source(predicted, folds=(2,)), 1, coords)
    with pytest.raises(StoreError, match="not those of the slide's present tile set"):
        computed.of(source(predicted), 0, coords[1:])
    with pytest.raises(BundleError, match="there is no bundle here"):
        computed.of(source(predicted, model="models/gone"), 0, coords)
    for outside in ({"model": "../models/her2"}, {"store": str(predicted.folder)}):
        with pytest.raises(StoreError, match="leads out of the workspace"):
            computed.of(source(predicted, **outside), 0, coords)


def test_a_model_that_was_trained_again_reads_nothing_for_the_old_prediction(tmp_path: Path) -> None:
    viewed = Viewed(tmp_path)
    viewed.tile("a")
    viewed.read(viewed.model("her2"), "a")
    viewed.model("her2", "a")
    [known] = Workspace(viewed.workspace).slides().rows.values()
    assert "model" in known.scored[0].stale
    with served(viewed.workspace) as server:
        [source] = Client(server).of("/slide.json").json["sources"]
        assert (source["folds"], source["why_none"]) == ([], "the prediction is stale")


def test_those_who_trained_are_read_by_the_fold_that_was_not(tmp_path_factory: pytest.TempPathFactory) -> None:
    trained = trained_workspace(tmp_path_factory.getbasetemp())
    listed = Workspace(trained.workspace).slides()
    splits, bundles = read_splits(trained.model / "splits.csv"), dict(folds_of(trained.model))
    patient_of = {slide: patient.id for patient in trained.patients for slide in patient.slides}
    computed = FoldLayers(trained.workspace)
    for row in listed.rows.values():
        [source] = row.tested
        assert (source.name, source.folds) == ("er (out of fold)", (splits.test_fold(patient_of[row.id]),))
        saw = [facts.fold for facts in bundles.values() if facts.saw(patient_of[row.id], None)]
        assert set(saw).isdisjoint(source.folds)
    bag = read_bag(trained.store(row.id))
    [fold] = source.folds
    layers = computed.of(source, fold, bag.coords)
    expected = read_bundle(trained.model / f"fold-{fold}").read(bag, trained.store(row.id))
    assert (layers[f"er (out of fold), fold {fold}/attention"].values == expected.attention).all()
    row_said = listed.said["er (out of fold)"][row.id]
    label = next(patient.label for patient in trained.patients if row.id in patient.slides)
    assert (row_said.target, row_said.right) == (label, row_said.call == label)
