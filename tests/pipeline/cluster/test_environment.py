"""A worker whose environment differs from the client's gets no work, and the run says where and what."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("distributed")

from command import wsipipe
from copied_texts import took, write
from dask_cluster import copy_there, one_more_worker, small_cluster
from wsipipe.data.errors import SurroundingsError


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A scheduler that has no worker yet."""
    with small_cluster(0) as cluster:
        yield str(cluster.scheduler_address)


def own_mounts(script: str) -> tuple[str, ...]:
    """Words before a command that give it mounts of its own."""
    able = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if os.name != "posix" or able.returncode:
        pytest.skip("no right to mount here")
    return ("unshare", "-m", "sh", "-c", f'{script} && exec "$@"', "sh")


def test_other_versions_end_the_run_before_any_work(tmp_path: Path, address: str) -> None:
    write(tmp_path, a="apple")
    other = tmp_path / "other" / "torch-0.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 0.9\n")
    path = os.pathsep.join([str(other.parent), os.environ.get("PYTHONPATH", "")])
    with (
        one_more_worker(address, environment={"PYTHONPATH": path}),
        pytest.raises(SurroundingsError, match=r"^worker 127\.0\.0\.1 odd: torch 0\.9 \(here \d"),
    ):
        copy_there(tmp_path, address)
    assert took(tmp_path) == []


@pytest.mark.parametrize(
    ("mounts", "what"),
    [
        ("mount -t tmpfs none {place}/work", "{place}/work is another folder there than here"),
        (
            "mount -t tmpfs none {place} && mkdir {place}/texts && echo -n apple > {place}/texts/a.txt",
            "the workspace {place}/work is not there",
        ),
        ("mount -t tmpfs none {place}/texts", "{place}/texts/a.txt is not there"),
        ("mount -o bind,ro {place}/work {place}/work", "the workspace {place}/work cannot be written to"),
        ("mount --bind {place}/other/a.txt {place}/texts/a.txt", "{place}/texts/a.txt is another file there than here"),
    ],
)
def test_other_folders_end_the_run_before_any_work(tmp_path: Path, address: str, mounts: str, what: str) -> None:
    write(tmp_path, a="apple")
    (tmp_path / "work").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("another apple")
    before = own_mounts(mounts.format(place=tmp_path))
    with one_more_worker(address, before=before), pytest.raises(SurroundingsError) as refused:
        copy_there(tmp_path, address)
    assert str(refused.value) == f"worker 127.0.0.1 odd: {what.format(place=tmp_path)}"
    assert took(tmp_path) == []


def test_without_workers_the_run_ends_and_says_for_how_long_there_was_none(tmp_path: Path, address: str) -> None:
    write(tmp_path, a="apple")
    summary = copy_there(tmp_path, address, wait=0.01)
    assert summary.failures[0].message == "not tried, because no worker is left: there was none for 0.01 min"
    assert summary.failures[0].retry


def test_the_command_lists_the_workers(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with one_more_worker(address):
        [worker] = json.loads(wsipipe("cluster", "--dask", address, "--json").stdout)["workers"]
    assert (worker["name"], worker["cores"], worker["gpus"], worker["differences"]) == ("127.0.0.1 odd", 1, 0, [])


def test_a_scheduler_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, a="apple")
    with pytest.raises(SurroundingsError, match=r"the Dask scheduler tcp://127\.0\.0\.1:9 does not answer"):
        copy_there(tmp_path, "tcp://127.0.0.1:9")
