"""How fast a slide's features reach the disk, and how much memory it takes: ``FeatureWriter`` with random numbers.

    python tests/benchmarks/feature_writing.py --folder SCRATCH --rate 500

Random numbers hardly compress, so this is the worst case. Every figure is of a fresh process; its memory is the peak
of what it held, first as it stood before the first tile. Time runs to the end of ``finish``, with everything flushed
to the disk. ``--rate`` is the rate in tiles a second that writing is to be compared with: put the one that was measured
for the backbone and the device at hand; the default is a stand-in and no measurement.

The second table compresses chunks of the same numbers in memory, on one thread, in the ways that a store could.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numcodecs import LZ4, Zstd
from wsipipe.data.artifact import size_of
from wsipipe.data.features.store import FeatureFacts, FeatureWriter, read_bag

BATCH = 256
CHUNK_BYTES = 1 << 20


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write(folder: Path, tiles: int, width: int, dtype: str) -> dict[str, float]:
    """One slide in batches, as extraction hands them over: float32, cast by the writer."""
    facts = FeatureFacts(
        slide_id="random", slide_digest="", tiles_digest="", mpp=0.5, tile_px=224, tile_size_level0=448, backbone="",
        architecture="", pooling="", width=width, weights_digest="", precision="fp32", transform={},
    )  # fmt: skip
    pool = np.random.default_rng(0).standard_normal((16 * BATCH, width), np.float32)
    coords = np.stack([np.arange(tiles) % 500, np.arange(tiles) // 500], axis=1) * 448
    before, started, busy = peak_mib(), time.perf_counter(), time.process_time()
    path = folder / f"{tiles}.zarr"
    with FeatureWriter(path, width=width, dtype=dtype, most=tiles) as writer:
        for start in range(0, tiles, BATCH):
            count = min(BATCH, tiles - start)
            place = start % (len(pool) - BATCH)  # chunks are compressed by themselves: numbers may return
            writer.append(pool[place : place + count], coords[start : start + count])
        appended = time.perf_counter()
        writer.finish(facts)
    ended = time.perf_counter()
    return {
        "tiles": tiles,
        "seconds": ended - started,
        "cpu": time.process_time() - busy,
        "finish": ended - appended,
        "stored": size_of(path),
        "files": sum(file.is_file() for file in path.rglob("*")),
        "before": before,
        "peak": peak_mib(),
    }


def read(folder: Path, tiles: int) -> dict[str, float]:
    started = time.perf_counter()
    bag = read_bag(folder / f"{tiles}.zarr")
    return {"seconds": time.perf_counter() - started, "bytes": bag.features.nbytes, "peak": peak_mib()}


def in_fresh_process(*arguments: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def compression(width: int, dtype: str) -> list[str]:
    rows = CHUNK_BYTES // (width * np.dtype(dtype).itemsize)
    chunks = np.random.default_rng(0).standard_normal((32, rows, width), np.float32).astype(dtype)
    ways = {f"zstd {level}": Zstd(level=level, checksum=True) for level in (-1, 1, 3, 6)} | {"lz4": LZ4()}
    lines = [f"{'':8} {'MB/s':>7} {'stored':>8}"]
    for name, way in ways.items():
        rates = []
        for _ in range(3):
            started = time.perf_counter()
            stored = sum(len(way.encode(chunk)) for chunk in chunks)
            rates.append(chunks.nbytes / 1e6 / (time.perf_counter() - started))
        lines.append(f"{name:8} {max(rates):7.0f} {stored / chunks.nbytes:8.1%}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; a temporary one by default")
    parser.add_argument("--tiles", type=int, nargs="+", default=[2_000, 20_000, 200_000])
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float16")
    parser.add_argument("--rate", type=float, default=500.0, help="tiles a second to compare with")
    parser.add_argument("--one", choices=["write", "read"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        [tiles] = asked.tiles
        its = (
            write(asked.folder, tiles, asked.width, asked.dtype) if asked.one == "write" else read(asked.folder, tiles)
        )
        print(json.dumps(its))
        return
    tile_mb = asked.width * np.dtype(asked.dtype).itemsize / 1e6
    lines = [
        f"{asked.width} × {asked.dtype}, batches of {BATCH}",
        f"{'tiles':>8} {'tiles/s':>8} {'MB/s':>6} {'CPU s':>6} {'s':>6} {'finish s':>8} {'stored':>7} {'files':>5} "
        f"{'MiB before':>10} {'MiB peak':>8} {'× rate':>7} {'read MB/s':>9} {'MiB peak':>8}",
    ]
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        for tiles in asked.tiles:
            settings = ["--folder", folder, "--tiles", str(tiles), "--width", str(asked.width), "--dtype", asked.dtype]
            wrote = in_fresh_process("--one", "write", *settings)
            back = in_fresh_process("--one", "read", *settings)
            rate = tiles / wrote["seconds"]
            lines.append(
                f"{tiles:8} {rate:8.0f} {rate * tile_mb:6.0f} {wrote['cpu']:6.1f} {wrote['seconds']:6.1f} "
                f"{wrote['finish']:8.1f} {wrote['stored'] / (tiles * tile_mb * 1e6):7.1%} {wrote['files']:5} "
                f"{wrote['before']:10.0f} {wrote['peak']:8.0f} {rate / asked.rate:7.0f} "
                f"{back['bytes'] / 1e6 / back['seconds']:9.0f} {back['peak']:8.0f}"
            )
    lines += [f"× rate: of {asked.rate:g} tiles a second", "", *compression(asked.width, asked.dtype)]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
