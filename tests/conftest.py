"""What all tests share: one thread, patient property tests, and the real data where it lies beside the repository."""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

if TYPE_CHECKING:
    from storage import Storage

settings.register_profile("shared-cores", deadline=None)
settings.load_profile("shared-cores")
torch.set_num_threads(1)

sys.path.insert(0, str(Path(__file__).parent))  # tests share modules that lie beside them

# A shell that runs the tests in the background lets its children ignore Ctrl-C; those that are tested must hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the tests in ``gpu/``, ``fuzz/`` and ``faults/``."""
    parser.addoption("--gpu-device", help="device of the tests in tests/gpu; default: the first GPU, and none without")
    parser.addoption("--mutants", type=int, help="damaged files for each reader in tests/fuzz; default: a short round")
    parser.addoption("--gpu-figures", type=Path, help="file for the figures that the tests in tests/gpu measure")
    parser.addoption("--faults", choices=("short", "long"), default="short", help="how many faults tests/faults makes")


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
