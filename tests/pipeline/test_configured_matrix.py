"""RNA that is configured teaches: where it cannot be read, training stops, unless it was asked to go without."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command import wsipipe
from planted_workspace import Planted, make_patients, plant


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant(tmp_path_factory.mktemp("made") / "lab", make_patients(20))


@pytest.fixture
def planted(made: Planted, tmp_path: Path) -> Planted:
    return made.copied(tmp_path / "lab")


def said(planted: Planted, *words: str, code: int) -> str:
    result = wsipipe(*words, "-c", planted.settings, *(["--epochs", "1"] if words[0] == "train" else []))
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.mark.parametrize("fault", ["unreadable", "gone", "never read"])
def test_training_stops_without_the_configured_matrix(planted: Planted, fault: str) -> None:
    shutil.rmtree(planted.workspace / "genomics")
    if fault == "unreadable":
        (planted.folder / "rna.csv").write_text("gene,P00,P01\nGENE00,high,low\nGENE01,low,high\n")
        said(planted, "genomics", code=1)
    elif fault == "gone":
        (planted.folder / "rna.csv").unlink()
        assert wsipipe("genomics", "-c", planted.settings).exit_code in (1, 2)
    for command in ("train", "compare"):
        output = said(planted, command, code=1)
        assert "expression matrix" in output
        assert "--no-use-rna" in output
        assert "AUC" not in output
    assert not list((planted.workspace / "models").glob("*/metrics.json"))
    assert "AUC" in said(planted, "train", "--no-use-rna", code=0)


def test_a_matrix_given_on_the_command_line_counts_too(planted: Planted) -> None:
    shutil.rmtree(planted.workspace / "genomics")
    text = planted.settings.read_text()
    head, _, tail = text.partition("[genomics]")
    planted.settings.write_text(head + tail[tail.index("[") :])  # the settings name no matrix
    (planted.folder / "bad.csv").write_text("gene,P00,P01\nGENE00,high,low\nGENE01,low,high\n")
    assert wsipipe("genomics", planted.folder / "bad.csv", "-c", planted.settings).exit_code == 1
    assert "the expression matrix could not be read" in said(planted, "train", code=1)
    shutil.rmtree(planted.workspace / "genomics")  # as if nobody had ever had RNA
    assert "on histology alone" in said(planted, "train", code=0)
