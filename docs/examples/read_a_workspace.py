"""Reads a finished workspace: what is done, a slide's features, and which of its tiles a model looks at.

python read_a_workspace.py wsipipe.toml
"""

from __future__ import annotations

import sys
from pathlib import Path

import wsipipe


def main(settings: Path) -> None:
    """Read the workspace that a settings file names."""
    config = wsipipe.load_config(settings)
    workspace = config.workspace

    # The same call as `wsipipe train`: what is up to date is not done again.
    for summary in wsipipe.train(config):
        print(f"{summary.stage}: {summary.done} done, {summary.before} before, {len(summary.failures)} failed")

    # Every attempt at every slide is a record, with its settings, inputs, outputs and figures.
    stores = sorted((workspace / "features").glob("*/*/*.zarr"))
    done = [record for record in wsipipe.Manifest.of(stores[0].parent).records() if record.status == "done"]
    print(f"{len(done)} records of slides with features in {stores[0].parent.relative_to(workspace)}")

    # A slide: one row a tile.
    bag = wsipipe.read_bag(stores[0])
    print(f"{bag.slide_id}: {len(bag.features)} tiles of {bag.facts.mpp:g} µm per pixel, by {bag.facts.backbone}")

    # A model of one fold, and what it says of the slide; the logit is at even prevalence.
    name = next(iter(config.biomarkers))
    fold = workspace / "models" / name / "fold-0"
    reading = wsipipe.read_bundle(fold).read(bag, stores[0])
    print(f"{name}: logit {float(reading.logit):+.3f}")
    for tile in reading.attention.argsort()[::-1][:3]:
        x, y = bag.coords[tile]
        print(f"  attention {reading.attention[tile]:.3f} at x {x}, y {y}")

    # The out-of-fold predictions as a frame.
    patients = wsipipe.read_predictions(fold.parent)
    right = (patients["call"] == patients["label"]).mean()
    print(
        f"{len(patients)} patients, each predicted by the fold that was not trained on them; {right:.0%} called rightly"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
