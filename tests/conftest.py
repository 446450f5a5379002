"""What all tests share: one thread, patient property tests, and the real data where it lies beside the repository."""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of this process, before torch reads it, and of all that it starts

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from storage import Storage

settings.register_profile("shared-cores", deadline=None)
settings.load_profile("shared-cores")

sys.path.insert(0, str(Path(__file__).parent))  # tests share modules that lie beside them

# A shell that runs the tests in the background lets its children ignore Ctrl-C; those that are tested must hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the tests in ``gpu/``, ``fuzz/`` and ``faults/``."""
    parser.addoption("--gpu-device", help="device of the tests in tests/gpu; default: the first GPU, and none without")
    parser.addoption("--mutants", type=int, help="damaged files for each reader in tests/fuzz; default: a short round")
    parser.addoption("--gpu-figures", type=Path, help="file for the figures that the tests in tests/gpu measure")
    parser.addoption("--faults", choices=("short", "long"), default="short", help="how many faults tests/faults makes")


LONGEST = (
    "pipeline/test_chain.py",
    "stages/compare/test_compare.py",
    "test_real_cohort.py",
    "stages/extract/test_extract.py",
    "test_readme.py",
    "pipeline/doctor/test_doctor_command.py",
    "faults/test_kills.py",
    "pipeline/demo/test_demo.py",
    "data/tiling/test_tissue.py",
    "test_house.py",
    "stages/train/test_training_again.py",
    "stages/train/test_choices_in_a_fold.py",
    "stages/tile/test_tile_command.py",
    "stages/predict/test_batches.py",
    "stages/train/test_multitask.py",
    "stages/train/test_training.py",
)
"""The files of tests that take longest, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest: a file is one process's, and the others would wait for it at the end."""
    here = Path(__file__).parent
    order = {here / file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


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
