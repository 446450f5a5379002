"""How fast tiles become features: the feed alone, the backbone alone, and both, on one slide.

    python tests/benchmarks/extraction.py SLIDE --mpp 0.5 --tile-px 224 --threads 2
    python tests/benchmarks/extraction.py SLIDE --shapes conch hibou-b ctranspath --most-tiles 200

All figures are of one run on one machine: compare the ratios, not the rates, with those of another.

feed       tiles decoded, resized where need be, and in batches ready for a backbone, per second; a network that
           returns zeros stands in its place, and nothing is written
backbone   the network alone, on random pixels in batches of the same shape: on a CPU a batch a thread, on a GPU one
           after the other from memory on the device, with resize and normalisation
extraction the whole: slide to finished zarr store
share      extraction of backbone: what the feed leaves of the network's own rate
processor  the same by seconds of the processor, on which other work on the machine has less effect

On a CPU, efficientnet-lite0 with its own weights, or with ``--shapes`` narrow stand-ins of other backbones, on tiles of
their own size: the same layers and tokens, fewer numbers in each, so that more of the time is the feed's than with the
backbone itself. On CUDA also ViT-L/16 (uni) and UNI2-h with random weights, in bf16: what a tile costs does not depend
on the weights. Of each, the best of so many runs, by turns.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
import torch
from tile_reading import peak_memory, tiles_of
from torch import Tensor, nn
from wsipipe.data.features.store import FeatureFacts, FeatureWriter
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.tiling.store import TileSet
from wsipipe.models.backbones.backbone import Backbone, Embedder, Precision, find_backbone, load_embedder, ready
from wsipipe.models.backbones.weights import Weights
from wsipipe.stages.extract.feed import TileFeed
from wsipipe.stages.extract.feed_batch import OpenBag
from wsipipe.stages.extract.feed_report import FeedReport
from wsipipe.stages.stage import Item, Silence

NARROW: dict[str, dict[str, Any]] = {
    "conch": {"embed_dim": 192, "num_heads": 3},
    "hibou-b": {"embed_dim": 192, "num_heads": 3},
    "ctranspath": {"embed_dim": 48},
}
"""Backbone → arguments that make its network narrow: a ViT on 784 patches with an attention pool, a ViT with registers
and SwiGLU, a Swin with a convolutional stem."""


class Zeros(nn.Module):
    """Costs nothing."""

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.zeros((len(pixels), 8), device=pixels.device)


class AnyPixels(Embedder):
    """An embedder that does not look at its tiles."""

    def pixels(self, tiles: Tensor) -> Tensor:
        return torch.empty((len(tiles), 0), device=self.device)


class Nowhere:
    def append(self, features: Any, coords: Any) -> None: ...

    def finish(self, facts: FeatureFacts) -> None: ...

    def discard(self) -> None: ...


def narrow(name: str) -> Backbone:
    """A backbone with fewer numbers in each layer."""
    backbone = find_backbone(name)
    arguments = {**backbone.arguments, **NARROW[name]}
    return backbone.model_copy(update={"arguments": arguments, "width": None, "parameters": None})


def random_weights(backbone: Backbone, device: torch.device, precision: Precision) -> Embedder:
    torch.manual_seed(0)
    with torch.device(device):  # made where they are used: gigabytes
        model = backbone.build(device)
    return ready(backbone, model, Weights(Path("none"), "random"), device=device, precision=precision)


def nothing_to_do(device: torch.device) -> Embedder:
    backbone = Backbone(
        name="zeros",
        architecture="none",
        source="made here",
        interpolation="bicubic",
        pooling="pooled",
        resize=224,
        mean=(0,) * 3,
        std=(1,) * 3,
    )
    return AnyPixels(backbone, Zeros(), Weights(Path("none"), "none"), device, "fp32", 8)


def fed(
    path: Path,
    tiles: TileSet,
    slides: int,
    embedder: Embedder,
    asked: argparse.Namespace,
    store: Path | None,
    profile: Path | None = None,
    processes: bool | None = None,
) -> FeedReport:
    """The slide, ``slides`` times, through the feed; into stores if there is a place for them."""

    def open_bag(item: Item) -> OpenBag:
        sink: Any = Nowhere()
        if store is not None:
            sink = FeatureWriter(store / f"{item.id}.zarr", width=embedder.width, dtype="float16", most=len(tiles))
        return OpenBag(item, open_slide(path), tiles, sink)

    how = {"batch_size": asked.batch_size, "threads": asked.threads, "profile": profile, "processes": processes}
    feed = TileFeed(embedder, Silence(), **how)
    for _, bag in feed.run((Item(str(number), {}) for number in range(slides)), open_bag):
        if isinstance(bag, Exception) or bag.error is not None:
            raise SystemExit(f"{path}: {bag if isinstance(bag, Exception) else bag.error}")
        bag.close()
        bag.sink.finish(facts_of(embedder, tiles))
    assert feed.report is not None
    return feed.report


def facts_of(embedder: Embedder, tiles: TileSet) -> FeatureFacts:
    return FeatureFacts(
        slide_id=tiles.slide_id,
        slide_digest="",
        tiles_digest="",
        mpp=float(tiles.grid.tile_mpp),
        tile_px=int(tiles.grid.tile_px),
        tile_size_level0=float(tiles.grid.size_level0),
        backbone=embedder.backbone.name,
        architecture=embedder.backbone.architecture,
        pooling=embedder.backbone.pooling,
        width=embedder.width,
        weights_digest="",
        precision=embedder.precision,
        transform={},
    )


def backbone_alone(embedder: Embedder, side: int, seconds: float, asked: argparse.Namespace) -> float:
    """Tiles a second on random pixels."""
    return bare(embedder, side, seconds, asked)[0]


def bare(embedder: Embedder, side: int, seconds: float, asked: argparse.Namespace) -> tuple[float, float]:
    """Tiles a second of the clock, and of the processor, on random pixels."""
    shape = (asked.batch_size, side, side, 3)
    batch = torch.randint(0, 256, shape, dtype=torch.uint8, device=embedder.device)
    on_gpu = embedder.device.type != "cpu"

    def batches(until: float) -> int:
        torch.set_num_threads(1)
        done = 0
        while time.perf_counter() < until:
            embedder(batch)
            done += 1
            if on_gpu and done % 4 == 0:
                torch.cuda.synchronize(embedder.device)
        return done

    batches(time.perf_counter() + 1)  # chooses kernels, fills caches
    streams = 1 if on_gpu else asked.threads
    started, spent = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(streams) as pool:
        done = sum(pool.map(batches, [started + seconds] * streams))
    if on_gpu:
        torch.cuda.synchronize(embedder.device)
    tiles = float(done * asked.batch_size)
    return tiles / (time.perf_counter() - started), tiles / (time.process_time() - spent)


def backbones(
    device: torch.device, names: list[str], shapes: list[str], precision: Literal["auto"] | Precision
) -> Iterator[tuple[str, Callable[[], Embedder]]]:
    if shapes:
        for name in shapes:
            label = f"{name}, narrow, random weights"
            yield label, lambda name=name: random_weights(narrow(name), device, "fp32")  # type: ignore[misc]
        return
    if device.type != "cuda":
        yield (
            "efficientnet-lite0",
            lambda: load_embedder(find_backbone("efficientnet-lite0"), device=device, precision=precision),
        )
        return
    for name in names:
        yield (
            f"{name}, random weights",
            lambda name=name: random_weights(  # type: ignore[misc]
                find_backbone(name), device, "bf16" if precision == "auto" else precision
            ),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--mpp", type=float, help="default: the backbone's own with --shapes, else 0.5")
    parser.add_argument("--tile-px", type=int, help="default: the backbone's own with --shapes, else 224")
    parser.add_argument("--native-tolerance", type=float, default=0.02)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, help="default: 4 on a CPU, 64 elsewhere")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto")
    parser.add_argument("--backbones", nargs="*", default=["uni", "uni2-h"], help="on CUDA")
    parser.add_argument("--shapes", nargs="*", choices=list(NARROW), default=[], help="stand-ins of these on a CPU")
    parser.add_argument("--slides", type=int, default=1, help="feed the slide so many times, as a cohort of it")
    parser.add_argument("--feed-slides", type=int, default=3, help="the same for the feed alone, which is quick")
    parser.add_argument("--seconds", type=float, default=20, help="for the backbone alone")
    parser.add_argument("--most-tiles", type=int, help="leave out the rest of the slide, where a backbone is slow")
    parser.add_argument("--repeat", type=int, default=3, help="the best of so many runs counts, of each kind")
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    device = torch.device(asked.device)
    asked.batch_size = asked.batch_size or (4 if device.type == "cpu" else 64)
    empty = nothing_to_do(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores"
    lines = [
        f"{asked.slide.name}; {device.type} ({name}), torch {torch.__version__}",
        f"{asked.threads} threads, {asked.batch_size} tiles a batch; load before: {os.getloadavg()[0]:.1f}",
    ]
    for label, make in backbones(device, asked.backbones, asked.shapes, asked.precision):
        embedder = make()
        tiles = tiles_for(embedder.backbone if asked.shapes else None, asked)
        grid, side = tiles.grid, int(tiles.grid.tile_px)
        some = first_of(tiles, asked.most_tiles)
        kind = "native" if grid.native else f"{grid.read_px} → {side} px"
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        feeds, alone, whole, of_processor = [], [], [], []
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(asked.repeat):
                feeds.append(fed(asked.slide, tiles, asked.feed_slides, empty, asked, None))
                rates = bare(embedder, side, asked.seconds, asked)
                alone.append(rates[0])
                spent = time.process_time()
                whole.append(fed(asked.slide, some, asked.slides, embedder, asked, Path(folder)))
                of_processor.append(whole[-1].tiles / (time.process_time() - spent) / rates[1])
        best = max(whole, key=rate)
        lines += [
            f"{label}, {embedder.precision}; {len(some)} tiles of {side} px at {grid.tile_mpp:.3g} µm ({kind})",
            f"feed        {max(map(rate, feeds)):8,.0f} tiles/s",
            f"backbone    {max(alone):8,.1f} tiles/s   ({', '.join(f'{its:,.1f}' for its in alone)})",
            f"extraction  {rate(best):8,.1f} tiles/s   ({', '.join(f'{rate(its):,.1f}' for its in whole)})",
            f"share       {rate(best) / max(alone):8.1%}",
            f"processor   {max(of_processor):8.1%}   ({', '.join(f'{its:.1%}' for its in of_processor)})",
            *best.sentences(),
        ]
        if device.type == "cuda":
            lines.append(f"GPU memory: {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB at most")
        del embedder
    lines.append(f"memory: {peak_memory():.0f} MiB at most; load after: {os.getloadavg()[0]:.1f}")
    print("\n".join(lines))


def tiles_for(backbone: Backbone | None, asked: argparse.Namespace) -> TileSet:
    """All tiles of the slide, of the size that a backbone wants unless another is asked for."""
    mpp = asked.mpp or (0.5 if backbone is None else backbone.mpp)
    side = asked.tile_px or (224 if backbone is None else backbone.tile_px)
    with open_slide(asked.slide) as slide:
        return tiles_of(slide, mpp, side, tissue=False, native_tolerance=asked.native_tolerance)


def first_of(tiles: TileSet, most: int | None) -> TileSet:
    cut = slice(most)
    return replace(
        tiles, coords=tiles.coords[cut], tissue_fraction=tiles.tissue_fraction[cut], sharpness=tiles.sharpness[cut]
    )


def rate(report: FeedReport) -> float:
    return report.tiles / report.seconds


if __name__ == "__main__":
    main()
