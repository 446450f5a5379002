"""Worker processes: what hangs or crashes falls alone, a device that fails gives its items back, nothing outlives its
parent, and scripts need no ``if __name__ == "__main__"`` guard.

The stage is that of ``copy_stage.py``; what an item does stands in its file.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from copy_stage import StreamError, copy, copy_stage, runs
from wsipipe.data.errors import BundleError, DeviceError, SurroundingsError
from wsipipe.data.manifest import Record
from wsipipe.data.units import Mpp
from wsipipe.pipeline.demo.slides import write_aperio
from wsipipe.pipeline.run.here import run_here
from wsipipe.pipeline.run.outcomes import device_error, explain
from wsipipe.pipeline.run.processes import run_in_processes

TESTS = Path(__file__).resolve().parents[2]


def write(place: Path, **texts: str) -> None:
    (place / "texts").mkdir(exist_ok=True)
    for name, text in texts.items():
        (place / "texts" / f"{name}.txt").write_text(text)


def last(place: Path) -> dict[str, Record]:
    return copy_stage(place).manifest.latest("copy")


def begun(place: Path) -> list[list[str]]:
    """Of each begin of work: the item, the process, the device."""
    calls = place / "calls"
    lines = calls.read_text().splitlines() if calls.exists() else []
    return [(line + " ").split(" ")[1:4] for line in lines if line.startswith("do ")]


def tries(place: Path) -> Counter[str]:
    return Counter(item for item, *_ in begun(place))


# ----- what hangs or crashes falls alone -----


@pytest.mark.parametrize("text", ["hang", "stop"])
def test_an_item_that_hangs_is_killed_alone(tmp_path: Path, text: str) -> None:
    """``b`` is in work beside it when it is killed, and goes on. A stopped process cannot end itself."""
    write(tmp_path, a0=text, a1="nap", b="outlive a0", c="curd")
    summary = copy(tmp_path, workers=2, seconds=4.0)
    assert (summary.done, [failure.item for failure in summary.failures]) == (3, ["a0"])
    assert "given up after" in summary.failures[0].message
    assert tries(tmp_path) == {"a0": 1, "a1": 1, "b": 1, "c": 1}


@pytest.mark.parametrize("text", ["crash", "exit", "die"])
def test_an_item_that_crashes_its_process_fails_alone(tmp_path: Path, text: str) -> None:
    """``b`` is in work beside it when it crashes, and goes on."""
    write(tmp_path, a=f"{text} after b", b="outlive a", c="curd", d="date")
    summary = copy(tmp_path, workers=2)
    assert (summary.done, [failure.item for failure in summary.failures]) == (3, ["a"])
    assert tries(tmp_path) == {"a": 2, "b": 1, "c": 1, "d": 1}  # it is tried once more at the end, alone


def test_many_crashes_and_hangs_leave_every_other_item(tmp_path: Path) -> None:
    texts = {f"t{number:02}": ("fine", "crash", "exit", "fine", "broken")[number % 5] for number in range(10)}
    write(tmp_path, **texts, u="hang")
    summary = copy(tmp_path, workers=3, seconds=3.0)
    bad = sorted(name for name, text in (texts | {"u": "hang"}).items() if text != "fine")
    assert (summary.done, sorted(failure.item for failure in summary.failures)) == (4, bad)
    assert len(last(tmp_path)) == 11


def test_what_a_worker_says_reaches_the_console(tmp_path: Path) -> None:
    class Said(list[str]):
        def advance(self, units: int) -> None: ...

        def say(self, text: str) -> None:
            self.append(text)

    write(tmp_path, a="apple", b="bread")
    stage, said = copy_stage(tmp_path, workers=2), Said()
    results = list(run_in_processes(stage, stage.plan().items, said, []))
    assert sorted(said) == sorted(result.item.id for result in results) == ["a", "b"]


@pytest.mark.parametrize("how", [{"workers": 1}, {"workers": 2}, {"devices": ["left", "right"]}])
def test_an_error_that_ends_a_stream_ends_the_run(tmp_path: Path, how: dict[str, object]) -> None:
    write(tmp_path, a="apple", b="end the stream", c="slow", d="slow")
    with pytest.raises(StreamError, match="no more of this"):
        copy(tmp_path, **how)  # type: ignore[arg-type]
    assert not [pid for _, pid, _ in begun(tmp_path) if int(pid) != os.getpid() and runs(int(pid))]
    assert "b" not in last(tmp_path)


# ----- devices -----


def test_a_device_that_fails_gives_its_items_to_the_others(tmp_path: Path) -> None:
    write(tmp_path, **{f"t{number:02}": "text" * (number + 1) for number in range(17)})
    summary = copy(tmp_path, devices=["good", "bad"])
    assert (summary.done, summary.failures) == (17, ())
    assert tries(tmp_path).total() <= 17 + 3  # three different items are enough to know
    assert len([note for note in summary.notes if note.startswith("bad: given up") and "CUDA error" in note]) <= 1


def test_a_device_that_kills_its_processes_costs_no_item(tmp_path: Path) -> None:
    write(tmp_path, **{f"t{number:02}": "text" for number in range(5)})
    summary = copy(tmp_path, devices=["deadly", "good"])
    assert (summary.done, summary.failures) == (5, ())


def test_a_device_that_fails_at_the_last_item_gives_it_back_to_one_that_has_ended(tmp_path: Path) -> None:
    """An item waits until the other device's process is gone."""
    write(tmp_path, late="outlive early", early="fine")
    summary = copy(tmp_path, devices=["bad", "good"])
    assert (summary.done, summary.failures) == (2, ())


