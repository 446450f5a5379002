"""``wsipipe doctor`` as a user types it."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from command import wsipipe
from rich.console import Console
from wsipipe.pipeline.doctor.checks import CHECKS
from wsipipe.pipeline.doctor.doctor import Row, _shown
from wsipipe.pipeline.doctor.finding import failed, ok, warning


def test_every_row_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = wsipipe("doctor", "--device", "cpu", "--timeout", 1800, "--json")
    report = json.loads(result.stdout)
    assert [row["name"] for row in report["checks"]] == [check.name for check in CHECKS]
    rows = {row["name"]: row for row in report["checks"]}
    for name in ("Python", "PyTorch", "codecs", "writing", "locks", "forward and backward", "every stage"):
        assert rows[name]["state"] == "ok", rows[name]
    assert {"tile", "extract", "genomics", "train", "predict"} <= rows["every stage"]["figures"]["stages"].keys()
    states = [row["state"] for row in report["checks"]]
    assert (report["failed"], report["warnings"]) == (states.count("failed"), states.count("warning"))
    assert result.exit_code == (1 if report["failed"] else 0)
    assert not any(tmp_path.iterdir())


def test_wrong_settings_and_a_device_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wsipipe.toml").write_text("[tile]\nmmp = 0.5\n")
    result = wsipipe("doctor", "--device", "cuda:99", "--timeout", 1800, "--json")
    assert result.exit_code == 1
    rows = {row["name"]: row for row in json.loads(result.stdout)["checks"]}
    assert rows["settings"]["state"] == "failed"
    assert "did you mean mpp?" in rows["settings"]["found"]
    assert rows["devices"]["state"] == "failed"
    assert "there is no device 'cuda:99' here" in rows["devices"]["found"]
    assert rows["Python"]["state"] == "ok"
    assert "every stage" not in rows


def test_the_last_line_counts_the_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wsipipe.pipeline.doctor.doctor.CHECKS", [check for check in CHECKS if check.name == "Python"])
    lines = wsipipe("doctor", "--device", "cpu").stdout.splitlines()
    assert lines[-2] == ""
    assert re.fullmatch(r"1 check in .+: 0 failed, 0 warnings", lines[-1])


def test_gpu_and_device_together_are_refused() -> None:
    assert wsipipe("doctor", "--device", "cpu", "--gpu", "0").exit_code == 2


@pytest.mark.parametrize("width", [80, 120])
def test_a_row_says_its_state_in_words_and_fits_the_terminal(width: int) -> None:
    found = "something that takes many words to say, " * 5
    for finding, word in (
        (ok(found), "ok"),
        (warning(found, "way out"), "warning"),
        (failed(found, "way out"), "FAILED"),
    ):
        stream = io.StringIO()
        Console(file=stream, width=width).print(_shown(Row("forward and backward", "cpu", finding, 0.1)))
        first, *rest = stream.getvalue().splitlines()
        assert first.startswith(word)
        assert max(map(len, [first, *rest])) <= width
        assert ("→ way out" in rest[-1]) == (word != "ok")
