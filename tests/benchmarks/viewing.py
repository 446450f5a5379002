"""How long the viewer takes for a zoom tile, beside the DeepZoomGenerator of openslide-python on the same tiles.

    python tests/benchmarks/viewing.py SLIDE… [--tiles 60]

Of each zoom so many tiles are drawn, and asked for in one random order of both: every tile by the viewer, then by
DeepZoomGenerator (256 px, no overlap), each from the open slide to the bytes of a JPEG of quality 85, whose
caches of decoded tiles they have both used before. All figures are of one run: compare the ratio of the medians. The
files are in memory, and times are those of the processor, except for the browser's.

layer     one layer of 100,000 tiles under the pixels of a zoom tile, as bytes for the browser
browser   a zoom tile asked for by HTTP, one connection, from the address to the last byte
"""

from __future__ import annotations

import argparse
import http.client
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import openslide
import wsipipe
from openslide.deepzoom import DeepZoomGenerator
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.slides.slide import Slide
from wsipipe.pipeline.view.layers import Layer, picture
from wsipipe.pipeline.view.tile_raster import TilePlaces
from wsipipe.pipeline.view.zoom_tiles import TILE, ZoomTiles, most_zoom

sys.path.insert(0, str(Path(__file__).parents[1]))
from viewed_workspace import served

Address = tuple[int, int, int]


def tiles_of(slide: Slide, most: int) -> Iterator[Address]:
    """Zoom, column and row of some tiles of each zoom."""
    draw = np.random.default_rng(0)
    for zoom in range(most_zoom(slide.dimensions) + 1):
        scale = TILE << (most_zoom(slide.dimensions) - zoom)
        columns, rows = (-(-side // scale) for side in slide.dimensions)
        for at in draw.permutation(columns * rows)[:most]:
            yield zoom, int(at % columns), int(at // columns)


def milliseconds(call: Callable[[], object], clock: Callable[[], float] = time.thread_time) -> float:
    """How long a call takes; by default of a processor, so that other work on the machine does not count."""
    start = clock()
    call()
    return 1000 * (clock() - start)


def compare(path: Path, most: int) -> None:
    """Print one slide's row."""
    with open_slide(path) as slide, openslide.OpenSlide(_file(path)) as theirs:
        zoomed, deep = ZoomTiles(), DeepZoomGenerator(theirs, TILE, 0, limit_bounds=False)
        shift = deep.level_count - 1 - most_zoom(slide.dimensions)  # its level 0 is one pixel

        def by_theirs(zoom: int, column: int, row: int) -> None:
            deep.get_tile(zoom + shift, (column, row)).save(io.BytesIO(), "JPEG", quality=85)

        addresses = list(tiles_of(slide, most))
        np.random.default_rng(1).shuffle(addresses)
        own, other = [], []
        for zoom, column, row in addresses:
            own.append(milliseconds(lambda z=zoom, x=column, y=row: zoomed.jpeg(slide, 0, z, x, y)))  # type: ignore[misc]
            other.append(milliseconds(lambda z=zoom, x=column, y=row: by_theirs(z, x, y)))  # type: ignore[misc]
    ours, openslides = np.median(own), np.median(other)
    times = openslides / ours
    print(
        f"{path.name:32} {len(own):4} tiles  viewer {ours:6.2f} ms (95 %: {np.quantile(own, 0.95):6.1f})  "
        f"DeepZoomGenerator {openslides:6.2f} ms (95 %: {np.quantile(other, 0.95):6.1f})  {times:5.1f} times"
    )


def _file(path: Path) -> Path:
    return sorted(path.glob("*.dcm"))[0] if path.is_dir() else path


def layers() -> None:
    """Print how long a layer of 100,000 tiles takes."""
    side = 317
    coords = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)[:100_000] * 224
    layer = Layer("model", "attention", np.random.default_rng(0).random(len(coords)))
    start = time.perf_counter()
    places = TilePlaces(coords, 224.0, 224.0)
    layer.codes("rank")
    print(f"layer of 100,000 tiles: ready in {1000 * (time.perf_counter() - start):.0f} ms")
    for scale in (1, 4, 16, 64, 128, 256, 512):
        spent = [milliseconds(lambda s=scale: picture(layer, "rank", places.raster(s, 0, 0))) for _ in range(20)]  # type: ignore[misc]
        inside = min((TILE * scale / 224) ** 2, len(coords))
        print(f"  a zoom tile at 1:{scale:<4} {np.median(spent):6.2f} ms, {inside:9,.1f} tiles in it")


def by_http(path: Path, most: int) -> None:
    """Print how long a zoom tile takes by HTTP."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder) / "work"
        wsipipe.run(wsipipe.load_config(flags={"workspace": workspace, "cohort": {"slides": [path]}}), "tile")
        with open_slide(path) as slide:
            addresses = list(tiles_of(slide, most))
        with served(workspace) as server:
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
            cookie = {"Cookie": f"{server.cookie}={server.access.token}"}
            row = {"tiles": next((workspace / "tiles").iterdir()).name, "slide": path.stem}

            def ask(zoom: int, column: int, line: int) -> None:
                connection.request(
                    "GET", f"/zoom?{urlencode({**row, 'z': zoom, 'x': column, 'y': line})}", headers=cookie
                )
                answer = connection.getresponse()
                assert answer.status == 200, answer.read()
                answer.read()

            spent = [milliseconds(lambda a=address: ask(*a), time.perf_counter) for address in addresses]  # type: ignore[misc]
            print(f"browser: {path.name}: {np.median(spent):.2f} ms (95 %: {np.quantile(spent, 0.95):.1f})")


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--tiles", type=int, default=60, help="most tiles of each zoom")
    parser.add_argument("--http", type=Path, help="a slide to view by HTTP, too")
    arguments = parser.parse_args()
    for path in arguments.slides:
        compare(path, arguments.tiles)
    layers()
    if arguments.http:
        by_http(arguments.http, arguments.tiles)


if __name__ == "__main__":
    main()
