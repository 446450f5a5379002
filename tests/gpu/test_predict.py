"""From slides to a prediction on a GPU: the whole chain, and the model then read on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from command import told, wsipipe
from measured_figures import Figure
from wsipipe.pipeline.demo.cohort import make_cohort

pytestmark = pytest.mark.gpu


def test_the_chain_and_a_prediction_on_the_device(tmp_path: Path, device: torch.device, figure: Figure) -> None:
    cohort = make_cohort(tmp_path / "cohort", patients=12)
    settings = tmp_path / "wsipipe.toml"
    settings.write_text(
        f"""
        workspace = "{tmp_path / "work"}"
        [cohort]
        slides = ["{cohort.slides}"]
        table = "{cohort.table}"
        [extract]
        device = "{device}"
        [genomics]
        matrix = "{cohort.expression}"
        [split]
        folds = 2
        [train]
        hidden = 16
        shared = 8
        slots = 2
        genes = 16
        epochs = 3
        device = "{device}"
        [predict]
        slides = ["{cohort.new_slides}"]
        device = "{device}"
        [biomarkers.her2]
        label_column = "{cohort.label_column}"
        positive = ["{cohort.positive}"]
        negative = ["{cohort.negative}"]
        """
    )
    result = wsipipe("run", "-c", settings, "--json")
    assert result.exit_code == 1, result.output  # one slide is broken on purpose
    assert '"stages"' in result.stdout, result.output
    stages = {stage["stage"]: stage for stage in json.loads(result.stdout)["stages"]}
    failures = json.dumps({name: stage["failures"] for name, stage in stages.items()})
    assert "predict" in stages, failures
    assert stages["predict"]["done"] == 4, failures
    assert not stages["train"]["failures"], failures
    model = tmp_path / "work/models/her2"
    scores = []
    for name, where in (("there", device), ("here", torch.device("cpu"))):
        work = ["-w", tmp_path / name]
        assert told("predict", cohort.new_slides, "--model", model, "--device", where, *work)["predict"]["done"] == 4
        [table] = (tmp_path / name).rglob("predictions.csv")
        scores.append(pd.read_csv(table).set_index("slide_id")["probability"])
    off = float((scores[0] - scores[1]).abs().max())
    figure("probabilities of new slides against the CPU's", largest_difference=off)
    assert off < 5e-3
