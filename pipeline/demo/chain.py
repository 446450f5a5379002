"""``wsipipe demo``: makes a small synthetic cohort and runs the whole chain on it.

The cohort is incomplete on purpose, like a real one: one slide is broken, some patients lack RNA or a usable label.
"""

from __future__ import annotations

import time
from pathlib import Path

from ...data.errors import SurroundingsError
from .. import chain
from ..biomarkers import training
from ..config import Config, parse
from ..console import Console, clock
from ..results import Summary
from ..run.runner import Runner
from .cohort import DemoCohort, make_cohort

BIOMARKER = "her2"


def run_demo(folder: Path, console: Console) -> None:
    """Make the cohort in ``folder`` (or use the one there), run the chain, and print the results.

    :raises SurroundingsError: anything failed beside the slide that is broken on purpose.
    """
    begin = time.monotonic()
    console.heading("a small synthetic cohort")
    cohort = make_cohort(folder / "cohort")
    console.note(f"{cohort.slides.parent} ({clock(time.monotonic() - begin)})")
    config = demo_config(folder / "work", cohort)
    runner = Runner(config.workspace, console)
    summaries, result = chain.everything(config, runner)
    console.summaries(summaries)
    training.show_metrics(console, result["models"])
    for predictions in result["predictions"].values():
        chain.show_predictions(console, predictions)
    _refuse_other_failures(summaries, cohort.broken_slide)
    recomputed = sum(s.done + s.empty for s in summaries)
    seconds = time.monotonic() - begin
    if not recomputed:
        console.line("nothing was recomputed: everything was done before")
    console.line(f"{cohort.broken_slide} is broken on purpose: a failed slide never stops the others")
    console.line(f"done in {clock(seconds)}")
    model = result["models"][BIOMARKER]
    console.result(
        {
            **{name: model[name] for name in ("auc", "auc_low", "auc_high", "n_patients", "report")},
            "workspace": str(config.workspace),
            **{name: value for name, value in result["predictions"][BIOMARKER].items() if name != "report"},
            "predictions_report": result["predictions"][BIOMARKER]["report"],
            "planted_failure": cohort.broken_slide,
            "recomputed": recomputed,
            "seconds": round(seconds, 1),
            "stages": [summary.to_json() for summary in summaries],
        }
    )


def demo_config(workspace: Path, cohort: DemoCohort) -> Config:
    """The demo's settings: a smaller network and fewer epochs than the defaults, for two cores and a few minutes."""
    return parse(
        {
            "workspace": workspace,
            "cohort": {"slides": [cohort.slides], "table": cohort.table},
            "extract": {"device": "cpu"},
            "genomics": {"matrix": cohort.expression},
            "split": {"folds": 4},
            "train": {
                "hidden": 128,
                "shared": 32,
                "slots": 8,
                "genes": 64,
                "epochs": 20,
                "patience": 8,
                "device": "cpu",
            },
            "predict": {"slides": [cohort.new_slides], "device": "cpu"},
            "biomarkers": {
                BIOMARKER: {
                    "label_column": cohort.label_column,
                    "positive": [cohort.positive],
                    "negative": [cohort.negative],
                }
            },
        }
    )


def _refuse_other_failures(summaries: list[Summary], planted: str) -> None:
    """Check that the slide that is broken on purpose failed, and nothing else."""
    failed = [(summary.stage, failure.item) for summary in summaries for failure in summary.failures]
    if failed != [("tile", planted)]:
        raise SurroundingsError(
            f"expected {planted} alone to fail in tile, but saw "
            + (", ".join(f"{item} in {stage}" for stage, item in failed) or "no failure"),
            hint="run it again with --debug; see the messages above",
        )
