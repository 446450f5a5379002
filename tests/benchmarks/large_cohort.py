"""What a cohort of 100,000 slides costs: loading its manifest, ``status``, and tiling three more slides.

Usage: ``python tests/benchmarks/large_cohort.py FOLDER [TILED EXTRACTED]``; the workspaces are made in the folder if
they are not there. One small slide is tiled and extracted; its records stand for all others, each with files of the
recorded size in place of its outputs. Times are of the processor, so that a busy machine does not count. Beside each
stands its ratio to the time that Python's own ``json`` takes to parse the same lines, which compares between machines.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
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


def run(folder: Path, code: str, *words: object) -> tuple[float, float, float]:
    """Run Python code in a process of its own; its seconds of the processor and of the clock, and its most GB."""
    begin = time.perf_counter()
    measured = code + MEASURE
    command = [sys.executable, "-c", measured, *map(str, words)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    if done.returncode:
        sys.exit(f"{words} failed: {done.stderr[-2000:]}")
    processor, kilobytes = done.stdout.split()[-2:]
    return float(processor), seconds, int(kilobytes) / 1e6


MEASURE = """
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
used = [getrusage(of) for of in (RUSAGE_SELF, RUSAGE_CHILDREN)]
peak = next(l.split()[1] for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM"))
print(sum(u.ru_utime + u.ru_stime for u in used), peak)
"""
LOAD = "from pathlib import Path\nfrom wsipipe.data.manifest import Manifest\nmanifest = Manifest.of(Path())\n"
COMMAND = "import sys\nfrom wsipipe.pipeline.cli import app\nstatus = app(standalone_mode=False)\nassert not status\n"


def wsipipe(folder: Path, *words: object) -> tuple[float, float, float]:
    """Run a command."""
    return run(folder, COMMAND, *words)


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


def measure(folder: Path, slides: int, *, extracted: bool) -> None:
    """Make the workspace if it is not there, and time the commands on it."""
    if not (folder / "work").is_dir():
        make(folder, slides, extracted=extracted)
    tiles = folder / "work" / TILES
    lines = (tiles / "manifest.jsonl").read_bytes().splitlines()
    begin = time.process_time()
    for line in lines:
        json.loads(line)
    unit = time.process_time() - begin
    print(f"{len(lines):,} records, {sum(map(len, lines)) / 1e6:.0f} MB; json.loads of its lines: {unit:.2f} s")

    def say(what: str, used: tuple[float, float, float], less: float = 0.0) -> None:
        seconds, clock, memory = used[0] - less, *used[1:]
        print(
            f"{what:<32}{seconds:6.2f} s {seconds / unit:6.1f} × json.loads {clock:6.0f} s {memory:5.2f} GB", flush=True
        )

    start = run(tiles, LOAD)[0]
    say("its manifest is read", run(tiles, LOAD + "records = manifest.records()\n"), start)
    say("status", wsipipe(folder, "status"))
    say("status --json", wsipipe(folder, "status", "--json"))
    new = folder / f"three-{time.time_ns()}"
    for n in range(3):
        write_slide(new / f"new-{time.time_ns()}.svs", n)
    say("tile three more slides", wsipipe(folder, "tile", new))
    say("tile them again: nothing to do", wsipipe(folder, "tile", new))
    if extracted:
        say("extract the three", wsipipe(folder, "extract", "--device", "cpu"))


def main() -> None:
    """Measure one cohort that is tiled, and a smaller one that is extracted too."""
    folder = Path(sys.argv[1])
    tiled, extracted = (int(sys.argv[2]), int(sys.argv[3])) if len(sys.argv) > 3 else (100_000, 20_000)
    measure(folder / "tiled", tiled, extracted=False)
    measure(folder / "extracted", extracted, extracted=True)


if __name__ == "__main__":
    main()
