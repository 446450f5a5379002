"""How much memory the bags of a cohort take, kept in memory and read as needed, and what reading them costs a training.

    python tests/benchmarks/training_memory.py --slides 1000 --tiles 1000
    python tests/benchmarks/training_memory.py --folds 2 --slides 40 --tiles 5000

Stores of random float16 numbers are written into a temporary folder, a few of them, and hard links made until there are
as many as slides; every one is read.

Without ``--folds`` a fresh process reads them as a fold does, each a bag with its graph, then one bag is made ready for
the network. Its memory before, after, and at the most is the resident set; what it grew is compared with the bytes of
the features. ``tensors`` is what the bags themselves hold: the rest is the reader's own, and pages that the allocator
keeps.

With ``--folds`` so many processes train a network for an epoch side by side. *Kept*: each holds all bags, as before
there was a budget. *Read as needed*: from the scratch file of ``wsipipe train``, with a budget that the bags exceed.
*No bags*: one slide alone, over and over. Memory is the proportional set size of all processes together, which counts
a page once that they share, at its most. Then a single process trains epochs on kept bags and on bags of the file in
turn: *warm*, the file's pages being in memory; *cold*, after the system was asked to drop them.
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
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from wsipipe.data.features.store import FeatureFacts, FeatureWriter, read_bag
from wsipipe.models.mil.bag_tensors import AnyBag, BagBatch, FiledBag, Patient, bag_tensors
from wsipipe.models.training.fit import FitSettings, new_optimiser, train_epoch
from wsipipe.models.training.methods import find_method
from wsipipe.pipeline.run.usage import memory_of
from wsipipe.stages.stage import Silence
from wsipipe.stages.train.shared_bags import Budget, filed_bags

DISTINCT = 20
NEIGHBOURS = 8
ROUNDS = 2


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


# ----- folds side by side -----


class Training:
    """A network and its optimiser, which train on any bags."""

    def __init__(self, method: str, width: int, device: str) -> None:
        network = find_method(method).network
        torch.manual_seed(0)
        self.network = network(network.Config.model_validate({"in_features": width})).to(device)
        self.settings = FitSettings()
        self.optimiser = new_optimiser(self.network, self.settings)

    def epoch(self, bags: Sequence[AnyBag]) -> tuple[float, float]:
        """Seconds of an epoch, and of the processor."""
        groups = [[Patient(str(n), label, [bag]) for n, bag in enumerate(bags)] for label in (0, 1)]
        begin, began = time.perf_counter(), time.process_time()
        train_epoch(self.network, groups, len(bags), self.optimiser, self.settings, 0)
        return time.perf_counter() - begin, time.process_time() - began


def one_fold(given: tuple[str, str, int, Path, Sequence[str], Mapping[str, FiledBag], str]) -> None:
    """Train an epoch on bags that are kept, or on those of the file."""
    way, method, width, folder, slides, filed, device = given
    torch.set_num_threads(1)
    training = Training(method, width, device)
    if way == "kept":
        bags: list[AnyBag] = [bag_tensors(read_bag(folder / f"{slide}.zarr"), NEIGHBOURS) for slide in slides]
    elif way == "read as needed":
        bags = [filed[slide] for slide in slides]
    else:
        bags = [bag_tensors(read_bag(folder / "0.zarr"), NEIGHBOURS)] * min(4, len(slides))
    training.epoch(bags)


class Watched:
    """The most memory of this process and its children while a block runs."""

    def __enter__(self) -> Watched:
        self.most, self._end = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._end.wait(0.05):
            self.most = max(self.most, memory_of(Path("/proc/self")))

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def drop(file: Path) -> None:
    """Ask the system to drop what it keeps of a file in memory."""
    handle = os.open(file, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def side_by_side(folder: Path, asked: argparse.Namespace) -> list[str]:
    slides = [str(number) for number in range(asked.slides)]
    stores = {slide: folder / f"{slide}.zarr" for slide in slides}
    budget = Budget(asked.bag_memory, asked.folds, 1.0, 1)
    began = time.perf_counter()
    lines = []
    with filed_bags(stores, budget, neighbours=NEIGHBOURS, folder=folder, progress=Silence()) as filed:
        if not filed:
            raise SystemExit("the bags fit into --bag-memory: give it less")
        size = sum(bag.bytes for bag in filed.values())
        lines.append(f"bags {size / 1e9:.3f} GB, budget {asked.bag_memory / 1e9:.3f} GB, {asked.folds} folds")
        lines.append(f"scratch file written in {time.perf_counter() - began:.1f} s")
        start = get_context("fork" if asked.device == "cpu" else "spawn")
        for way in ("no bags", "kept", "read as needed"):
            given: Any = (way, asked.memory_of, asked.width, folder, slides, filed, asked.device)
            with Watched() as watched, start.Pool(asked.folds) as pool:
                pool.map(one_fold, [given] * asked.folds, chunksize=1)
            lines.append(f"{way:15} {watched.most / 1e9:7.3f} GB at most, all processes")
            print(lines[-1], flush=True)
        torch.set_num_threads(asked.threads)
        training, file = Training(asked.time_of, asked.width, asked.device), next(iter(filed.values())).arrays.file
        timed = slides[: asked.timed]
        kept = [bag_tensors(read_bag(stores[slide]), NEIGHBOURS) for slide in timed]
        ways: dict[str, list[tuple[float, float]]] = {"kept": [], "warm": [], "cold": []}
        training.epoch(kept[:2])
        for _ in range(ROUNDS):
            for way, seconds in ways.items():
                if way == "cold":
                    drop(file)
                seconds.append(training.epoch(kept if way == "kept" else [filed[slide] for slide in timed]))
                print(way, seconds[-1], flush=True)
        best = {way: [min(times) for times in zip(*seconds, strict=True)] for way, seconds in ways.items()}
        for way, (seconds, processor) in best.items():
            lines.append(
                f"epoch, {way:5} {1e3 * seconds / len(timed):7.1f} ms a bag, {seconds / best['kept'][0]:.3f} of kept; "
                f"processor {1e3 * processor / len(timed):7.1f} ms, {processor / best['kept'][1]:.3f}"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--tiles", type=int, default=1000, help="of every slide")
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--folder", type=Path, help="where the stores are to lie; a temporary one by default")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folds", type=int, default=0, help="processes that train side by side")
    parser.add_argument("--bag-memory", type=int, default=64_000_000, help="with --folds: bytes that bags may take")
    parser.add_argument("--memory-of", default="mean", help="with --folds: the network whose memory is watched")
    parser.add_argument("--time-of", default="abmil", help="with --folds: the network whose epochs are timed")
    parser.add_argument("--timed", type=int, default=20, help="with --folds: slides of the epochs that are timed")
    parser.add_argument("--device", default="cpu", help="with --folds")
    parser.add_argument("--threads", type=int, default=1, help="with --folds: of the process whose epochs are timed")
    asked = parser.parse_args()
    if asked.read:
        print(json.dumps(read(asked.read, asked.slides)))
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        write(Path(folder), asked.slides, asked.tiles, asked.width)
        if asked.folds:
            print("\n".join(side_by_side(Path(folder), asked)))
            return
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
