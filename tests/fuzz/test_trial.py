"""The harness itself finds what it is there to find."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trial as trials
from mutants import mutants
from trial import alone, trial
from wsipipe.data.errors import CohortError

DATA = json.dumps({"numbers": list(range(100)), "name": "slide"}).encode()


def test_the_same_mutants_come_for_the_same_seed() -> None:
    first = list(mutants(DATA, 50, seed=1))
    assert first == list(mutants(DATA, 50, seed=1))
    assert first[:10] == list(mutants(DATA, 10, seed=1))
    assert first != list(mutants(DATA, 50, seed=2))
    assert sum(mutant != DATA for mutant in first) > 45
    assert len(list(mutants(b"", 20, seed=1))) == 20


def _reads(path: Path) -> None:
    path.read_bytes()


def _refuses(path: Path) -> None:
    raise CohortError("damaged", path=path)


def _fails(path: Path) -> None:
    json.loads(path.read_bytes())


def _balloons(path: Path) -> None:
    bytearray(2 << 30)


def _dies(path: Path) -> None:
    os.abort()


def _hangs(path: Path) -> None:
    while True:
        pass


def test_what_is_read_or_refused_is_counted(tmp_path: Path) -> None:
    result = trial(_reads, DATA, tmp_path / "a.json", count=30, seed=1)
    assert (result.tried, result.read, result.findings) == (30, 30, [])
    result = trial(_refuses, DATA, tmp_path / "a.json", count=30, seed=1)
    assert (result.tried, result.refused, result.findings) == (30, {"CohortError": 30}, [])


@pytest.mark.parametrize(
    ("reader", "kind"), [(_fails, "foreign"), (_balloons, "balloon"), (_dies, "death"), (_hangs, "hang")]
)
def test_what_a_reader_does_not_survive_is_found(reader: object, kind: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(trials, "SECONDS", 0.3)
    result = trial(reader, DATA, tmp_path / "a.json", count=3, seed=1)
    assert result.tried == 3
    assert {finding.kind for finding in result.findings} == {kind}
    assert kind in result.report()


def test_a_larger_file_may_take_longer(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(trials, "SECONDS", 0.3)
    monkeypatch.setattr(trials, "SIZE", 1000)

    def takes_its_time(path: Path) -> None:
        end = time.process_time() + 0.5
        while time.process_time() < end:
            pass

    kinds = {size: [finding.kind for finding in alone(takes_its_time, bytes(size), tmp_path / "a").findings]
             for size in (1, 1000, 4000)}  # fmt: skip
    assert kinds == {1: ["hang"], 1000: ["hang"], 4000: []}


def test_files_that_are_made_again_after_a_death_cost_no_reader_its_time(tmp_path: Path) -> None:
    """A new process begins with the file after the one that ended the last, and makes all before it once more."""

    def files() -> Iterator[bytes]:
        for number in range(12):
            end = time.process_time() + 0.1
            while time.process_time() < end:
                pass
            yield bytes([number])

    def dies_once(path: Path) -> None:
        if path.read_bytes() == b"\x08":
            os.abort()

    result = trials._tried(dies_once, files, tmp_path / "a.bin", 12, float("inf"), 0.3)
    assert (result.tried, result.read, [(f.number, f.kind) for f in result.findings]) == (12, 11, [(8, "death")])


def test_a_round_ends_with_its_time(tmp_path: Path) -> None:
    assert 0 < trial(_reads, DATA, tmp_path / "a.json", count=10**9, seed=1, seconds=0.2).tried < 10**6
