"""How long a backbone takes to load, beside what a user would write with timm: build the network, load its state dict.

    python tests/benchmarks/backbone_loading.py --backbone uni --folder SCRATCH

The weights are random numbers in a safetensors file of the network's size. Rounds alternate between the two ways, each
in a fresh process after its imports, and the ratio is that of the medians; the tensors of both are the same bits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import timm  # noqa: F401  the networks' library, whose import is not loading
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from wsipipe.models.backbones.backbone import Backbone, find_backbone, load_embedder


def by_wsipipe(backbone: Backbone, file: Path) -> nn.Module:
    return load_embedder(backbone, device="cpu", file=file).model


def by_timm(backbone: Backbone, file: Path) -> nn.Module:
    """As model cards show it, and one tile computed, which ``load_embedder`` does to learn the width."""
    model = backbone.build("cpu")  # timm's create_model, and a head if it has one
    model.load_state_dict(load_file(file))
    side = backbone.crop or backbone.resize
    with torch.inference_mode():
        model(torch.zeros(1, 3, side, side))
    return model


WAYS = {"wsipipe": by_wsipipe, "timm": by_timm}


def seconds_and_bits(way: str, backbone: Backbone, file: Path) -> tuple[float, str]:
    begin = time.perf_counter()
    model = WAYS[way](backbone, file)
    seconds = time.perf_counter() - begin
    digest = hashlib.sha256()
    for _, tensor in sorted(model.state_dict().items()):
        digest.update(tensor.contiguous().numpy().tobytes())
    return seconds, digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="uni")
    parser.add_argument("--folder", type=Path, help="for the file of weights; a temporary one by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FILE"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    backbone = find_backbone(asked.backbone)
    if asked.one:
        way, file = asked.one
        print(json.dumps(seconds_and_bits(way, backbone, Path(file))))
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        file = Path(folder) / "weights.safetensors"
        save_file(backbone.build("cpu").state_dict(), file)
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        bits = set()
        for _ in range(asked.rounds):
            for way in WAYS:
                command = [sys.executable, __file__, "--backbone", asked.backbone, "--one", way, str(file)]
                its, digest = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                seconds[way].append(its)
                bits.add(digest)
    assert len(bits) == 1, "the two ways give other tensors"
    median = {way: statistics.median(its) for way, its in seconds.items()}
    print(f"{asked.backbone}, {torch.get_num_threads()} threads, medians of {asked.rounds} rounds")
    for way, its in median.items():
        print(f"{way:8} {its:6.2f} s   ({min(seconds[way]):.2f} to {max(seconds[way]):.2f})")
    print(f"timm takes {median['timm'] / median['wsipipe']:.1f} times as long")


if __name__ == "__main__":
    main()
