"""A question of survival, from the split to a model, its evaluation and a comparison."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from command import wsipipe
from planted_workspace import Planted
from task_workspace import Asked, plant_task
from wsipipe.data.errors import UsageError
from wsipipe.pipeline.config import load_config

QUESTION = """task = "survival"
        time_column = "months"
        event_column = "died\""""


def of_follow_ups(number: int = 36, seed: int = 3) -> list[Asked]:
    """A stronger signal goes with an earlier event; the follow-up of some patients ends before it."""
    draw = np.random.default_rng(seed)
    signals = draw.uniform(0, 3, number)
    times, ends = 30 / np.exp(signals) * draw.uniform(0.8, 1.25, number), draw.uniform(2, 40, number)
    rows = zip(signals, times, ends, strict=True)
    return [Asked({"months": f"{min(t, e):.2f}", "died": str(int(t <= e))}, float(s)) for s, t, e in rows]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant_task(tmp_path_factory.mktemp("survival"), of_follow_ups(), QUESTION, epochs=4)


@pytest.mark.parametrize("method", ["abmil", "transmil", "mean"])
def test_every_method_that_can_learns_survival(planted: Planted, method: str) -> None:
    trained = wsipipe("train", "-c", planted.settings, "--replace", "--method", method)
    assert trained.exit_code == 0, trained.output
    events = sum(one.columns["died"] == "1" for one in of_follow_ups())
    assert f"36 patients, {events} with the event, {36 - events} censored" in trained.output
    with (planted.model / "oof_predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row, one in zip(rows, of_follow_ups(), strict=True):
        kind = "event" if one.columns["died"] == "1" else "censored"
        assert row["label"] == f"{kind} at {float(one.columns['months'])!r}"
        assert -4 <= float(row["risk"]) <= 0
        assert int(row["call"]) == (float(row["risk"]) >= float(row["threshold"]))
    metrics = json.loads((planted.model / "metrics.json").read_text())["pooled"]
    assert list(metrics["figures"]) == ["C-index (Harrell)", "C-index (Uno)"]
    if method == "mean":
        assert metrics["figures"]["C-index (Harrell)"]["value"] > 0.6
    assert "log-rank p" in (planted.model / "report.html").read_text()


def test_another_cohort_and_a_comparison(planted: Planted, tmp_path: Path) -> None:
    assert wsipipe("train", "-c", planted.settings, "--replace", "--method", "mean").exit_code == 0
    other = plant_task(tmp_path / "other", of_follow_ups(20, 5), QUESTION, seed=1, first=500, rna=False)
    words = ("--model", planted.model, "--table", other.folder / "cohort.csv", "-w", other.workspace)
    judged = wsipipe("evaluate", *words, "--device", "cpu")
    assert judged.exit_code == 0, judged.output
    metrics = json.loads((other.workspace / "evaluations/er/metrics.json").read_text())["pooled"]
    assert metrics["figures"]["C-index (Harrell)"]["value"] > 0.6
    table = other.folder / "renamed.csv"
    table.write_text((other.folder / "cohort.csv").read_text().replace("months,died", "follow_up,death", 1))
    renamed = (
        "--model",
        planted.model,
        "--table",
        table,
        "-w",
        other.workspace,
        "--device",
        "cpu",
        "--name",
        "renamed",
    )
    columns = ("--time-column", "follow_up", "--event-column", "death")
    assert wsipipe("evaluate", "--device", "cpu", *renamed, *columns).exit_code == 0
    assert json.loads((other.workspace / "evaluations/renamed/metrics.json").read_text())["pooled"] == metrics
    for flags, wrong in (
        (["--label-column", "death"], "labels are in two columns"),
        (["--classes", "a", "--classes", "b"], "classes are for task multiclass or ordinal"),
        (["--prevalence", "0.2"], "a prevalence is of two classes"),
    ):
        refused = wsipipe("evaluate", *renamed[:-1], "refused", *flags)
        assert refused.exit_code == 2
        assert wrong in " ".join(refused.output.split())
    for command in ("train", "compare"):
        refused = wsipipe(command, "-c", planted.settings, "--prevalence", "0.2")
        assert refused.exit_code == 2
        assert "the question of er is survival" in " ".join(refused.output.split())
    compared = wsipipe("compare", "-c", planted.settings, "--methods", "mean", "--epochs", "1")
    assert compared.exit_code == 0, compared.output
    with (planted.workspace / "comparisons/er/comparison.csv").open(newline="") as stream:
        assert [row["method"] for row in csv.DictReader(stream)] == ["abmil", "mean"]


@pytest.mark.parametrize(
    ("months", "died", "wrong"),
    [
        ("-3", "1", "times cannot be negative"),
        ("soon", "1", "is no number"),
        ("3", "2", "an event is 1 where it happened, and 0 where the patient was censored"),
        ("3", "perhaps", "an event is 1"),
    ],
)
def test_follow_ups_that_make_no_sense(planted: Planted, tmp_path: Path, months: str, died: str, wrong: str) -> None:
    copy = planted.copied(tmp_path / "copy")
    lines = (planted.folder / "cohort.csv").read_text().splitlines()
    lines[1] = ",".join([*lines[1].split(",")[:2], months, died])
    (copy.folder / "cohort.csv").write_text("\n".join(lines))
    refused = wsipipe("train", "-c", copy.settings, "--replace", "--method", "mean")
    assert refused.exit_code == 1
    assert wrong in " ".join(refused.output.split())


def test_nobody_with_an_event_and_questions_that_make_no_sense(planted: Planted, tmp_path: Path) -> None:
    copy = planted.copied(tmp_path / "copy")
    lines = (planted.folder / "cohort.csv").read_text().splitlines()
    (copy.folder / "cohort.csv").write_text(
        "\n".join([lines[0], *(line.rsplit(",", 1)[0] + ",0" for line in lines[1:])])
    )
    assert "no patient has an event" in wsipipe("train", "-c", copy.settings, "--replace", "--method", "mean").output
    for given, wrong in (
        ({"task": "survival", "label_column": "x"}, "needs time_column and event_column"),
        ({"label_column": "x", "event_column": "died"}, "are for task survival"),
    ):
        with pytest.raises(UsageError, match=wrong):
            load_config(None, {"biomarkers": {"er": given}})
    refused = wsipipe("train", "-c", planted.settings, "--replace")
    assert "momkd cannot answer a survival question: its memory has slots for classes" in " ".join(
        refused.output.split()
    )
