"""What is given to others: the wheel and the sdist, and that they run from another folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from wsipipe.data.version import __version__

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("data", "models", "stages", "pipeline")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that no ``build/`` of an earlier day gets into what is built and none is left in the clone."""
    copy = tmp_path_factory.mktemp("clone") / "any name"
    copy.mkdir()
    for name in (*FOLDERS, "tests", "docker", "docs"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.glob("*"):
        if file.is_file():
            shutil.copy(file, copy)
    return copy


def built(source: Path, what: str, out: Path) -> Path:
    """What setuptools builds of a folder."""
    build = f"import sys; from setuptools.build_meta import build_{what}; build_{what}(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", build, str(out)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [file] = out.glob("*")
    return file


@pytest.fixture(scope="module")
def sdist(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    file = built(clone, "sdist", tmp_path_factory.mktemp("sdist"))
    assert file.name == f"wsipipe_momkd-{__version__}.tar.gz"
    home = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(file) as archive:
        archive.extractall(home, filter="data")
    [folder] = home.iterdir()
    return folder


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from the sdist, as installers do: what that lacks, the wheel lacks."""
    file = built(sdist, "wheel", tmp_path_factory.mktemp("wheel"))
    assert file.name.startswith("wsipipe_momkd-")
    return zipfile.ZipFile(file)


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    wanted = {"wsipipe/__init__.py", "wsipipe/py.typed"}
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                wanted.add(f"wsipipe/{file.relative_to(ROOT).as_posix()}")
    assert held == wanted
    assert {
        "wsipipe/models/backbones/backbones.toml",
        "wsipipe/models/slide_encoders/encoders.toml",
        "wsipipe/data/columns.toml",
        "wsipipe/stages/pages/page.css",
    } <= held


def test_the_wheel_brings_command_and_licence(wheel: zipfile.ZipFile) -> None:
    [entry_points] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "wsipipe = wsipipe.pipeline.entry:main" in wheel.read(entry_points).decode()
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())
    [metadata] = [wheel.read(name).decode() for name in wheel.namelist() if name.endswith("METADATA")]
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata


def test_the_sdist_holds_what_the_wheel_is_made_of_and_no_data(sdist: Path) -> None:
    held = {file.relative_to(sdist).parts[0] for file in sdist.rglob("*") if file.is_file()}
    assert not held & {"tests", "docs", "docker"}  # setuptools would take some tests, without what they import
    assert held >= {*FOLDERS, "__init__.py", "py.typed", "pyproject.toml", "README.md", "LICENSE", "constraints.txt"}
    assert sum(file.stat().st_size for file in sdist.rglob("*") if file.is_file()) < 10e6


def test_the_wheel_runs_from_another_folder(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    wheel.extractall(home)
    elsewhere.mkdir()

    def run(*words: str) -> str:
        command = [sys.executable, "-B", "-m", "wsipipe", *words]
        environment = {**os.environ, "PYTHONPATH": str(home)}
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("--version") == f"wsipipe {__version__}\n"
    assert json.loads(run("init", "--json")) == {"file": "wsipipe.toml"}
    assert len(json.loads(run("backbones", "--json"))["backbones"]) > 30
    where = "import wsipipe, sys; sys.stdout.write(wsipipe.__file__)"
    found = subprocess.run([sys.executable, "-c", where], cwd=elsewhere, env={**os.environ, "PYTHONPATH": str(home)},
                           capture_output=True, text=True, check=True)  # fmt: skip
    assert Path(found.stdout).is_relative_to(home)


def test_python_m_wsipipe_is_the_command_with_its_exit_codes() -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "wsipipe", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert "Usage: wsipipe" in run("--help").stdout
    assert run("no-such-command").returncode == 2
