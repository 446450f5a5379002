"""``wsipipe view`` as a process: its address, its end by Ctrl-C, and what it refuses."""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from command import wsipipe
from own_process import PATIENCE, Ended, end_what_runs, forked
from viewed_workspace import Viewed


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    end_what_runs()


def first_line(file: Path) -> str:
    """The first whole line that a process writes."""
    for _ in range(10 * PATIENCE):
        text = file.read_text() if file.exists() else ""
        if "\n" in text:
            return text.splitlines()[0]
        time.sleep(0.1)
    raise AssertionError(f"nothing in {file}")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_with_exit_code_0(viewed: Viewed, tmp_path: Path, sent: signal.Signals) -> None:
    here = tmp_path / "here"
    here.mkdir()
    running = forked(here, "view", viewed.workspace, "--no-browser", "--json")
    said = json.loads(first_line(tmp_path / "streams-0" / "out"))
    assert said["workspace"] == str(viewed.workspace)
    address = urlsplit(said["address"])
    assert address.hostname == "127.0.0.1"
    with closing(http.client.HTTPConnection("127.0.0.1", address.port or 0, timeout=PATIENCE)) as connection:
        connection.request("GET", f"/?{address.query}")
        answer = connection.getresponse()
        assert (answer.status, b"wsipipe view" in answer.read()) == (200, True)
        os.kill(running.pid, sent)  # while the browser's connection is still open
        ended: Ended = running.ended()
    assert (ended.code, len(ended.out.splitlines())) == (0, 1)
    assert "Traceback" not in ended.err
    assert list(here.iterdir()) == []


def test_others_can_reach_it_only_with_a_warning(viewed: Viewed, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    running = forked(here, "view", viewed.workspace, "--host", "0.0.0.0", "--no-browser")
    line = first_line(tmp_path / "streams-0" / "out")
    assert line.startswith("the viewer of ")
    assert "?token=" in line
    os.kill(running.pid, signal.SIGINT)
    ended = running.ended()
    assert ended.code == 0
    assert "whoever can reach 0.0.0.0" in ended.err
    assert "ssh -L" in " ".join(ended.err.split())


def test_what_cannot_be_served_is_wrong_usage(viewed: Viewed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = wsipipe("view", tmp_path / "nothing", "--no-browser")
    assert (missing.exit_code, "there is no such workspace" in missing.output) == (2, True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = wsipipe("view", viewed.workspace, "--no-browser", "--port", taken.getsockname()[1])
    assert (busy.exit_code, "cannot listen on 127.0.0.1 port" in busy.output) == (2, True)
    other = wsipipe("view", viewed.workspace, "--no-browser", "--host", "host.invalid")
    assert (other.exit_code, "cannot listen on host.invalid" in other.output) == (2, True)
    assert wsipipe("view", viewed.workspace, "--port", "70000").exit_code == 2

    def not_installed(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("wsipipe.pipeline.view.browser_files.distribution", not_installed)
    without = wsipipe("view", viewed.workspace, "--no-browser")
    assert (without.exit_code, "wsipipe-momkd[view]" in without.output) == (2, True)


def test_the_workspace_of_the_settings_file_is_taken_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wsipipe.toml").write_text('workspace = "results"\n')
    result = wsipipe("view", "--no-browser")
    assert (result.exit_code, "results: there is no such workspace" in result.output) == (2, True)