@pytest.mark.parametrize("devices", [["bad"], ["bad-1", "bad-2"]])
def test_without_a_device_that_works_all_items_wait_for_one(tmp_path: Path, devices: list[str]) -> None:
    write(tmp_path, **{f"t{number:02}": "text" for number in range(12)})
    summary = copy(tmp_path, devices=devices)
    assert (summary.done, len(summary.failures)) == (0, 12)
    assert tries(tmp_path).total() <= 3 * len(devices)
    errors = [record.error for record in last(tmp_path).values()]
    assert all(error and error.retry and "CUDA error: an illegal memory access" in error.message for error in errors)
    assert {error.type for error in errors if error} <= {"DeviceError", "SurroundingsError"}
    assert sum("no device is left" in failure.message for failure in summary.failures) >= 12 - 3 * len(devices)
    assert copy(tmp_path, devices=["left", "right"]).done == 12


def test_an_item_at_which_every_device_fails_fails_alone(tmp_path: Path) -> None:
    write(tmp_path, **{f"t{number:02}": "text" for number in range(9)}, p1="poison", p2="poison")
    summary = copy(tmp_path, devices=["left", "right"])
    assert (summary.done, sorted(failure.item for failure in summary.failures)) == (9, ["p1", "p2"])
    assert all("the GPU failed: CUDA error" in failure.message for failure in summary.failures)
    assert tries(tmp_path)["p1"] == tries(tmp_path)["p2"] == 2


def test_a_device_that_failed_once_works_again_in_a_fresh_process(tmp_path: Path) -> None:
    write(tmp_path, **{f"t{number}": "text" for number in range(5)}, h1="hiccup", h2="hiccup", h3="hiccup")
    summary = copy(tmp_path, devices=["left", "right"])
    assert (summary.done, summary.failures) == (8, ())


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "CUDA driver error: unknown error",
        "CUDA unknown error - this may be due to an incorrectly set up environment",
        "HIP error: invalid device function",
        "Triton Error [CUDA]: device kernel image is invalid",
    ],
)
def test_errors_of_a_gpu_are_known_by_torchs_words(message: str) -> None:
    error = device_error(RuntimeError(message))
    assert isinstance(error, DeviceError)
    assert "\n" not in str(error)
    assert explain(RuntimeError(message)).retry


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("CUDA error: of a wrong type"),
        SurroundingsError("the disk is full"),
        BundleError("trained with CUDA error: no"),
    ],
)
def test_other_errors_are_not_a_gpus(error: Exception) -> None:
    assert device_error(error) is None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB)"),
    ],
)
def test_whoever_lacks_memory_the_way_out_is_a_smaller_batch(error: Exception) -> None:
    record = explain(error)
    assert record.message == "not enough memory"
    assert "--batch-size" in record.hint
    assert record.retry


# ----- scripts -----

SCRIPT = f"""
import sys
from pathlib import Path

sys.path.insert(0, {str(TESTS)!r})
from copy_stage import copy

Path("begun").open("a").write("begun\\n")
print("done:", copy(Path("."), workers=2).done)
print("on devices:", copy(Path("."), devices=["left", "right"], repeat=2, replace=True).done)
"""


