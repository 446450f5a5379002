"""``wsipipe doctor`` on a GPU: kernels, memory, and numbers like the CPU's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command import wsipipe
from measured_figures import Figure

pytestmark = pytest.mark.gpu


def test_the_device_computes_what_the_cpu_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: torch.device, figure: Figure
) -> None:
    monkeypatch.chdir(tmp_path)
    result = wsipipe("doctor", "--device", device, "--timeout", 600, "--json")
    report = json.loads(result.stdout)
    rows = {row["name"]: row for row in report["checks"] if row["device"] == str(device)}
    assert rows["kernels and memory"]["state"] in ("ok", "warning"), rows
    passes = rows["forward and backward"]
    assert passes["state"] == "ok", json.dumps(passes)
    assert passes["figures"]["forward"] < 1e-3
    assert passes["figures"]["backward"] < 1e-3
    assert rows["every stage"]["state"] == "ok", json.dumps(rows["every stage"])
    figure("doctor: forward and backward against the CPU", **passes["figures"])
    for row in report["checks"]:
        assert row["group"] != "GPU driver" or row["state"] == "ok", row
