"""What the tests of faults share: the project, and how thorough they are."""

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from projects import Steps

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    """No command outlives its test."""
    from commands import end_what_runs

    yield
    end_what_runs()


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether the long round was asked for (``--faults long``)."""
    return bool(request.config.getoption("--faults") == "long")


@pytest.fixture(scope="session")
def steps(tmp_path_factory: pytest.TempPathFactory, long: bool, worker_id: str) -> "Steps":
    """The project before each command, and what an undisturbed run comes to: made once for all processes of pytest."""
    from projects import COMMANDS, SHORT, take_steps

    base = tmp_path_factory.getbasetemp()
    place = (base if worker_id == "master" else base.parent) / "faults"
    place.mkdir(exist_ok=True)
    kept = place / "steps.pickle"
    with FileLock(place / ".lock-steps"):
        if not kept.exists():
            kept.write_bytes(pickle.dumps(take_steps(place, tuple(COMMANDS) if long else SHORT)))
        made: Steps = pickle.loads(kept.read_bytes())
    return made
