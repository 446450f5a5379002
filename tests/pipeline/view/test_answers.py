"""What the viewer says of a workspace: its slides, their layers to the tile, and what is wrong with them, in words."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from viewed_answers import changed, row_of
from viewed_workspace import HOSTILE, PIECE, PIECES, SIZE, TILE, TILES, Client, Viewed


def content_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.rglob("*"))}


def layer_picture(
    client: Client, layer: str, zoom: int = 3, column: int = 0, row: int = 0, slide: str = "a", **further: Any
) -> np.ndarray:
    got = client.of("/layer", slide, layer=layer, z=zoom, x=column, y=row, **further)
    assert got.status == 200, got.text
    return np.frombuffer(got.content, np.uint8).reshape(256, 256)


def whole_layer(client: Client, layer: str, **further: Any) -> np.ndarray:
    """A layer at the slide's own pixels."""
    lines = [np.hstack([layer_picture(client, layer, 3, x, y, **further) for x in range(8)]) for y in range(8)]
    return np.vstack(lines)


def test_the_list_has_every_slide_with_its_tiles_state_and_predictions(client: Client, viewed: Viewed) -> None:
    listed = client.get("/slides.json").json
    assert (listed["workspace"], listed["notes"], listed["models"]) == ("work", [], ["er", "her2", "her2 (evaluated)"])
    assert {row["id"]: row["state"] for row in listed["slides"]} == {
        "a": "predicted",
        "b": "tiled",
        HOSTILE: "predicted",
    }
    row = row_of(client, "a")
    assert (row["tiles"], row["count"]) == (TILES, len(viewed.tiles("a")))
    assert row["tissue"] == pytest.approx(2 * (PIECE * 0.5e-3) ** 2, rel=0.1)
    assert {model: (said["call"], said["value"], said["uncertain"]) for model, said in row["said"].items()} == {
        "her2": ("positive", "0.914", "blurred"),
        "er": ("negative", "0.2", ""),
        "her2 (evaluated)": ("positive", "0.91", ""),
    }
    again = client.get("/slides.json", version=listed["version"]).json
    assert again == {"version": listed["version"]}


def test_a_zoom_tile_shows_the_slide(client: Client) -> None:
    x, y = PIECES[0]
    tile = simplejpeg.decode_jpeg(client.of("/zoom", z=3, x=0, y=0).content)
    assert tile.shape == (256, 256, 3)
    assert abs(tile[: y - 10].astype(int) - 243).max() < 12
    assert tile[y + 10 :, x + 10 :].mean((0, 1)) == pytest.approx((190, 110, 170), abs=8)
    assert client.of("/zoom", z=3, x=8, y=0).status == 404
    for wrong in ({"z": 3, "x": "a", "y": 0}, {"z": 3, "x": 10**30, "y": 0}):
        assert client.of("/zoom", **wrong).status == 400
    assert client.of("/zoom", z=3).status == 404


def test_a_thumbnail_and_a_crop_are_pictures(client: Client) -> None:
    assert simplejpeg.decode_jpeg(client.of("/thumbnail").content).shape == (256, 256, 3)
    assert simplejpeg.decode_jpeg(client.of("/crop", x=224, y=224, side=224).content).shape == (224, 224, 3)
    assert simplejpeg.decode_jpeg(client.of("/crop", x=0, y=0, side=1000).content).shape == (256, 256, 3)
    assert client.of("/crop", x=0, y=0, side=10**6).status == 400


def test_a_slide_says_its_size_layers_and_scores(client: Client, viewed: Viewed) -> None:
    slide = client.of("/slide.json").json
    assert (slide["width"], slide["height"], slide["zoom"], slide["mpp"], slide["tile"]) == (SIZE, SIZE, 3, 0.5, TILE)
    layers = {layer["id"]: layer for layer in slide["layers"]}
    assert {name: layer["kind"] for name, layer in layers.items()} == {
        **{"/tissue": "scale", "/sharpness": "scale"},
        **{"er/attention": "scale", "her2/attention": "scale", "her2/score": "signed", "her2/slot": "classes"},
    }
    coords = viewed.tiles("a").coords.tolist()
    count = len(coords)
    assert layers["her2/attention"]["top"][0] == [*coords[-1], count - 1]
    assert layers["er/attention"]["top"][0] == [*coords[0], count - 1]
    assert layers["her2/score"]["bottom"][0] == [*coords[0], -3.5]
    assert layers["her2/slot"]["classes"] == [0, 1, 2]
    assert slide["folds"] == {"er": {"0": 1.5, "1": -0.25}, "her2": {"0": 1.5, "1": -0.25}}
    assert slide["notes"] == []


