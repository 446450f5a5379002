"""How fast a GPU turns tiles into features, most important first, until the time is over. A part of ``gpu.sh``.

    python tests/benchmarks/gpu_extraction.py FILE --device cuda --seconds 150
    python tests/benchmarks/gpu_extraction.py FILE --device cuda --seconds 60 --work memory

bare        the network alone, resize and normalisation with it, on random tiles that lie on the GPU, kernel by kernel
recorded    the same with its kernels launched together, as the stage does it
extraction  the whole, from slide to finished store; made slides of 20x (native tiles) and 40x (resized ones)
feed        the same with a network that costs nothing: what decoding and copying alone allow, in processes and threads
variants    the bare network, computed otherwise; the cosine is that of its features with ours

``--work memory`` is: GPU memory by batch size, a trace of the profiler (beside FILE), two processes on one GPU.
``--work networks`` is: bare, recorded and extraction of the shapes of other backbones, each on tiles of its own side.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from extraction import backbone_alone, fed, nothing_to_do, random_weights, rate
from gpu_record import Record, parser_of_a_part
from tile_reading import tiles_of
from torch import Tensor
from torch.nn.functional import cosine_similarity
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.tiling.store import TileSet
from wsipipe.data.units import Microns, Mpp
from wsipipe.models.backbones.backbone import Embedder, embed, find_backbone
from wsipipe.models.backbones.cuda_graph import CudaGraph
from wsipipe.models.backbones.devices import choose_device
from wsipipe.pipeline.demo.cohort import SITES
from wsipipe.pipeline.demo.slides import write_aperio
from wsipipe.pipeline.demo.tissue import draw_tissue
from wsipipe.stages.extract.embed_threads import Pieces

NETWORKS = ("uni", "uni2-h")
OTHERS = (
    "conch", "hibou-b", "ctranspath", "conch-v1.5", "h0-mini", "phikon-v2", "virchow2", "h-optimus-1", "musk", "gpfm",
    "plip", "prov-gigapath", "hibou-l", "kaiko-vitb8", "midnight-12k",
)  # fmt: skip
"""Other shapes: attention pools, registers, SwiGLU, Swin, 784 to 1,369 patches, 20 million parameters to a billion."""
DEFAULT = 128
"""Tiles a batch on a GPU, where it is not given."""
BATCHES = (64, 256, 32, 512)

PARTS = {
    "speed": "extraction",
    "memory": "memory, trace, company",
    "networks": "other networks",
    "one-process": "memory, trace, company",
}

Compute = Callable[[Tensor], Tensor]


class Bench:
    """Slides, networks, and how long is measured.

    :param small: for a dry run on a CPU.
    """

    def __init__(self, folder: Path, asked: argparse.Namespace) -> None:
        self.device = choose_device(asked.device)
        self.small = asked.small
        self.folder = folder
        self.names = ("vit_tiny_patch16_224",) if self.small else NETWORKS
        self.batches = (2, 8) if self.small else BATCHES
        self.default = 4 if self.small else DEFAULT
        self.threads = (1, 2) if self.small else (4, 8, 15)
        self.seconds = 0.5 if self.small else 1.5
        self.run_seconds = 10
        """Of a whole extraction, about: so long that the start of its processes hardly counts."""
        self.slides = {name: self._slide(name, mpp) for name, mpp in (("20x", 0.5), ("40x", 0.25))}
        self._made: dict[str, Embedder] = {}

    def network(self, name: str) -> Embedder:
        """With random weights, made once: what a tile costs does not depend on them."""
        if name not in self._made:
            self._made[name] = random_weights(find_backbone(name), self.device, "bf16")
        return self._made[name]

    def _slide(self, name: str, mpp: float) -> tuple[Path, TileSet]:
        """Drawn tissue, laid side by side until it fills the slide."""
        path = self.folder / f"{name}.svs"
        side = 896 if self.small else 10_752
        if not path.exists():
            rng = np.random.default_rng(0)
            drawn = draw_tissue(
                rng, side=Microns(1000 * (mpp / 0.5)), mpp=Mpp(mpp), planted_fraction=0.3, stain=SITES["Northfield"]
            )
            times = [-(-side // length) for length in drawn.shape[:2]]
            write_aperio(path, np.tile(drawn, (*times, 1))[:side, :side], mpp=Mpp(mpp))
        with open_slide(path) as slide:
            return path, tiles_of(slide, 0.5, 224, tissue=False, native_tolerance=0.02)

    def bare(self, embedder: Embedder, batch: int) -> float:
        """Tiles a second."""
        return backbone_alone(
            embedder, embedder.backbone.tile_px, self.seconds, argparse.Namespace(batch_size=batch, threads=1)
        )

    def recorded(self, embedder: Embedder, batch: int) -> float:
        """Tiles a second with the kernels launched together."""
        side = embedder.backbone.tile_px
        tiles = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8, device=self.device)
        return rate_of(Pieces(embedder, graphs=self.device.type == "cuda"), tiles, self.seconds)

    def whole(
        self,
        embedder: Embedder,
        slide: str,
        threads: int,
        batch: int | None,
        *,
        tiles: int,
        store: bool = True,
        processes: bool | None = None,
    ) -> dict[str, float | str]:
        """About so many tiles from slide to store; tiles a second, and what bound it.

        :param batch: tiles a batch; None: as the stage chooses.
        :param processes: as of :class:`TileFeed`.
        """
        path, held = self.slides[slide]
        if (side := embedder.backbone.tile_px) != 224:
            with open_slide(path) as opened:
                held = tiles_of(opened, 0.5, side, tissue=False, native_tolerance=0.02)
        times = max(1, tiles // len(held))
        asked = argparse.Namespace(batch_size=batch, threads=threads)
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            report = fed(path, held, times, embedder, asked, Path(folder) if store else None, processes=processes)
        busy = {f"{part}_busy".replace(" ", "_"): share for part, share in report.busy.items() if "opening" not in part}
        return {"tiles_per_second": rate(report), "tiles": report.tiles, **busy}


def measure_speed(bench: Bench, record: Record) -> None:
    bare: dict[str, float] = {}
    most = bench.threads[-1]
    for name in bench.names:
        if not record.has_time(f"{name}", 10):
            return
        embedder = bench.network(name)
        bare[name] = bench.bare(embedder, bench.default)
        record.add(f"{name}, bf16, bare, {bench.default} a batch", tiles_per_second=bare[name])
        for batch in (bench.default, *bench.batches[:2]):
            its = bench.recorded(embedder, batch)
            figures = {"tiles_per_second": its, "against_bare": its / bare[name]}
            record.add(f"{name}, bf16, recorded, {batch} a batch", **figures)
        many = 8 if bench.small else round(bench.run_seconds * bare[name])
        for slide in bench.slides:
            found = bench.whole(embedder, slide, most, None, tiles=many)
            share = float(found["tiles_per_second"]) / bare[name]
            record.add(f"{name}, bf16, extraction, {slide}, {most} processes", share_of_bare=share, **found)
    empty = nothing_to_do(bench.device)
    for slide in bench.slides:
        ways = [(True, threads) for threads in reversed(bench.threads)]
        for processes, threads in (ways[0], (False, most), (False, bench.threads[0]), *ways[1:]):
            what = f"feed alone, {slide}, {threads} {'processes' if processes else 'threads'}"
            if record.has_time(what, 6):
                tiles = 16 if bench.small else (40_000 if slide == "20x" else 10_000) if processes else 4_000
                found = bench.whole(empty, slide, threads, bench.default, tiles=tiles, store=False, processes=processes)
                record.add(what, **found)
    for name in bench.names[:1]:
        if record.has_time(f"{name}, compiled", 5 if bench.small else 45):
            fast = replace(bench.network(name), compiled=True)
            make = lambda fast=fast: Pieces(fast, graphs=bench.device.type == "cuda")  # noqa: E731
            measure_variant(bench, record, name, "--compile", make, bare[name])
            found = bench.whole(fast, "20x", most, None, tiles=many)
            share = float(found["tiles_per_second"]) / bare[name]
            record.add(f"{name}, bf16, extraction, 20x, --compile", share_of_bare=share, **found)
    for name in bench.names:
        for what, make in variants(bench.network(name), bench.device, bench.default):
            if record.has_time(f"{name}, {what}", 5):
                measure_variant(bench, record, name, what, make, bare[name])
    for name in bench.names:
        for batch in bench.batches:
            if record.has_time(f"{name}, bare, {batch} a batch", 3 * bench.seconds):
                its = bench.bare(bench.network(name), batch)
                record.add(
                    f"{name}, bf16, bare, {batch} a batch", tiles_per_second=its, against_default=its / bare[name]
                )
    for name in bench.names:
        for slide in bench.slides:
            for threads in bench.threads[:-1]:
                if record.has_time(f"{name}, {slide}, {threads} processes", 8):
                    found = bench.whole(bench.network(name), slide, threads, None, tiles=many // 2)
                    record.add(f"{name}, bf16, extraction, {slide}, {threads} processes", **found)


def measure_networks(bench: Bench, record: Record) -> None:
    for name in bench.names if bench.small else OTHERS:
        if not record.has_time(name, 15):
            continue
        try:
            embedder = random_weights(find_backbone(name), bench.device, "bf16")
            bare, recorded = bench.bare(embedder, bench.default), bench.recorded(embedder, bench.default)
            many = 8 if bench.small else round(bench.run_seconds * 0.6 * bare)
            found = bench.whole(embedder, "20x", bench.threads[-1], None, tiles=many)
        except Exception as error:  # noqa: BLE001  the next one may work
            record.add(name, failed=f"{type(error).__name__}: {error}".partition("\n")[0][:200])
            continue
        record.add(
            f"{name}, bf16, extraction, 20x",
            side=embedder.backbone.tile_px,
            bare=bare,
            recorded=recorded,
            share_of_bare=float(found["tiles_per_second"]) / bare,
            **found,
        )
        del embedder
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()


def measure_variant(
    bench: Bench, record: Record, name: str, what: str, make: Callable[[], Compute], reference: float
) -> None:
    ours = bench.network(name)
    tiles = torch.randint(0, 256, (bench.default, 224, 224, 3), dtype=torch.uint8, device=bench.device)
    try:
        started = time.perf_counter()
        compute = make()
        cosine = cosine_similarity(compute(tiles).float(), ours(tiles)).min().item()
        seconds = time.perf_counter() - started
        its = rate_of(compute, tiles, bench.seconds)
    except Exception as error:  # noqa: BLE001  a variant that does not work here is a finding, too
        record.add(f"{name}, {what}", failed=f"{type(error).__name__}: {error}".partition("\n")[0][:200])
        return
    figures = {"tiles_per_second": its, "against_ours": its / reference, "least_cosine": cosine, "began_after": seconds}
    record.add(f"{name}, {what}, {bench.default} a batch", **figures)


def rate_of(compute: Compute, tiles: Tensor, seconds: float) -> float:
    """Tiles a second, after a warm-up."""
    done, until = 0, time.perf_counter() + min(1.0, seconds)
    while time.perf_counter() < until:
        compute(tiles)
    waited(tiles)
    started = time.perf_counter()
    while time.perf_counter() < started + seconds:
        compute(tiles)
        done += 1
        if done % 4 == 0:
            waited(tiles)
    waited(tiles)
    return done * len(tiles) / (time.perf_counter() - started)


def waited(tiles: Tensor) -> None:
    if tiles.device.type == "cuda":
        torch.cuda.synchronize(tiles.device)


def variants(embedder: Embedder, device: torch.device, batch: int) -> Iterator[tuple[str, Callable[[], Compute]]]:
    """Other ways to compute the same, each made when it is measured."""
    pooling = embedder.backbone.pooling

    def cast_each_time() -> Compute:
        model = deepcopy(embedder.model).float()
        return replace(embedder, model=model)

    def all_in_bf16() -> Compute:
        model = deepcopy(embedder.model).bfloat16()

        @torch.inference_mode()
        def compute(tiles: Tensor) -> Tensor:
            return embed(model, embedder.pixels(tiles).bfloat16(), pooling)

        return compute

    def channels_last() -> Compute:
        model = deepcopy(embedder.model).to(memory_format=torch.channels_last)

        @torch.inference_mode()
        def compute(tiles: Tensor) -> Tensor:
            pixels = embedder.pixels(tiles).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16):
                return embed(model, pixels, pooling)

        return compute

    yield "weights cast by autocast at each batch", cast_each_time
    yield "all in bf16, without autocast", all_in_bf16
    yield "channels last", channels_last
    if device.type == "cuda":
        yield (
            "all in bf16, as a CUDA graph",
            lambda: CudaGraph(all_in_bf16(), torch.zeros((batch, 224, 224, 3), dtype=torch.uint8, device=device)),
        )


def measure_memory(bench: Bench, record: Record, asked: argparse.Namespace) -> None:
    if bench.device.type == "cuda":
        for name in bench.names:
            for batch in (bench.default, *bench.batches):
                embedder = bench.network(name)  # first: CUDA begins with it
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(bench.device)
                embedder(torch.zeros((batch, 224, 224, 3), dtype=torch.uint8, device=bench.device))
                peak = torch.cuda.max_memory_allocated(bench.device) / 2**30
                record.add(f"{name}, bf16, {batch} a batch", gibibytes_at_most=peak)
    many = 100 if bench.small else 2500
    name, slide = bench.names[0], "20x"
    path, held = bench.slides[slide]
    trace = bench.folder / "trace.json"
    threads = bench.threads[-1]
    how = argparse.Namespace(batch_size=bench.default, threads=threads)
    report = fed(path, held, max(1, many // len(held)), bench.network(name), how, None, profile=trace)
    record.add(f"{name}, {slide}, with --profile", tiles_per_second=rate(report), **kernels(trace))
    if trace.exists():
        (asked.file.parent / "trace.json.gz").write_bytes(gzip.compress(trace.read_bytes()))
    if not record.has_time("two processes on one device", 20):
        return
    each = [sys.executable, __file__, str(asked.file), "--device", asked.device, "--work", "one-process"]
    each += ["--folder", str(bench.folder), *(["--small"] if bench.small else [])]
    alone = json.loads(subprocess.run(each, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    both = [subprocess.Popen(each, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    rates = [json.loads(process.communicate()[0].splitlines()[-1])["tiles_per_second"] for process in both]
    together = sum(rates)
    one = alone["tiles_per_second"]
    record.add(f"{name}, two processes on one device", together=together, one_alone=one, gain=together / one)


def kernels(trace: Path) -> dict[str, float | str]:
    """Of a trace: the part of its time in which the GPU computes, and what takes longest."""
    if not trace.exists():
        return {"trace": "too few batches for one"}
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    spans = [event for event in events if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    if not spans:
        return {"trace_events": len(events)}
    computing = [event for event in spans if event["cat"] == "kernel"]
    begin, end = (edge(e["ts"] + by * e["dur"] for e in spans) for edge, by in ((min, 0), (max, 1)))
    longest: dict[str, float] = {}
    for event in computing:
        longest[event["name"][:60]] = longest.get(event["name"][:60], 0.0) + event["dur"]
    whole = sum(longest.values())
    top = sorted(longest.items(), key=lambda item: -item[1])[:5]
    return {"gpu_computes": whole / (end - begin)} | {f"kernel {name}": its / whole for name, its in top}


def one_process(bench: Bench) -> None:
    many = 40 if bench.small else 5000
    found = bench.whole(bench.network(bench.names[0]), "20x", max(1, bench.threads[-1] // 2), None, tiles=many)
    print(json.dumps(found))


def main() -> None:
    parser = parser_of_a_part(__doc__, seconds=150)
    parser.add_argument("--folder", type=Path, help="where slides lie or are made; a temporary one by default")
    parser.add_argument("--work", choices=list(PARTS), default="speed")
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    record = Record(asked.file, PARTS[asked.work], asked.seconds)
    with tempfile.TemporaryDirectory() as temporary:
        started = time.perf_counter()
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(folder, asked)
        if asked.work == "one-process":
            one_process(bench)
            return
        tiles = {f"tiles_{name}": len(held) for name, (_, held) in bench.slides.items()}
        record.add("made slides", seconds=time.perf_counter() - started, load=os.getloadavg()[0], **tiles)
        if asked.work == "memory":
            measure_memory(bench, record, asked)
        elif asked.work == "networks":
            measure_networks(bench, record)
        else:
            measure_speed(bench, record)


if __name__ == "__main__":
    main()