@pytest.mark.parametrize("way", ["file", "-c", "stdin", "-m", "interactive"])
def test_a_script_without_a_guard_works(tmp_path: Path, way: str) -> None:
    write(tmp_path, a="apple", b="bread", c="curd")
    (tmp_path / "script.py").write_text(SCRIPT)
    words = {"file": ["script.py"], "-c": ["-c", SCRIPT], "stdin": ["-"], "-m": ["-m", "script"], "interactive": ["-i"]}
    done = subprocess.run(
        [sys.executable, *words[way]],
        input=SCRIPT,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert [line for line in done.stdout.splitlines() if line.startswith(("done", "on"))] == [
        "done: 3",
        "on devices: 3",
    ], done.stderr
    assert (tmp_path / "begun").read_text() == "begun\n"  # the script ran once


def test_the_readmes_python_lines_work_as_a_script(tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    pixels = np.random.default_rng(0).normal((200, 110, 170), 30, size=(500, 500, 3)).clip(0, 255).astype(np.uint8)
    write_aperio(tmp_path / "slides" / "slide-1.svs", pixels, mpp=Mpp(0.5))
    code = (TESTS.parent / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    assert "wsipipe.run(config" in code
    (tmp_path / "script.py").write_text(code + "print(bag.features.shape)\n")
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (0, "(4, 1280)\n"), done.stderr
    assert done.stderr.count("tile: 1 slide to do") == 1


def test_a_stage_of_a_script_without_a_guard_is_refused_before_anything_is_recorded(tmp_path: Path) -> None:
    write(tmp_path, a="apple", b="bread")
    source = (TESTS / "copy_stage.py").read_text().replace('if __name__ == "__main__":', "if True:")
    (tmp_path / "script.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "script.py", ".", "2"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 1
    assert "SurroundingsError: the worker processes die as they start" in done.stderr
    assert last(tmp_path) == {}


# ----- the end of the parent -----


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run in a group of its own, that has done ``a`` and whose two workers are busy with ``b`` and ``c``.

    There something hangs and keeps the interpreter's lock.
    """
    write(tmp_path, a="apple", b="hang", c="hang", d="date")
    command = [sys.executable, str(TESTS / "copy_stage.py"), str(tmp_path), "2"]
    with subprocess.Popen(command, start_new_session=True) as process:
        patience = time.monotonic() + 1800
        while tries(tmp_path).keys() != set("abc") or "a" not in last(tmp_path):
            assert time.monotonic() < patience
            assert process.poll() is None
            time.sleep(0.02)
        yield process
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent(
    tmp_path: Path, parent: subprocess.Popen[bytes], group: bool, ending: signal.Signals
) -> None:
    workers = {int(pid) for _, pid, _ in begun(tmp_path)}
    assert len(workers) == 2
    (os.killpg if group else os.kill)(parent.pid, ending)
    assert parent.wait() != 0
    patience = time.monotonic() + 1800
    while any(map(runs, workers)):
        assert time.monotonic() < patience, "orphans go on working"
        time.sleep(0.02)
    assert {item: record.status for item, record in last(tmp_path).items()} == {"a": "done"}
    assert [file.name for file in (tmp_path / "work" / "copies").glob("*.txt")] == ["a.txt"]
    write(tmp_path, b="bread", c="curd")
    assert copy(tmp_path, workers=2).done == 3  # the lock is free


def test_a_run_that_is_closed_leaves_no_worker(tmp_path: Path) -> None:
    write(tmp_path, a="fine after c", b="slow", c="hang")
    stage = copy_stage(tmp_path, workers=3)
    (tmp_path / "work" / "copies").mkdir(parents=True)

    class Nobody:
        def advance(self, units: int) -> None: ...

        def say(self, text: str) -> None: ...

    running = run_in_processes(stage, stage.plan().items, Nobody(), [])
    assert next(running).item.id == "a"
    running.close()
    assert len(begun(tmp_path)) >= 2
    assert not [pid for _, pid, _ in begun(tmp_path) if runs(int(pid))]
    assert [result.item.id for result in run_here(stage, stage.plan().items[:1], Nobody(), [])] == ["a"]
