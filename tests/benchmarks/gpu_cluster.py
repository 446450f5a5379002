"""How fast a Dask worker with a GPU extracts, against the same GPU without Dask. A part of ``gpu.sh``.

    python tests/benchmarks/gpu_cluster.py FILE --device cuda --seconds 150

Slides of drawn tissue are tiled once, and extracted in turns by processes here and by one worker that has the GPU and
all cores. Rates are from the first slide's begin to the last one's end; what a stage takes besides stands beside them.
Both must store the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from cluster import run
from gpu_extraction import Bench
from gpu_record import Record, parser_of_a_part
from safetensors.torch import save_file
from wsipipe.data.allotment import usable_cores
from wsipipe.data.slides.finding import find_slides
from wsipipe.pipeline.cluster.choice import elsewhere
from wsipipe.pipeline.cluster.settings import ClusterSettings
from wsipipe.stages.extract.settings import ExtractSettings
from wsipipe.stages.extract.stage import ExtractStage
from wsipipe.stages.tile.settings import TileSettings
from wsipipe.stages.tile.stage import TileStage


def bytes_of(features: Path) -> str:
    """A digest over the chunks of all stores."""
    chunks = sorted(path for path in features.rglob("*") if path.is_file() and "/c/" in path.as_posix())
    digest = hashlib.sha256()
    for path in chunks:
        digest.update(path.relative_to(features).as_posix().encode() + path.read_bytes())
    return f"{len(chunks)} chunks, {digest.hexdigest()[:16]}"


def measure(place: Path, record: Record, asked: argparse.Namespace) -> None:
    """Write a line for each round and each way, and the ratio of the best of both."""
    bench = Bench(place, asked)
    slide, held = bench.slides["20x"]
    backbone = asked.backbone
    slides = place / "slides"
    slides.mkdir()
    for number in range(asked.slides):
        os.link(slide, slides / f"s{number:03}.svs")
    cores = usable_cores()
    work = place / "work"
    tiles = work / "tiles" / "t"
    run(TileStage(TileSettings(tissue="all", workers=cores), tiles, work, slides=find_slides([slides])), None)
    weights = place / "weights.safetensors"
    save_file({name: value.cpu() for name, value in bench.network(backbone).model.state_dict().items()}, weights)
    bench._made.clear()  # the GPU belongs to the runs
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
    gpus = int(bench.device.type == "cuda")
    there = elsewhere(ClusterSettings(kind="local", cores=cores, memory="60GB", gpus=gpus, max_jobs=1))
    assert there is not None
    best: dict[str, float] = {}
    stored = set()
    try:
        for turn in range(asked.rounds):
            for way, where in (("a Dask worker", there), ("here", None)):
                if not record.has_time(f"{backbone}, {way}, round {turn + 1}", 15):
                    continue
                settings = ExtractSettings(backbone=backbone, weights=weights, device=bench.device.type)
                stage = ExtractStage(settings, work / "features" / f"{turn}-{way}" / backbone, work, tiles=tiles)
                slides_a_second, besides = run(stage, where)
                best[way] = max(slides_a_second * len(held), best.get(way, 0.0))
                stored.add(bytes_of(stage.folder))
                figures = {"tiles_per_second": slides_a_second * len(held), "seconds_besides": besides}
                record.add(f"{backbone}, {way}, round {turn + 1}", slides=asked.slides, tiles=len(held), **figures)
    finally:
        there.close()
    if len(best) == 2:
        same = len(stored) == 1
        record.add(f"{backbone}, worker / here", ratio=best["a Dask worker"] / best["here"], same_bytes=same)


def main() -> None:
    """Make slides and measure until the time is over."""
    parser = parser_of_a_part(__doc__, seconds=150)
    parser.add_argument("--backbone", help="uni by default")
    parser.add_argument("--slides", type=int, help="20 by default")
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    asked.backbone = asked.backbone or ("vit_tiny_patch16_224" if asked.small else "uni")
    asked.slides = asked.slides or (3 if asked.small else 20)
    record = Record(asked.file, "a worker's GPU", asked.seconds)
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), record, asked)


if __name__ == "__main__":
    main()
