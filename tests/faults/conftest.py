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


SHORT_ROUND = {
    "test_killed_at_any_moment_it_goes_on_to_the_same",
    "test_a_worker_that_is_killed_costs_nothing",
    "test_a_full_disk",
    "test_two_at_once",
    "test_a_last_line_that_is_torn",
    "test_a_line_of_garbage",
    "test_a_reader_that_leaves",
    "test_streams_that_are_not_utf_8",
    "test_two_shards_and_one_run_come_to_the_same",
    "test_shards_that_are_killed_come_to_the_same",
    "test_what_needs_all_shards_of_the_stage_before_says_so",
}
"""What is tried without being asked: the rest takes minutes, and comes with ``--faults long``."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave what takes minutes to the long round."""
    if config.getoption("--faults") == "long":
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and getattr(item, "originalname", "") not in SHORT_ROUND:
            item.add_marker(pytest.mark.skip(reason="in the long round"))


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    """No command outlives its test."""
    from own_process import end_what_runs

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
