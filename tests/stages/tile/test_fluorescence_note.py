"""A slide that is taken for fluorescence is named on the console: an empty one would pass for glass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from command import wsipipe
from PIL import Image
from wsipipe.data.manifest import Manifest
from wsipipe.stages.tile.why_empty import what_to_do, why_empty


def test_fluorescence_is_named_with_the_way_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    glowing = rng.integers(0, 6, (1200, 1200, 3), dtype=np.uint8)
    glowing[300:800, 300:800, 2] = rng.integers(60, 200, (500, 500), dtype=np.uint8)
    Image.fromarray(glowing).save(tmp_path / "dapi.png")
    Image.fromarray(np.full((1200, 1200, 3), 243, np.uint8)).save(tmp_path / "glass.png")
    tiled = wsipipe("tile", tmp_path, "-w", tmp_path / "work", "--mpp", "1", "--mpp-override", "0.5", "--workers", "1")
    assert tiled.exit_code == 0
    said = " ".join(tiled.output.split())
    assert "dapi: bright colours on black, as in fluorescence" in said
    assert "use --annotations or --tissue all if it is not" in said
    assert "glass: bright" not in said
    records = Manifest.of(next((tmp_path / "work/tiles").iterdir())).latest("tile")
    why = {slide: (why_empty(record), what_to_do(record)) for slide, record in records.items()}
    assert why["glass"] == ("no tissue was found on it", "look at its QC image")
    assert "as in fluorescence" in why["dapi"][0]
    assert why["dapi"][1] == "give the scan of its H&E; if this is one, look at its QC image"
