"""A pipe, a socket or a device in the place of a file is refused at once: nobody waits for what comes out of it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command import wsipipe
from external_workspace import model_at
from wsipipe.data.artifact import digest_of, files_of, size_of, stamp
from wsipipe.data.cohort.splits import read_splits
from wsipipe.data.cohort.table import read_clinical, read_cohort
from wsipipe.data.errors import InputError, StoreError, SurroundingsError, UsageError, WsipipeError
from wsipipe.data.interop.hdf5_arrays import read_arrays
from wsipipe.data.interop.qupath_files import annotation_json
from wsipipe.data.manifest import Manifest, OutputRecord
from wsipipe.data.matrices.matrix import read_matrix
from wsipipe.data.molecular.gdc_folder import ENDING
from wsipipe.data.molecular.gene_sets import read_gmt
from wsipipe.data.plain_files import pipe_or_device
from wsipipe.data.slides.dicom_header import read_dicom_header
from wsipipe.data.slides.finding import slide_identity
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.tiling.store import read_tiles
from wsipipe.models.backbones.weights import digest_of_weights
from wsipipe.models.bundle import folds_of, read_bundle
from wsipipe.models.mil.momkd_checkpoint import read_momkd_checkpoint
from wsipipe.pipeline.config import load_config
from wsipipe.stages.lineage import digest_of_model
from wsipipe.stages.train.molecular_data import read_gene_list


@pytest.fixture(autouse=True)
def nobody_waits() -> Iterator[None]:
    """A reader that waits for the pipe fails its test instead of stopping all."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


READERS: dict[str, Callable[[Path], Any]] = {
    "a cohort table": read_cohort,
    "a table of patients": read_clinical,
    "a matrix": read_matrix,
    "gene sets": read_gmt,
    "a gene list": read_gene_list,
    "annotations": annotation_json,
    "coordinates or features": lambda path: read_arrays(path, "coords"),
    "a slide": open_slide,
    "a slide's bytes": slide_identity,
    "tiles": read_tiles,
    "splits": read_splits,
    "weights": digest_of_weights,
    "a checkpoint": read_momkd_checkpoint,
    "a settings file": load_config,
    "a model": folds_of,
    "a digest": digest_of,
    "a stamp": stamp,
    "a size": size_of,
}


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("name", ["pipe.svs", "pipe.safetensors", "pipe.csv.gz", "pipe.h5ad"])
def test_a_pipe_is_refused_by_whoever_reads_it(tmp_path: Path, what: str, name: str) -> None:
    path = pipe(tmp_path / name)
    with pytest.raises(WsipipeError) as caught:
        READERS[what](path)
    assert caught.value.path == str(path)
    assert caught.value.hint
    assert what == "a model" or caught.value.what == "is a pipe, not a file"


def test_sockets_and_devices_are_known_too(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        assert pipe_or_device(tmp_path / "socket") == "a socket"
    (tmp_path / "link").symlink_to("/dev/zero")
    assert pipe_or_device(tmp_path / "link") == "a device"
    with pytest.raises(InputError, match="is a device, not a file"):
        digest_of(tmp_path / "link")
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file", tmp_path / "nothing", tmp_path / "file/below", Path("a\0b")):
        assert pipe_or_device(path) == ""


def test_a_pipe_within_an_output_makes_it_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr/zarr.json").write_text("{}")
    output = OutputRecord(path="a.zarr", bytes=2, digest=digest_of(tmp_path / "a.zarr"))
    assert output.is_whole(tmp_path, check_digest=True)
    pipe(tmp_path / "a.zarr/c")
    assert not output.is_whole(tmp_path)
    with pytest.raises(InputError, match="is a pipe, not a file") as caught:
        files_of(tmp_path / "a.zarr")
    assert caught.value.path == str(tmp_path / "a.zarr/c")


def test_a_manifest_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    manifest = Manifest(pipe(tmp_path / "manifest.jsonl"))
    with pytest.raises(StoreError, match="is a pipe"):
        manifest.records()
    with pytest.raises(UsageError, match="is not a file"), manifest.lock():
        pytest.fail("it was locked")


@pytest.mark.parametrize("file", ["bundle.json", "model.safetensors"])
def test_a_pipe_in_a_model_is_refused(tmp_path: Path, file: str) -> None:
    model = model_at(tmp_path / "her2")
    (model / "fold-0" / file).unlink()
    pipe(model / "fold-0" / file)
    with pytest.raises(WsipipeError, match="is a pipe, not a file"):
        read_bundle(model / "fold-0", torch.device("cpu"))
    if file == "bundle.json":
        assert digest_of_model(model) is None


def test_a_pipe_among_dicom_files_is_no_slide(tmp_path: Path) -> None:
    assert read_dicom_header(pipe(tmp_path / "a.dcm")) is None


def test_commands_end_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = pipe(tmp_path / "pipe.csv")
    gdc = tmp_path / "gdc"
    gdc.mkdir()
    pipe(gdc / f"a{ENDING}")
    pipe(gdc / "gdc_sample_sheet.2024.tsv")
    table = tmp_path / "table.csv"
    table.write_text(f"slide_id,patient_id,path,mpp\nS1,P1,{path},0.5\n")
    for command in (
        ("tile", path),
        ("tile", "--table", path),
        ("tile", "--table", table),
        ("tile", tmp_path, "--annotations", path),
        ("genomics", path),
        ("genomics", gdc),
        ("genomics", table, "--clinical", path),
        ("train", "--table", path, "--label-column", "HER2"),
        ("predict", path, "--model", path),
        ("evaluate", "--model", path, "--table", path),
        ("status", "-c", path),
    ):
        result = wsipipe(*command, "-w", tmp_path / "work")
        assert result.exit_code in (1, 2), (command, result.output)
        assert "unexpected" not in result.stderr, (command, result.stderr)


def test_a_profile_is_not_written_into_a_pipe(tmp_path: Path) -> None:
    from wsipipe.stages.extract.embed_threads import Trace

    with pytest.raises(SurroundingsError, match="cannot be written: it is a pipe"), Trace(pipe(tmp_path / "trace")):
        pytest.fail("it was opened")
