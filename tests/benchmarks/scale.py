"""How tiling and extraction go as a cohort grows to thousands of slides: rates at its begin and end, memory, manifests.

    python tests/benchmarks/scale.py [--slides 5000] [--dask] [--folder FOLDER]
    python tests/benchmarks/scale.py --check [--slides 5000] [--folder FOLDER]

Small slides are made, tiled and extracted (efficientnet-lite0 on the CPU) by the commands that a user types, here or by
two workers of a cluster on the loopback; then ``status`` and runs that find nothing to do are timed. Memory is what the
run's own log tells: the most of all its processes together. With ``--check`` only ``wsipipe check`` is timed, on slides
that are not tiled yet, two a patient, with a table of labels and all the time that it wants.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from large_cohort import FEATURES, TILES, write_slide, wsipipe
from wsipipe.data.event_log import NAME as LOG_NAME
from wsipipe.data.manifest import Manifest

SETTINGS = '[cluster]\nkind = "local"\ncores = 1\nmemory = "3GB"\nmax_jobs = 2\n'


OF_CHECK = """
[cohort]
slides = ["slides"]
table = "cohort.csv"

[biomarkers.her2]
label_column = "her2"
"""


def rates(folder: Path, stage: str) -> str:
    """Slides a second of the first and the last fifth, and the size of the manifest."""
    manifest = Manifest.of(folder)
    records = [record for record in manifest.records() if record.stage == stage]
    ends = sorted(record.start.timestamp() + record.seconds for record in records)
    fifth = len(ends) // 5
    first = (fifth - 1) / (ends[fifth - 1] - ends[0])
    last = (fifth - 1) / (ends[-1] - ends[-fifth])
    size = sum(file.stat().st_size for file in folder.glob("manifest*"))
    of_a_slide = f"{size / 1e6:.1f} MB of manifest, {size / len(ends):.0f} bytes a slide"
    return f"first fifth {first:.2f} slides/s, last {last:.2f} ({last / first:.2f} times); {of_a_slide}"


def memory(work: Path) -> str:
    """The most memory of the latest run, from its log."""
    events = [json.loads(line) for file in work.rglob(LOG_NAME) for line in file.read_text().splitlines()]
    ended = max((event for event in events if event["event"] == "run ended"), key=lambda event: event["time"])
    return f"{ended['peak_memory'] / 1e9:.2f} GB at most, all its processes together"


def measure_check(folder: Path, slides: int) -> None:
    """Time the check of a cohort of which nothing is tiled."""
    rows = ["slide_id,patient_id,her2"]
    for number in range(slides):
        write_slide(folder / "slides" / f"s{number:05}.svs", number)
        patient = number // 2
        rows.append(f"s{number:05},p{patient:04},{'positive' if patient % 3 == 0 else 'negative'}")
    (folder / "cohort.csv").write_text("\n".join(rows) + "\n")
    (folder / "wsipipe.toml").write_text(OF_CHECK)
    for often in ("check", "check again"):
        processor, clock, most = wsipipe(folder, "check", "--seconds", 3600)
        each = f"{1000 * clock / slides:.1f} ms a slide"
        print(f"{often}: {clock:.1f} s ({each}), {processor:.1f} s of the processor, {most:.2f} GB", flush=True)


def measure(folder: Path, slides: int, *, dask: bool) -> None:
    """Make, run and time."""
    for number in range(slides):
        write_slide(folder / "slides" / f"s{number:05}.svs", number)
    if dask:
        (folder / "wsipipe.toml").write_text(SETTINGS)
    commands = (("tile", "slides"), TILES), (("extract", "--device", "cpu"), FEATURES)
    for words, place in commands:
        _, clock, most = wsipipe(folder, *words)
        print(f"{words[0]}: {slides} slides in {clock:.0f} s", flush=True)
        print(f"  {rates(folder / 'work' / place, words[0])}")
        print(f"  client {most:.2f} GB; {memory(folder / 'work')}", flush=True)
    for words in (*(words for words, _ in commands), ("status",)):
        processor, clock, most = wsipipe(folder, *words)
        what = f"{words[0]} again" if words[0] != "status" else "status"
        print(f"{what}: {clock:.1f} s, {processor:.1f} s of the processor, {most:.2f} GB", flush=True)


def main() -> None:
    """Measure in a folder that stays, or in one that goes."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--slides", type=int, default=5000)
    words.add_argument("--dask", action="store_true", help="by two workers of a cluster on this machine")
    words.add_argument("--check", action="store_true", help="time the check alone, before anything is tiled")
    words.add_argument("--folder", type=Path, help="an empty one, which stays")
    given = words.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        if given.check:
            measure_check(folder, given.slides)
        else:
            measure(folder, given.slides, dask=given.dask)


if __name__ == "__main__":
    main()
