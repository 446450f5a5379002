"""The linear probe on slide vectors answers other questions than the binary one: a grade, a follow-up, several."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command import told, wsipipe
from task_workspace import RECEPTORS, Asked, of_classes, of_receptors, plant_task
from wsipipe.stages.train.cross_validate import read_metrics

VECTORS = "0.5mpp-224px/mean-of-efficientnet-lite0"
GRADES = 'task = "ordinal"\n        label_column = "grade"\n        classes = ["low", "middle", "high"]'
COX = 'task = "survival"\n        time_column = "months"\n        event_column = "died"\n        loss = "cox"'


def follow_ups(n: int = 36) -> list[Asked]:
    """A stronger signal goes with an earlier event; some follow-ups end before it."""
    draw = np.random.default_rng(3)
    signals = draw.uniform(0, 3, n)
    times, ends = 30 / np.exp(signals) * draw.uniform(0.8, 1.25, n), draw.uniform(2, 40, n)
    rows = zip(signals, times, ends, strict=True)
    return [Asked({"months": f"{min(t, e):.2f}", "died": str(int(t <= e))}, float(s)) for s, t, e in rows]


QUESTIONS = {
    "ordinal": (of_classes(["low", "middle", "high"]), GRADES, 0.75),
    "cox": (follow_ups(), COX, 0.7),
    "multitask": (of_receptors(), RECEPTORS, 0.8),
}
"""Task → its patients, its question, and the least that the probe must reach of its main figure."""


@pytest.mark.parametrize("task", QUESTIONS)
def test_the_probe_learns_what_was_planted(tmp_path: Path, task: str) -> None:
    patients, question, least = QUESTIONS[task]
    planted = plant_task(tmp_path / task, patients, question, rna=False)
    told("encode", "-c", planted.settings)
    name = "receptors" if task == "multitask" else "er"
    call = ["train", "-c", planted.settings, "--name", name, "--method", "linear", "--features", VECTORS]
    result = wsipipe(*call)
    assert result.exit_code == 0, result.output
    main = read_metrics(planted.workspace / f"models/{name}/metrics.json").pooled.main
    assert main.value is not None
    assert main.value > least
    bundle = json.loads((planted.workspace / f"models/{name}/fold-0/bundle.json").read_text())
    assert bundle["recipe"]["slide_encoder"] == "mean"
    assert len(bundle["training"]["history"]) == 6  # penalties, chosen on the fold's validation patients
