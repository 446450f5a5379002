"""What all tests share: one thread, patient property tests, and the real data where it lies beside the repository."""

import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of this process, before torch reads it, and of all that it starts

import pytest
from hypothesis import settings
from wsipipe.data.allotment import usable_cores

if TYPE_CHECKING:
    from storage import Storage

settings.register_profile("shared-cores", deadline=None)
settings.load_profile("shared-cores")

sys.path.insert(0, str(Path(__file__).parent))  # tests share modules that lie beside them

# A shell that runs the tests in the background lets its children ignore Ctrl-C, and nohup the end of the terminal:
# those that are tested must hear both.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much is run, and options of the tests in ``gpu/``, ``fuzz/`` and ``faults/``."""
    parser.addoption("--long", action="store_true", help="also run the tests that tests/long_round.txt names")
    parser.addoption("--gpu-device", help="device of the tests in tests/gpu; default: the first GPU, and none without")
    parser.addoption("--mutants", type=int, help="damaged files for each reader in tests/fuzz; default: a short round")
    parser.addoption("--gpu-figures", type=Path, help="file for the figures that the tests in tests/gpu measure")
    parser.addoption("--faults", choices=("short", "long"), default="short", help="how many faults tests/faults makes")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: many tests wait for a disk, or for a process that they have started."""
    return usable_cores() + 1


LONGEST = (
    "pipeline/demo/test_demo.py",
    "test_readme.py",
    "pipeline/test_chain.py",
    "stages/compare/test_compare.py",
    "test_real_cohort.py",
    "data/tiling/test_tissue.py",
    "pipeline/test_lineage.py",
    "pipeline/run/test_processes.py",
    "test_docs.py",
    "pipeline/checks/test_verify.py",
    "pipeline/cluster/test_cluster_faults.py",
    "stages/train/test_training_commands.py",
    "pipeline/doctor/test_doctor_command.py",
    "test_house.py",
    "stages/extract/test_extract.py",
    "stages/tile/test_tile_command.py",
    "stages/train/test_training_again.py",
    "stages/encode/test_encode.py",
    "stages/train/test_shared_bags.py",
    "models/training/test_fit.py",
    "models/training/test_resumed_fit.py",
    "pipeline/view/test_answers.py",
    "pipeline/view/test_answers_to_damage.py",
    "fuzz/test_too_much.py",
)
"""The files of tests that take longest, the longest first."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long round unless it is asked for or a file is named, and begin with what takes longest.

    A file is one process's, and the others would wait for it at the end.
    """
    here = Path(__file__).parent
    if not config.getoption("--long") and all(Path(argument).is_dir() for argument in config.args):
        long = {line for line in (here / "long_round.txt").read_text("utf-8").splitlines() if line[:1] != "#"}

        def is_long(item: pytest.Item) -> bool:
            file = item.path.relative_to(here).as_posix()
            return bool(long & {file, f"{file}::{item.name.partition('[')[0]}", f"{file}::{item.name}"})

        left_out = [item for item in items if is_long(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not is_long(item)]
    order = {str(here / file): place for place, file in enumerate(LONGEST)}
    files = {path: (order.get(str(path), len(order)), str(path)) for path in {item.path for item in items}}
    items.sort(key=lambda item: files[item.path])


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let each process begin with other files of a folder.

    All processes read all files, and one that is compiled already is not compiled by the others.
    """
    report = yield
    if isinstance(collector, pytest.Directory):
        number, processes = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)
        first = len(report.result) * int(number.removeprefix("gw")) // int(processes)
        report.result = report.result[first:] + report.result[:first]
    return report


@pytest.fixture(scope="session", autouse=True)
def _one_thread_of_torch() -> None:
    """Loaded here, and not in the process that only hands out the tests."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _server_of_commands() -> None:
    """Before any stage starts workers: a process has one server of forks, and commands would import PyTorch each."""
    if "own_process" in sys.modules:
        sys.modules["own_process"].start_server()


SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real slides, RNA and labels; the test is skipped where it is not."""
    if not SHARED.is_dir():
        pytest.skip("the real data is not here")
    return SHARED


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> "Storage":
    """Storage that fails when the test wants it to, and pauses that take no time."""
    from storage import Storage

    return Storage(monkeypatch)
