"""``wsipipe demo``: makes a small synthetic cohort and runs the whole chain on it.

The cohort is incomplete on purpose, like a real one: one slide is broken, some patients lack RNA or a usable label.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Final

from ...data.artifact import whole
from ...data.errors import InputError, SurroundingsError, UsageError
from ...data.json_text import read_bytes
from ...stages.settings import FILE_NAME
from .. import chain
from ..biomarkers import training
from ..config import load_config
from ..console import Console, clock
from ..results import Summary
from ..run.runner import Runner
from .cohort import DemoCohort, make_cohort

BIOMARKER = "her2"
_SMALL: Final = {"hidden": 128, "shared": 32, "slots": 8, "genes": 64, "epochs": 20, "patience": 8}
"""The network, and how long it is trained at most."""


def run_demo(folder: Path, console: Console) -> None:
    """Make the cohort in ``folder`` (or use the one there), run the chain, and print the results.

    :raises SurroundingsError: anything failed beside the slide that is broken on purpose.
    """
    begin = time.monotonic()
    console.heading("a small synthetic cohort")
    cohort = make_cohort(folder / "cohort")
    console.note(f"{cohort.slides.parent} ({clock(time.monotonic() - begin)})")
    write_settings(folder / FILE_NAME, cohort)
    config = load_config(folder / FILE_NAME)
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
    console.line(
        f"the settings are in {folder / FILE_NAME}: `wsipipe run` there continues; change them to your cohort's"
    )
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


def write_settings(file: Path, cohort: DemoCohort) -> None:
    """Write the demo's settings as a file that ``wsipipe run`` goes on with.

    The network is smaller than by default and is trained for fewer epochs: for two cores and a few minutes.

    :raises UsageError: there is a file with other settings.
    """
    text = _settings(file.parent, cohort)
    if not file.exists():
        with whole(file) as scratch:
            scratch.write_text(text, encoding="utf-8")
    elif read_bytes(file, InputError, hint="remove it") != text.encode():
        raise UsageError(
            "holds other settings than the demo's",
            path=file,
            hint="`wsipipe run` in its folder goes on with them; for the demo name another folder, or remove the file",
        )


def _settings(here: Path, cohort: DemoCohort) -> str:
    def quoted(text: str) -> str:
        return json.dumps(text, ensure_ascii=False)

    def path(of: Path) -> str:
        return quoted(of.relative_to(here).as_posix())

    lines = [
        (
            "# The settings of the demo: `wsipipe run` in this folder goes on with its workspace. For a cohort of your",
            "",
        ),
        ("# own copy this file, change what is marked with <-, and remove the sections extract and train: the", ""),
        (
            "# defaults are for real work. `wsipipe init` writes every setting with its meaning. Paths are relative to",
            "",
        ),
        ("# this file.", ""),
        ('workspace = "work"', "<- folder of all results"),
        ("\n[cohort]", ""),
        (f"slides = [{path(cohort.slides)}]", "<- slide files, or folders of slides"),
        (f"table = {path(cohort.table)}", "<- slide_id, patient_id, labels; path, mpp, site where needed"),
        ("\n[genomics]", "leave this section out if there is no RNA"),
        (f"matrix = {path(cohort.expression)}", "<- genes x patients"),
        (f"\n[biomarkers.{BIOMARKER}]", "<- name of the model"),
        (f"label_column = {quoted(cohort.label_column)}", "<- column of the table"),
        (f"positive = [{quoted(cohort.positive)}]", "<- values that mean positive"),
        (
            f"negative = [{quoted(cohort.negative)}]",
            "<- values that mean negative; others are dropped, and counted",
        ),
        ("\n[split]", ""),
        ("folds = 4", ""),
        ("\n[predict]", "leave this section out until there are new slides"),
        (f"slides = [{path(cohort.new_slides)}]", "<- slides of other patients"),
        ('device = "cpu"', ""),
        ("\n[extract]", 'for real work: backbone = "uni2-h"'),
        ('device = "cpu"', ""),
        ("\n[train]", ""),
        *((f"{name} = {value}", "") for name, value in _SMALL.items()),
        ('device = "cpu"', ""),
    ]
    return "".join(f"{f'{setting:<40}# {why}' if why else setting}\n" for setting, why in lines)


def _refuse_other_failures(summaries: list[Summary], planted: str) -> None:
    """Check that the slide that is broken on purpose failed, and nothing else."""
    failed = [(summary.stage, failure.item) for summary in summaries for failure in summary.failures]
    if failed != [("tile", planted)]:
        raise SurroundingsError(
            f"expected {planted} alone to fail in tile, but saw "
            + (", ".join(f"{item} in {stage}" for stage, item in failed) or "no failure"),
            hint="run it again with --debug; see the messages above",
        )
