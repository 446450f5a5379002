"""How many damaged copies each reader gets: a short round by default, a long one with ``--mutants``."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from trial import Trial, alone, trial
from wsipipe.data import surroundings

SEED: Final = 14
_SHORT_ROUND: Final = 20
_SECONDS_OF_A_SHORT_ROUND: Final = 0.5
"""Processor time a reader: a slow machine tries fewer mutants rather than waiting longer."""


@pytest.fixture
def survives(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trial]:
    """Have a reader read damaged copies of a file; the test fails with all that it did not survive.

    Nothing here is a fault of the storage, so a reader that takes it for one does not wait for it to pass.
    """
    monkeypatch.setattr(surroundings, "PATIENCE", 0.0)
    monkeypatch.setattr(surroundings, "_PATIENCE_WITH_WHAT_IS_GONE", 0.0)
    asked: int | None = request.config.getoption("--mutants")

    def check(reader: Callable[[Path], object], data: bytes, name: str | Path, *, seed: int = SEED) -> Trial:
        """Try ``reader`` on mutants of ``data``, each under ``name`` (a name in the test's folder, or a path)."""
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        reader(path)  # whole, it must be read
        count, seconds = (_SHORT_ROUND, _SECONDS_OF_A_SHORT_ROUND) if asked is None else (asked, float("inf"))
        result = trial(reader, data, path, count=count, seed=seed, seconds=seconds)
        sys.stderr.write(f"{result}\n")  # shown with -rP
        assert not result.findings, result.report()
        assert result.tried
        return result

    return check


@pytest.fixture
def withstands(tmp_path: Path) -> Callable[..., Trial]:
    """Have a reader read one file that is made to be too much; the test fails if it takes too long or too much memory.

    The file itself is under 10 MB.
    """

    def check(reader: Callable[[Path], object], data: bytes, name: str) -> Trial:
        assert len(data) < 10_000_000
        result = alone(reader, data, tmp_path / name)
        assert not result.findings, result.report()
        return result

    return check
