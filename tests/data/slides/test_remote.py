"""Slides by URL: from an S3 server and an HTTP server with ranges, both on loopback, which may break off."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
from command import told, wsipipe
from new_slides import Clinic
from web_server import Server
from wsipipe.data.errors import SlideError, UsageError
from wsipipe.data.manifest import Manifest
from wsipipe.data.plain_files import url_of
from wsipipe.data.slides.remote import FOLDER, remote_files
from wsipipe.data.slides.remote_finding import find_remote
from wsipipe.data.slides.staging import SlideCopier

TILES = "tiles/0.5mpp-224px"


@pytest.mark.parametrize(
    ("path", "url"),
    [
        (Path("s3://bucket/a b.svs"), "s3://bucket/a b.svs"),
        ("https://host:8080/x/y.svs?token=1", "https://host:8080/x/y.svs?token=1"),
        (Path("gs://b/c"), "gs://b/c"),
        (Path("s3/a.svs"), None),
        (Path("/data/s3:/a"), None),
        ("C:/slides", None),
        ("s3:", None),
    ],
)
def test_what_is_a_url(path: Path | str, url: str | None) -> None:
    assert url_of(path) == url


def outputs(workspace: Path) -> dict[str, dict[str, str]]:
    latest = Manifest.of(workspace / TILES).latest("tile")
    return {item: {name: output.digest for name, output in r.outputs.items()} for item, r in latest.items()}


def test_a_slide_by_url_is_tiled_and_extracted_as_the_file_is(clinic: Clinic, server: Server) -> None:
    url = server.put("scans/a.svs", clinic.slide("a").read_bytes())
    wsipipe("tile", "slides", "-w", "local", "--workers", 1)
    assert told("tile", url, "-w", "work", "--workers", 1)["tile"]["done"] == 1
    assert outputs(clinic.folder / "work") == outputs(clinic.folder / "local")
    assert told("extract", "-w", "work", "--device", "cpu")["extract"]["done"] == 1
    again = told("tile", url, "-w", "work")["tile"]
    assert (again["done"], again["before"]) == (0, 1)
    [stub] = (clinic.folder / "work" / FOLDER).rglob("*.svs")
    assert [file.url for file in remote_files(stub) or ()] == [url]
    assert stub.stat().st_size < 1000
    assert not list((clinic.folder / "work/partial/staging").iterdir())
    server.put("scans/a.svs", clinic.slide("a", seed=5).read_bytes(), tag="two")
    assert told("tile", url, "-w", "work")["tile"]["done"] == 1  # another ETag is another slide
    status = json.loads(wsipipe("status", "-w", "work", "--json").stdout)["items"]
    assert {(item["stage"], item["state"]) for item in status} == {
        ("tile", "done"), ("index", "done"), ("extract", "stale"),
    }  # fmt: skip


def test_a_download_that_breaks_off_is_tried_again(clinic: Clinic, server: Server) -> None:
    url = server.put("a.svs", clinic.slide("a").read_bytes())
    server.to_break["/a.svs"] = 2
    assert told("tile", url, "-w", "work", "--workers", 1)["tile"]["done"] == 1
    assert server.broken == 2


def test_one_that_always_breaks_off_is_a_failed_slide_that_the_next_run_tries(clinic: Clinic, server: Server) -> None:
    urls = [server.put(f"{name}.svs", clinic.slide(name).read_bytes()) for name in "ab"]
    server.to_break["/a.svs"] = 10**6
    stages = told("tile", *urls, "-w", "work", "--workers", 1, code=1)
    assert (stages["tile"]["done"], len(stages["tile"]["failures"])) == (1, 1)
    [failure] = stages["tile"]["failures"]
    assert failure["item"] == "a"
    assert urls[0] in failure["message"]
    assert failure["retry"]
    server.to_break.clear()
    assert told("tile", *urls, "-w", "work", "--workers", 1)["tile"]["done"] == 1


def test_a_slide_that_changes_while_it_is_copied_is_not_taken(clinic: Clinic, server: Server, tmp_path: Path) -> None:
    url = server.put("a.svs", clinic.slide("a").read_bytes())
    [stub] = find_remote(url, tmp_path / "work", {})
    server.put("a.svs", server.files["/a.svs"], tag="two")
    with (
        SlideCopier(tmp_path / "scratch", [stub]) as copier,
        pytest.raises(SlideError, match="has changed since"),
    ):
        copier.slides.at_hand(stub)


def test_what_is_wrong_with_a_slide_is_said_of_its_url(clinic: Clinic, server: Server) -> None:
    """Not of the file in the workspace that stands for it, which is neither empty nor damaged, nor of its copy."""
    url = server.put("empty.svs", b"")
    [failure] = told("tile", url, "-w", "work", "--workers", 1, code=1)["tile"]["failures"]
    assert failure["message"] == f"{url}: the file is empty (0 bytes)"


def test_what_is_not_there_or_cannot_be_told_apart_is_refused(clinic: Clinic, server: Server) -> None:
    missing = wsipipe("tile", server.url("none.svs"), "-w", "work")
    assert missing.exit_code == 2
    assert "nothing is found there" in missing.output
    untagged = wsipipe("tile", server.put("a.svs", b"x", tag=None), "-w", "work")
    assert untagged.exit_code == 1
    assert "neither an ETag nor the time of the last change" in untagged.output


def test_a_table_may_name_urls(clinic: Clinic, server: Server) -> None:
    url = server.put("somewhere/scan-1.svs", clinic.slide("scan-1").read_bytes())
    (clinic.folder / "cohort.csv").write_text(f"slide_id,patient_id,path\nscan-1,p,{url}\n")
    assert told("tile", "--table", "cohort.csv", "-w", "work", "--workers", 1)["tile"]["done"] == 1


def test_without_the_extra_it_is_said_what_to_install(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    given = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] in ("s3fs", "fsspec"):
            raise ImportError(name)
        return given(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    ended = wsipipe("tile", "s3://bucket/a.svs", "-w", "work")
    assert ended.exit_code == 2
    assert "s3:// needs s3fs, which is not installed" in ended.output
    assert 'pip install "wsipipe-momkd[remote]"' in ended.output


# ----- S3 -----


def test_a_bucket_is_listed_staged_and_identified_by_etag(clinic: Clinic, bucket: Any) -> None:
    for name in "ab":
        bucket.pipe(f"scans/study/{name}.svs", clinic.slide(name).read_bytes())
    bucket.pipe("scans/study/notes.txt", b"no slide")
    wsipipe("tile", "slides", "-w", "local", "--workers", 1)
    stages = told("tile", "s3://scans/study", "-w", "work", "--workers", 2, "--stage-to", "scratch")
    assert stages["tile"]["done"] == 2
    assert outputs(clinic.folder / "work") == outputs(clinic.folder / "local")
    assert told("tile", "s3://scans/study", "-w", "work")["tile"]["before"] == 2
    bucket.pipe("scans/study/b.svs", clinic.slide("b", seed=7).read_bytes())
    assert told("tile", "s3://scans/study/", "-w", "work", "--workers", 1)["tile"]["done"] == 1


def test_the_folder_beside_an_mrxs_comes_with_it(clinic: Clinic, bucket: Any) -> None:
    bucket.pipe("scans/m.mrxs", b"index")
    bucket.pipe("scans/m/Slidedat.ini", b"ini")
    bucket.pipe("scans/m/Data0000.dat", b"data" * 1000)
    for given in ("s3://scans/m.mrxs", "s3://scans"):
        [stub] = find_remote(given, clinic.folder / given[-4:], {})
        with SlideCopier(clinic.folder / "scratch", [stub]) as copier:
            copy = copier.slides.at_hand(stub)
            assert copy.read_bytes() == b"index"
            assert (copy.with_suffix("") / "Data0000.dat").read_bytes() == b"data" * 1000


def test_a_bucket_without_slides_says_so(clinic: Clinic, bucket: Any) -> None:
    bucket.pipe("scans/notes.txt", b"no slide")
    with pytest.raises(UsageError, match="no slides there"):
        find_remote("s3://scans", clinic.folder, {})