def test_the_scores_of_classes_are_for_and_against_though_all_are_for(viewed: Viewed, tmp_path: Path) -> None:
    with changed(viewed, tmp_path) as (client, workspace):
        geojson = workspace / "predictions/her2/geojson/a.geojson"
        geojson.write_text(geojson.read_text().replace('"score":-', '"score":'))
        for model, kind in (("her2", "signed"), ("er", "scale")):  # what er asks nobody knows: its model is gone
            (workspace / f"predictions/{model}/geojson/a.geojson").write_bytes(geojson.read_bytes())
            layers = {layer["id"]: layer["kind"] for layer in client.of("/slide.json").json["layers"]}
            assert (layers[f"{model}/score"], layers[f"{model}/attention"]) == (kind, "scale")


def test_a_planted_tile_lights_up_where_it_is_to_the_pixel(client: Client, viewed: Viewed) -> None:
    picture = whole_layer(client, "her2/attention", scale="linear")
    coords = viewed.tiles("a").coords
    expected = np.zeros((SIZE, SIZE), np.uint8)
    for number, (x, y) in enumerate(coords):
        expected[y : y + TILE, x : x + TILE] = 1 + np.rint(254 * number / (len(coords) - 1))
    assert (picture == expected).all()
    coarse = layer_picture(client, "her2/attention", zoom=0, scale="linear")
    assert (coarse[4::8, 4::8] == expected[36::64, 36::64]).mean() > 0.9


def test_what_speaks_against_is_below_the_middle_and_slots_keep_their_numbers(client: Client, viewed: Viewed) -> None:
    coords = viewed.tiles("a").coords
    for scale in ("rank", "linear"):
        picture = whole_layer(client, "her2/score", scale=scale)
        at = [int(picture[y + 9, x + 9]) for x, y in coords]
        assert [code < 128 for code in at] == [number < 3.5 for number in range(len(coords))]
        assert at == sorted(at)
    slots = whole_layer(client, "her2/slot")
    assert [int(slots[y + 9, x + 9]) for x, y in coords] == [number % 3 + 1 for number in range(len(coords))]


def test_kept_and_dropped_tiles_cover_the_grid(client: Client, viewed: Viewed) -> None:
    picture = whole_layer(client, "kept") & 127
    kept = np.zeros((SIZE, SIZE), bool)
    for x, y in viewed.tiles("a").coords:
        kept[y : y + TILE, x : x + TILE] = True
    grid = SIZE // TILE * TILE
    assert ((picture == 1) == kept).all()
    assert (picture[:grid, :grid][~kept[:grid, :grid]] == 2).all()
    assert (picture[grid:] == 0).all()


def test_what_artefacts_cover_is_a_layer_and_the_tiles_they_cost_are_marked(client: Client, viewed: Viewed) -> None:
    row = row_of(client, "b")
    assert (row["dropped"], row["artefacts"]) == (2, pytest.approx(1.9 / (len(viewed.tiles("b")) + 2), abs=1e-4))
    assert (row_of(client, "a")["dropped"], row_of(client, "a")["artefacts"]) == (None, None)
    slide = client.of("/slide.json", "b").json
    layers = {layer["id"]: layer for layer in slide["layers"]}
    assert [name for name in layers if "artefact" in name] == ["/artefacts", "/artefacts: fold", "/artefacts: pen"]
    assert (slide["artefacts"], client.of("/slide.json").json["artefacts"]) == (True, False)
    spoiled = viewed.tiles("b").dropped
    assert spoiled is not None
    [first, second], [third, *_] = spoiled.coords.tolist(), viewed.tiles("b").coords.tolist()
    assert [place[:2] for place in layers["/artefacts"]["top"][:3]] == [first, second, third]
    assert [place[2] for place in layers["/artefacts"]["top"][:3]] == pytest.approx([0.9, 0.75, 0.25])

    def at(path: str, place: list[int], **query: Any) -> Any:
        return client.of(path, "b", x=place[0] + 9, y=place[1] + 9, **query).json

    kinds, shares = (
        np.vstack([np.hstack([layer_picture(client, layer, 3, x, y, "b") for x in range(4)]) for y in range(4)])
        for layer in ("kept", "/artefacts")
    )
    for place, kind, share in ((first, 4, 1 + round(254 * 0.9)), (third, 1, 1 + round(254 * 0.25))):
        assert kinds[place[1] + 9, place[0] + 9] == kind
        assert shares[place[1] + 9, place[0] + 9] == share
    said = at("/at", first)
    assert (said["kind"], dict(said["values"])) == (
        "dropped for artefacts",
        {"artefacts": "0.9", "artefacts: fold": "0.9", "artefacts: pen": "0"},
    )
    assert at("/at", third)["kind"] == "kept"
    assert dict(at("/at", third)["values"])["artefacts: pen"] == "0.25"


