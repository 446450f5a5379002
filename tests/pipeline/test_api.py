"""The README's Python lines, and that the command line and they are one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wsipipe
from wsipipe.data.errors import UsageError
from wsipipe.data.units import Mpp
from wsipipe.pipeline.demo.slides import write_aperio


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    pixels = np.random.default_rng(0).normal((200, 110, 170), 30, size=(500, 500, 3)).clip(0, 255).astype(np.uint8)
    write_aperio(folder / "slide-1.svs", pixels, mpp=Mpp(0.5))
    (folder / "broken.svs").touch()
    return folder


def test_tile_extract_and_read_from_python(slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = wsipipe.load_config(flags={"workspace": tmp_path / "work", "cohort": {"slides": [str(slides)]}})
    tiled, index, extracted = wsipipe.run(config, "tile", "extract")
    assert (tiled.done, [failure.item for failure in tiled.failures]) == (1, ["broken"])
    assert (index.done, extracted.done, extracted.units) == (1, 1, 4)
    bag = wsipipe.read_bag(tmp_path / "work/features/0.5mpp-224px/efficientnet-lite0/slide-1.zarr")
    assert (bag.features.shape, bag.coords.shape, bag.facts.mpp) == ((4, 1280), (4, 2), 0.5)
    assert [summary.done for summary in wsipipe.run(config, "tile", "extract")] == [0, 0, 0]
    assert capsys.readouterr().out == ""  # a library does not print results


def test_errors_are_the_one_tree(tmp_path: Path) -> None:
    with pytest.raises(wsipipe.WsipipeError, match="no slides are given"):
        wsipipe.run(wsipipe.load_config(flags={"workspace": tmp_path}), "tile")
    with pytest.raises(wsipipe.WsipipeError, match=r"tile.mpp = -1"):
        wsipipe.load_config(flags={"tile": {"mpp": -1}})


def test_every_public_name_is_there() -> None:
    for name in dir(wsipipe):
        assert getattr(wsipipe, name) is not None or name.startswith("__")
    with pytest.raises(AttributeError):
        wsipipe.nothing_of_the_kind  # noqa: B018


def test_a_step_that_there_is_not_is_an_error(tmp_path: Path) -> None:
    config = wsipipe.load_config(flags={"workspace": str(tmp_path / "work")})
    with pytest.raises(UsageError, match=r"no step 'extrct' \(did you mean 'extract'"):
        wsipipe.run(config, "tile", "extrct")  # type: ignore[arg-type]
    assert not (tmp_path / "work").exists()
