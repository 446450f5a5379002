"""What a cohort of 100,000 slides costs: loading its manifest, ``status``, and tiling three more slides.

Usage: ``python tests/benchmarks/large_cohort.py FOLDER [TILED EXTRACTED]``; the workspaces are made in the folder if they
are not there. One small slide is tiled and extracted; its records stand for all others, each with files of the recorded
size in place of its outputs. Times are those of the machine; beside each stands its ratio to
the time that Python's own ``json`` takes to parse the same lines, which compares between machines.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from wsipipe.data.manifest import Manifest, Record
from wsipipe.data.units import Mpp
from wsipipe.pipeline.demo.slides import write_aperio

TILES, FEATURES = Path("tiles/0.5mpp-224px"), Path("features/0.5mpp-224px/efficientnet-lite0")


def write_slide(path: Path, seed: int) -> None:
    """A small slide, tissue all over."""
    pixels = np.random.default_rng(seed).normal((200, 110, 170), 30, size=(300, 300, 3)).clip(0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aperio(path, pixels, mpp=Mpp(0.5))


def wsipipe(folder: Path, *words: object) -> tuple[float, float]:
    """Run a command in a process of its own; its seconds, and the GB of memory that it took at most."""
    code = (
        "import resource\nfrom wsipipe.pipeline.cli import app\n"
        "try:\n    app(standalone_mode=False)\nfinally:\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=open('memory', 'w'))\n"
    )
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], cwd=folder, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - begin
    if done.returncode:
        sys.exit(f"wsipipe {words[0]} failed: {done.stderr[-2000:]}")
    return seconds, int((folder / "memory").read_text()) / 1e6


def like(record: Record, item: str, old: str) -> Record:
    """The record of a slide, as that of another one."""
    outputs = {n: replace(o, path=o.path.replace(old, item)) for n, o in record.outputs.items()}
    inputs = {n: replace(i, path=i.path and i.path.replace(old, item)) for n, i in record.inputs.items()}
    return record.model_copy(update={"item": item, "outputs": outputs, "inputs": inputs})


def make(folder: Path, slides: int, *, extracted: bool) -> None:
    """A workspace of so many slides that are tiled and, if asked, extracted."""
    write_slide(folder / "first/first.svs", 0)
    wsipipe(folder, "tile", "first")
    if extracted:
        wsipipe(folder, "extract", "--device", "cpu")
    work = folder / "work"
    for place in (TILES, FEATURES) if extracted else (TILES,):
        manifest = Manifest.of(work / place)
        [template] = [record for record in manifest.records() if record.item == "first"]
        copies = [like(template, f"slide-{n:06}", "first") for n in range(slides)]
        for copy in copies:
            for output, of in zip(copy.outputs.values(), template.outputs.values(), strict=True):
                source, path = work / of.path, work / output.path
                for file in source.rglob("*") if source.is_dir() else [source]:
                    target = path / file.relative_to(source)
                    if file.is_file():
                        target.parent.mkdir(parents=True, exist_ok=True)
                        with target.open("wb") as stream:
                            stream.truncate(file.stat().st_size)  # as many bytes, none of them on the disk
        manifest.append(*copies)


def best(of: Callable[[], object], times: int = 3) -> float:
    """The shortest of several times, in seconds."""
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        of()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def measure(folder: Path, slides: int, *, extracted: bool) -> None:
    """Make the workspace if it is not there, and time the commands on it."""
    if not (folder / "work").is_dir():
        make(folder, slides, extracted=extracted)
    file = folder / "work" / TILES / "manifest.jsonl"
    lines = file.read_bytes().splitlines()
    unit = best(lambda: [json.loads(line) for line in lines])
    print(f"{len(lines):,} records, {file.stat().st_size / 1e6:.0f} MB; json.loads of its lines: {unit:.2f} s")

    def say(what: str, seconds: float, memory: float) -> None:
        print(f"{what:<36}{seconds:7.2f} s {seconds / unit:7.1f} × json.loads {memory:7.2f} GB", flush=True)

    loaded = subprocess.run([sys.executable, "-c", LOAD, file], capture_output=True, text=True, check=True).stdout
    seconds, kilobytes = map(float, loaded.split())
    say("its manifest is read", seconds, kilobytes / 1e6)
    say("status", *wsipipe(folder, "status"))
    say("status --json", *wsipipe(folder, "status", "--json"))
    new = folder / f"three-{time.time_ns()}"
    for n in range(3):
        write_slide(new / f"new-{time.time_ns()}.svs", n)
    say("tile three more slides", *wsipipe(folder, "tile", new))
    say("tile them again: nothing to do", *wsipipe(folder, "tile", new))
    if extracted:
        say("extract the three", *wsipipe(folder, "extract", "--device", "cpu"))


LOAD = (
    "import sys, time, resource\nfrom pathlib import Path\nfrom wsipipe.data.manifest import Manifest\n"
    "begin = time.perf_counter()\nrecords = Manifest(Path(sys.argv[1])).records()\n"
    "print(time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
)


def main() -> None:
    """Measure one cohort that is tiled, and a smaller one that is extracted too."""
    folder = Path(sys.argv[1])
    tiled, extracted = (int(sys.argv[2]), int(sys.argv[3])) if len(sys.argv) > 3 else (100_000, 20_000)
    measure(folder / "tiled", tiled, extracted=False)
    measure(folder / "extracted", extracted, extracted=True)


if __name__ == "__main__":
    main()