def test_of_tiles_dropped_for_artefacts_that_nobody_kept_it_is_said(viewed: Viewed, tmp_path: Path) -> None:
    with changed(viewed, tmp_path) as (client, workspace):
        manifest = workspace / f"tiles/{TILES}/manifest.jsonl"
        manifest.write_text(manifest.read_text().replace('"dropped_artefact":2', '"dropped_artefact":5'))
        assert "3 tiles were dropped for artefacts" in client.of("/slide.json", "b").json["notes"][0]
        assert client.of("/at", "b", x=10, y=10).json["kind"] == "dropped: too little tissue or artefacts"


def test_a_place_says_the_values_of_its_tile(client: Client, viewed: Viewed) -> None:
    x, y = (int(at) for at in viewed.tiles("a").coords[5])
    got = client.of("/at", x=x + 100.5, y=y + 3).json
    assert (got["x"], got["y"], got["side"], got["kind"]) == (x, y, TILE, "kept")
    values = dict(got["values"])
    assert values["her2 · attention"] == "5"
    assert values["her2 · score"] == "1.5"
    assert values["her2 · slot"] == "2"
    assert {"tissue", "sharpness"} <= values.keys()
    assert client.of("/at", x=10, y=10).json["kind"] == "dropped: too little tissue"
    assert client.of("/at", x=-50, y=10).json is None
    assert client.of("/at", x="nan", y=10).json is None


def test_the_outline_runs_around_the_tissue(client: Client) -> None:
    pieces = client.of("/outlines.json").json
    assert len(pieces) == len(PIECES)
    for (outer, *_), (x, y) in zip(pieces, PIECES, strict=True):
        ring = np.array(outer)
        assert ring.min(axis=0) == pytest.approx((x, y), abs=24)
        assert ring.max(axis=0) == pytest.approx((x + PIECE, y + PIECE), abs=24)


def test_many_ask_at_once(client: Client) -> None:
    asked = [("/zoom", slide, z) for slide in ("a", "b", HOSTILE) for z in range(4)] * 4
    asked += [("/layer", "a", z) for z in range(4)] * 4

    def ask(one: tuple[str, str, int]) -> int:
        return client.of(one[0], one[1], z=one[2], x=0, y=0, layer="kept").status

    with ThreadPoolExecutor(12) as threads:
        assert set(threads.map(ask, asked)) == {200}


def test_nothing_is_written(client: Client, viewed: Viewed) -> None:
    before = content_of(viewed.folder)
    client.get("/slides.json")
    for path in ("/slide.json", "/outlines.json", "/thumbnail"):
        for slide in ("a", "b", HOSTILE):
            assert client.of(path, slide).status == 200
    assert content_of(viewed.folder) == before


def test_real_slides_are_shown_by_their_own_pixels(shared: Path, tmp_path: Path) -> None:
    from command import wsipipe
    from wsipipe.data.slides.readers import open_slide
    from wsipipe.data.units import Level0Px, LevelPx

    file = shared / "slides/CMU-1-Small-Region.svs"
    result = wsipipe("tile", file, "-w", tmp_path / "work", "--workers", "1")
    assert result.exit_code == 0, result.output
    with changed(Viewed(tmp_path), tmp_path / "copy") as (client, _), open_slide(file) as slide:
        tile = simplejpeg.decode_jpeg(client.of("/zoom", file.stem, z=4, x=3, y=5).content)
        own = slide.read(0, Level0Px(3 * 256), Level0Px(5 * 256), LevelPx(256), LevelPx(256))
        assert np.abs(tile.astype(int) - own).mean() < 6


def test_the_gallery_of_a_model_says_where_its_tiles_lie(client: Client, viewed: Viewed, tmp_path: Path) -> None:
    assert client.get("/slides.json").json["galleries"] == ["her2"]
    [fold] = client.get("/gallery.json", model="her2").json
    [slot] = fold["slots"]
    assert (fold["fold"], slot["name"], slot["use"], slot["weight"]) == (0, "positive 1", 0.5, None)
    assert [(tile["tiles"], tile["slide"], tile["side"]) for tile in slot["tiles"]] == [
        (TILES, "a", TILE),
        (TILES, HOSTILE, TILE),
    ]
    assert slot["tiles"][0]["place"] == viewed.tiles("a").coords[-1].tolist()
    assert client.get("/gallery.json", model="er").status == 404
    with changed(viewed, tmp_path) as (other, workspace):
        (workspace / "models/her2/slots.csv").write_text("fold,slot\n0,positive 1\n")
        got = other.get("/gallery.json", model="her2")
        assert got.status in (404, 409)
        assert other.get("/slides.json").json["galleries"] == [], "what was edited does not count"
