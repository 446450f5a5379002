"""The viewer where files are damaged, change, vanish or lead elsewhere: a message, and all else is shown."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from viewed_answers import changed, row_of
from viewed_workspace import HOSTILE, TILES, Viewed


def test_a_slide_that_vanishes_or_is_replaced_says_so_and_comes_back(tmp_path: Path) -> None:
    viewed = Viewed(tmp_path)
    viewed.tile("a")
    file = viewed.slide("a")
    with changed(viewed, tmp_path / "copy") as (client, _):
        assert client.of("/zoom", z=3, x=1, y=1).status == 200
        aside = file.rename(tmp_path / "aside.tif")
        for path in ("/slide.json", "/zoom", "/layer", "/at", "/crop"):
            got = client.of(path, z=3, x=1, y=1, layer="kept", side=224)
            assert got.status == 409
            assert "cannot be found" in got.json["problem"]
            assert "moved after it was tiled" in got.json["hint"]
        assert max(simplejpeg.decode_jpeg(client.of("/thumbnail").content).shape) == 256  # what tiling drew
        assert row_of(client, "a")["state"] == "tiled"
        file.write_bytes(aside.read_bytes()[:20_000])
        broken = client.of("/zoom", z=3, x=1, y=1)
        assert broken.status == 409
        assert "a.tif" in broken.json["problem"]
        file.write_bytes(b"II*\0 nothing of the kind")
        assert client.of("/slide.json").status == 409
        aside.rename(file)
        assert client.of("/zoom", z=3, x=1, y=1).status == 200


def test_a_slide_of_another_size_does_not_get_the_former_ones_tiles(tmp_path: Path) -> None:
    viewed = Viewed(tmp_path)
    viewed.tile("a")
    with changed(viewed, tmp_path / "copy") as (client, _):
        assert client.of("/slide.json").status == 200
        import tifffile

        tifffile.imwrite(
            viewed.slide("a"), np.zeros((512, 512, 3), np.uint8), tile=(256, 256), compression="jpeg", photometric="rgb"
        )
        got = client.of("/slide.json")
        assert got.status == 409
        assert "512 × 512 px, and 2048 × 2048 when it was tiled" in got.json["problem"]


def test_links_that_lead_out_of_the_workspace_are_not_followed(viewed: Viewed, tmp_path: Path) -> None:
    with changed(viewed, tmp_path) as (client, workspace):
        outside = tmp_path / "outside"
        outside.mkdir()

        def leads_out(inside: Path) -> None:
            inside.rename(outside / inside.name)
            inside.symlink_to(outside / inside.name)

        leads_out(workspace / "predictions/her2/geojson/a.geojson")
        notes = client.of("/slide.json").json["notes"]
        assert len(notes) == 1
        assert "leads out of the workspace" in notes[0]
        leads_out(workspace / f"tiles/{TILES}/contours")
        assert client.of("/outlines.json", "b").json == []
        assert "leads out" in client.of("/slide.json", "b").json["notes"][0]
        leads_out(workspace / f"tiles/{TILES}/a.h5")
        assert "leads out" in client.of("/slide.json").json["problem"]
        leads_out(workspace / "predictions/er/predictions.csv")
        listed = client.get("/slides.json").json
        assert listed["models"] == ["her2", "her2 (evaluated)"]
        assert "leads out" in listed["notes"][0]
        leads_out(workspace / "models/her2/fold-0")
        assert "leads out" in client.of("/fold.json", HOSTILE, of="her2, fold 0").json["problem"]
        leads_out(workspace / "predictions")
        leads_out(workspace / "evaluations/her2/patients.csv")
        listed = client.get("/slides.json").json
        assert (listed["models"], len(listed["slides"])) == ([], 3)
        leads_out(workspace / "tiles")
        assert client.get("/slides.json").json["slides"] == []


def test_a_link_that_leads_in_a_circle_is_said(viewed: Viewed, tmp_path: Path) -> None:
    with changed(viewed, tmp_path) as (client, workspace):
        tiles = workspace / f"tiles/{TILES}/a.h5"
        tiles.unlink()
        tiles.symlink_to(tiles)
        assert client.of("/slide.json").status == 409


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("predictions/her2/geojson/a.geojson", b"{", "a.geojson"),
        ("predictions/her2/geojson/a.geojson", b'{"features": [{"geometry": {}}]}', "a.geojson"),
        ("predictions/her2/geojson/a.geojson", b"[" * 100_000, "a.geojson"),
        (f"tiles/{TILES}/contours/a.geojson", b"nothing", "a.geojson"),
        (f"features/{TILES}/efficientnet-lite0/a.zarr/zarr.json", b"{}", "a.zarr"),
        ("predictions/her2/slides/a.json", b"{}", "a.json"),
    ],
)
def test_a_damaged_file_costs_its_layer_and_is_named(
    viewed: Viewed, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    with changed(viewed, tmp_path) as (client, workspace):
        (workspace / name).write_bytes(content)
        got = client.of("/slide.json")
        assert got.status == 200, got.text
        assert any(said in note for note in got.json["notes"])
        assert client.of("/layer", layer="kept", z=0, x=0, y=0).status == 200


def test_tiles_that_are_not_the_predictions_own_are_not_coloured(viewed: Viewed, tmp_path: Path) -> None:
    with changed(viewed, tmp_path) as (client, workspace):
        geojson = workspace / "predictions/her2/geojson/a.geojson"
        geojson.write_text(geojson.read_text().replace("[224,", "[225,").replace("[448,", "[449,"))
        slide = client.of("/slide.json").json
        assert "are not those of the slide's present tile set" in " ".join(slide["notes"])
        assert not [layer for layer in slide["layers"] if layer["of"] == "her2"]


def test_a_damaged_tile_set_or_manifest_is_named_and_the_rest_is_shown(viewed: Viewed, tmp_path: Path) -> None:
    with changed(viewed, tmp_path) as (client, workspace):
        (workspace / f"tiles/{TILES}/a.h5").write_bytes(b"no tiles")
        got = client.of("/slide.json")
        assert got.status == 409
        assert "a.h5" in got.json["problem"]
        manifest = workspace / "predictions/her2/manifest.jsonl"
        manifest.write_bytes(b"nonsense\n" + manifest.read_bytes())
        listed = client.get("/slides.json").json
        assert any("predictions/her2/manifest.jsonl" in note for note in listed["notes"])
        assert len(listed["slides"]) == 3
        (workspace / "predictions/er/predictions.csv").write_text("nothing\n")
        assert any("predictions.csv" in note for note in client.get("/slides.json").json["notes"])


def test_a_run_that_goes_on_is_seen_though_its_last_line_is_not_whole(viewed: Viewed, tmp_path: Path) -> None:
    with changed(viewed, tmp_path) as (client, workspace):
        manifest = workspace / f"tiles/{TILES}/manifest.jsonl"
        lines = manifest.read_bytes().splitlines(keepends=True)
        manifest.write_bytes(lines[0] + lines[1][:300])
        listed = client.get("/slides.json").json
        assert (len(listed["slides"]), listed["notes"]) == (1, [])
        manifest.write_bytes(b"".join(lines))
        after = client.get("/slides.json", version=listed["version"]).json
        assert len(after["slides"]) == 3


def test_while_a_run_holds_the_lock_the_viewer_reads(viewed: Viewed, tmp_path: Path) -> None:
    from wsipipe.data.manifest import Manifest

    with changed(viewed, tmp_path) as (client, workspace), Manifest.of(workspace / "tiles" / TILES).lock():
        assert len(client.get("/slides.json").json["slides"]) == 3
        assert client.of("/slide.json").status == 200


def test_a_workspace_with_nothing_in_it_is_shown_as_such(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with changed(Viewed(tmp_path), tmp_path / "copy") as (client, _):
        assert client.get("/slides.json").json["slides"] == []


@pytest.mark.parametrize("given", ["/etc/passwd", "/dev/zero", "/dev/stdin", "", ".", "/"])
def test_a_workspace_whose_slide_is_no_slide_gives_a_message(
    viewed: Viewed, tmp_path: Path, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a clone with its environment is a folder of very many files
    with changed(viewed, tmp_path) as (client, workspace):
        manifest = workspace / f"tiles/{TILES}/manifest.jsonl"
        manifest.write_text(manifest.read_text().replace(f'"{viewed.slide("a")}"', f'"{given}"'))
        for path in ("/zoom", "/slide.json"):
            got = client.of(path, z=0, x=0, y=0)
            assert got.status == 409
            assert "root:" not in got.text


def test_a_slide_that_is_a_pipe_is_not_waited_for(viewed: Viewed, tmp_path: Path) -> None:
    with changed(viewed, tmp_path) as (client, workspace):
        os.mkfifo(tmp_path / "pipe.tif")
        manifest = workspace / f"tiles/{TILES}/manifest.jsonl"
        manifest.write_text(manifest.read_text().replace(str(viewed.slide("a")), str(tmp_path / "pipe.tif")))
        assert "pipe" in client.of("/zoom", z=0, x=0, y=0).json["problem"]
