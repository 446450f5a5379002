"""How much memory the bags of a cohort take: as training reads them, against the features alone.

    python tests/benchmarks/training_memory.py --slides 1000 --tiles 1000

Stores of random float16 numbers are written into a temporary folder, a few of them, and hard links made until there are
as many as slides; every one is read and kept. A fresh process reads them as a fold
does, each a bag with its graph, then one bag is made ready for the network. Its memory before, after, and at the most
is the resident set; what it grew is compared with the bytes of the features. ``tensors`` is what the bags themselves
hold: the rest is the reader's own, and pages that the allocator keeps.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from wsipipe.data.features.store import FeatureFacts, FeatureWriter, read_bag
from wsipipe.models.mil.bag_tensors import BagBatch, bag_tensors

DISTINCT = 20
NEIGHBOURS = 8


def write(folder: Path, slides: int, tiles: int, width: int) -> None:
    draw = np.random.default_rng(0)
    side = int(np.ceil((2 * tiles) ** 0.5))
    facts = FeatureFacts(
        slide_id="random", slide_digest="", tiles_digest="", mpp=0.5, tile_px=224, tile_size_level0=448, backbone="",
        architecture="", pooling="", width=width, weights_digest="", precision="fp32", transform={},
    )  # fmt: skip
    for slide in range(min(DISTINCT, slides)):
        places = np.sort(draw.choice(side**2, tiles, replace=False))
        coords = np.stack([places % side, places // side], axis=1) * 448
        with FeatureWriter(folder / f"{slide}.zarr", width=width, dtype="float16", most=tiles) as writer:
            writer.append(draw.standard_normal((tiles, width), np.float32), coords)
            writer.finish(facts)
    for slide in range(DISTINCT, slides):
        shutil.copytree(folder / f"{slide % DISTINCT}.zarr", folder / f"{slide}.zarr", copy_function=os.link)


def resident() -> int:
    """Bytes of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def most_resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def read(folder: Path, slides: int) -> dict[str, float]:
    bag_tensors(read_bag(folder / "0.zarr"), NEIGHBOURS)  # what the libraries take once is not the cohort's
    before, started = resident(), time.perf_counter()
    bags = [bag_tensors(read_bag(folder / f"{slide}.zarr"), NEIGHBOURS) for slide in range(slides)]
    seconds = time.perf_counter() - started
    after = resident()
    BagBatch.of([bags[0]], torch.device("cpu"))
    return {
        "features": sum(bag.features.nbytes for bag in bags),
        "tensors": sum(bag.bytes for bag in bags),
        "grew": after - before,
        "peak": most_resident() - before,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--tiles", type=int, default=1000, help="of every slide")
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--folder", type=Path, help="where the stores are to lie; a temporary one by default")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.read:
        print(json.dumps(read(asked.read, asked.slides)))
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        write(Path(folder), asked.slides, asked.tiles, asked.width)
        command = [sys.executable, __file__, "--read", folder, "--slides", str(asked.slides)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    its: dict[str, float] = json.loads(done.stdout)
    lines = [
        f"{asked.slides} slides × {asked.tiles} tiles × {asked.width}, float16; read in {its['seconds']:.1f} s",
        *(
            f"{name:9} {its[name] / 1e9:7.3f} GB {its[name] / its['features']:7.3f} of the features"
            for name in ("features", "tensors", "grew", "peak")
        ),
    ]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
