"""Checks of the installation: a stranger's package of our name, broken codecs, weights that are here or are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from doctor_subject import check_called, subject_in
from safetensors.numpy import save_file
from wsipipe.pipeline.doctor.codecs import STREAMS, codecs, faults
from wsipipe.pipeline.doctor.examiner import Examiner
from wsipipe.pipeline.doctor.finding import Finding
from wsipipe.pipeline.doctor.software import openslide, packages, python, pytorch, wsipipe

GATED = "MahmoodLab/UNI2-h"
KEY = "no-key-of-anybody"


def test_this_installation_is_sound(tmp_path: Path) -> None:
    for check in (python, pytorch, openslide, packages, codecs):
        found = check(subject_in(tmp_path))
        assert found.state == "ok", found
    assert wsipipe(subject_in(tmp_path)).state != "failed"


def test_another_projects_package_of_our_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wsipipe").mkdir()
    (tmp_path / "wsipipe" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    found = wsipipe(subject_in(tmp_path))
    assert found.state == "warning"
    assert f"another project's package of that name lies at {tmp_path / 'wsipipe'}" in found.found
    (tmp_path / "wsipipe-1.2.dist-info").mkdir()
    (tmp_path / "wsipipe-1.2.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: wsipipe\nVersion: 1.2\n")
    found = wsipipe(subject_in(tmp_path))
    assert found.state == "failed"
    assert "wsipipe 1.2" in found.found
    assert "pip uninstall" in found.hint


def test_another_copy_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("__init__.py", "data/version.py", "pipeline/cli.py"):
        (tmp_path / "wsipipe" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "wsipipe" / name).write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    found = wsipipe(subject_in(tmp_path))
    assert found.state == "warning"
    assert "another copy" in found.found


def test_packages_that_do_not_fit_each_other_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when pip was told to ignore what packages ask of each other."""
    made = tmp_path / "anndata-9.0.dist-info"
    made.mkdir()
    asked = "Requires-Dist: pandas<1\nRequires-Dist: numpy>=1\nRequires-Dist: zarr<1; extra == 'old'\n"
    (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: anndata\nVersion: 9.0\n{asked}")
    monkeypatch.syspath_prepend(tmp_path)
    found = packages(subject_in(tmp_path))
    assert found.state == "warning"
    assert found.found == f"anndata needs pandas <1, and {version('pandas')} is there"


@pytest.mark.parametrize("codec", STREAMS)
def test_a_broken_codec_is_named(codec: str) -> None:
    assert not faults(STREAMS)
    stream = STREAMS[codec]
    assert list(faults({**STREAMS, codec: stream[: len(stream) // 2]})) == [codec]


def test_colours_that_are_wrong_are_no_success() -> None:
    other = bytes(16 * 16 * 3)
    assert faults({"none": other}) == {"none": "gives other colours"}


@contextmanager
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch, **variables: str) -> Iterator[Callable[[str], Finding]]:
    """Looks for a backbone's weights in a process of its own: the hub's library reads its variables once."""
    for name in ("HF_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN", "TRANSFORMERS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HF_HOME": str(folder), **variables}.items():
        monkeypatch.setenv(name, value)
    check = replace(check_called("weights"), seconds=600)
    with Examiner() as examiner:
        yield lambda backbone: examiner.run(check, subject_in(folder, backbone=backbone))


def test_weights_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub(tmp_path, monkeypatch, HF_HUB_OFFLINE="1", HF_TOKEN=KEY) as weights:
        found = weights("uni2-h")
        assert found.state == "failed"
        assert "HF_HUB_OFFLINE=1" in found.found
        assert "--weights FILE" in found.hint
        found = weights("unheard-of")
        assert found.state == "failed"
        assert "no backbone is called 'unheard-of'" in found.found
        assert weights("efficientnet-lite0").state == "ok"

        repository = tmp_path / "hub" / f"models--{GATED.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        file = repository / "snapshots" / ("0" * 40) / "model.safetensors"
        file.parent.mkdir(parents=True)
        save_file({"a": np.zeros(1000, np.float32)}, file)
        found = weights("uni2-h")
        assert found.state == "ok", found
        assert found.figures["at"] == "cached"
        assert str(file) in found.found
        file.write_bytes(file.read_bytes()[:2000])  # a download that broke off
        found = weights("uni2-h")
        assert found.state == "failed"
        assert str(file) in found.found


@pytest.mark.parametrize(
    ("variables", "state", "says"),
    [({}, "failed", "nobody is logged in"), ({"HF_TOKEN": KEY}, "warning", "you are logged in")],
)
def test_weights_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], state: str, says: str
) -> None:
    with hub(tmp_path, monkeypatch, **variables) as weights:
        found = weights("uni2-h")
    assert found.state == state, found
    assert says in found.found
    assert found.hint
    assert KEY not in str(found)
