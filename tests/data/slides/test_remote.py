"""Slides by URL: from an S3 server and an HTTP server with ranges, both on loopback, which may break off."""

from __future__ import annotations

import builtins
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from command import told, wsipipe
from new_slides import Clinic
from wsipipe.data.errors import SlideError, UsageError
from wsipipe.data.manifest import Manifest
from wsipipe.data.plain_files import url_of
from wsipipe.data.slides.remote import FOLDER, list_remote, remote_files
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


class Server(ThreadingHTTPServer):
    """Serves files, by ranges; some answers break off."""

    daemon_threads = True

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.tags: dict[str, str | None] = {}
        self.to_break: dict[str, int] = {}
        """Path → how many of its next answers break off in the middle."""
        self.broken = 0
        super().__init__(("127.0.0.1", 0), _Handler)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"

    def put(self, name: str, content: bytes, tag: str | None = "one") -> str:
        self.files[f"/{name}"], self.tags[f"/{name}"] = content, tag
        return self.url(name)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        content = self.server.files.get(path)
        if content is None:
            self.send_error(404)
            return
        begin, end = 0, len(content)
        asked = self.headers.get("Range")
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last or end - 1) + 1, end)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - begin))
        if tag := self.server.tags[path]:
            self.send_header("ETag", f'"{tag}"')
        self.end_headers()
        if not body:
            return
        if self.server.to_break.get(path, 0) > 0:
            self.server.to_break[path] -= 1
            self.server.broken += 1
            self.wfile.write(content[begin : (begin + end) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.wfile.write(content[begin:end])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


@pytest.fixture
def clinic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clinic:
    monkeypatch.chdir(tmp_path)
    return Clinic(tmp_path)


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
    [stub] = list_remote(url, tmp_path / "work", frozenset({".svs"}))
    server.put("a.svs", server.files["/a.svs"], tag="two")
    with (
        SlideCopier(tmp_path / "scratch", [stub]) as copier,
        pytest.raises(SlideError, match="has changed since"),
    ):
        copier.slides.at_hand(stub)


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


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket ``scans`` of a server on loopback, found by the usual environment."""
    s3fs = pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    serving = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    serving.start()
    host, port = serving.get_host_and_port()
    urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()  # what earlier ones held
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem(skip_instance_cache=True)
    system.mkdir("scans")
    yield system
    s3fs.S3FileSystem.clear_instance_cache()
    serving.stop()


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
        [stub] = list_remote(given, clinic.folder / given[-4:], frozenset({".mrxs", ".svs"}))
        with SlideCopier(clinic.folder / "scratch", [stub]) as copier:
            copy = copier.slides.at_hand(stub)
            assert copy.read_bytes() == b"index"
            assert (copy.with_suffix("") / "Data0000.dat").read_bytes() == b"data" * 1000


def test_a_bucket_without_slides_says_so(clinic: Clinic, bucket: Any) -> None:
    bucket.pipe("scans/notes.txt", b"no slide")
    with pytest.raises(UsageError, match="no slides there"):
        list_remote("s3://scans", clinic.folder, frozenset({".svs"}))
