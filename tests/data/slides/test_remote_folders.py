"""Slides of several files by URL: they are found, and copied whole, in a bucket and on a server as on a disk."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cloud_servers import AzureHandler, CloudServer, GoogleHandler
from command import told
from dicom_files import dicom
from fsspec import get_filesystem_class
from new_slides import Clinic
from several_files import several_files
from web_server import Server
from wsipipe.data.errors import CohortError, UsageError
from wsipipe.data.manifest import Manifest
from wsipipe.data.slides.finding import find_slides, slide_identity
from wsipipe.data.slides.remote import RemoteFile, remote_files
from wsipipe.data.slides.remote_finding import find_remote
from wsipipe.data.slides.staging import SlideCopier

Put = Callable[[str, bytes], object]
STORES = ("s3", "web", "gs", "az")


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Put]]:
    """A place for files: its URL, and what puts a file there."""
    if request.param == "s3":
        bucket = request.getfixturevalue("bucket")
        yield "s3://scans", lambda name, content: bucket.pipe(f"scans/{name}", content)
    elif request.param == "web":
        server: Server = request.getfixturevalue("server")
        server.lists = True
        yield server.url("scans"), lambda name, content: server.put(f"scans/{name}", content, tag=str(hash(content)))
    else:
        pytest.importorskip({"gs": "gcsfs", "az": "adlfs"}[request.param])
        get_filesystem_class(request.param).clear_instance_cache()  # of the server of the test before
        with CloudServer({"gs": GoogleHandler, "az": AzureHandler}[request.param]) as serving:
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", serving.address)
            account = f"AccountName=account;AccountKey=a2V5;BlobEndpoint={serving.address}/account;"
            monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", account)
            thread = threading.Thread(target=serving.serve_forever, daemon=True)
            thread.start()
            yield f"{request.param}://scans", serving.objects.__setitem__
            serving.shutdown()
            thread.join()


def put_all(folder: Path, put: Put) -> None:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            put(file.relative_to(folder).as_posix(), file.read_bytes())


def copies(stubs: list[Path], place: Path) -> dict[str, tuple[int, str]]:
    """Each slide's name → the identity of its copy."""
    with SlideCopier(place, stubs, 10**9) as copier:
        found = {stub.stem: slide_identity(copier.slides.at_hand(stub)) for stub in stubs}
        for stub in stubs:
            copier.release(stub)
        assert not [path for path in copier.slides.folder.iterdir() if path.name != ".lock"]
    assert not list(place.iterdir())
    return found


def a_lab(folder: Path) -> Path:
    """A folder with slides of all kinds, and with what is no slide."""
    several_files(folder)
    (folder / "one.svs").write_bytes(b"one")
    (folder / "a b.svs").write_bytes(b"a name with a space")
    (folder / "one.jpg").write_bytes(b"its thumbnail")
    (folder / "packed.svs.gz").write_bytes(b"gz")
    (folder / "other.vsi").write_bytes(b"vsi")
    (folder / ".hidden.svs").write_bytes(b"hidden")
    dicom(folder / "deep/1.2.840.113", "a.dcm", "1.2.3")
    dicom(folder / "deep/1.2.840.113", "b.DCM", "1.2.3")
    return folder


def test_a_folder_holds_the_same_slides_as_on_a_disk(tmp_path: Path, store: tuple[str, Put]) -> None:
    url, put = store
    lab = a_lab(tmp_path / "lab")
    put_all(lab, put)
    on_disk, remote = find_slides([lab]), find_slides([url], tmp_path / "work")
    assert [slide.slide_id for slide in remote] == [slide.slide_id for slide in on_disk]
    assert {"m", "v", "d", "deep", "one", "1.2.840.113", "a b"} == {slide.slide_id for slide in remote}
    assert {why: len(left) for why, left in remote.left_out.items()} == {
        why: len(left) for why, left in on_disk.left_out.items()
    }
    assert f"{url}/packed.svs.gz" in " ".join(remote.notes())
    assert [*copies([slide.path for slide in remote], tmp_path / "scratch").values()] == [
        slide_identity(slide.path) for slide in on_disk
    ]
    sizes = [slide_identity(slide.path)[0] for slide in remote]
    assert sizes == [slide_identity(slide.path)[0] for slide in on_disk]
    one_by_one = [
        find_remote(f"{url}/{name}", tmp_path / "one", {}) for name in ("m.mrxs", "v.vms", "d/1.dcm", "one.svs")
    ]
    assert [stub.name for [stub] in one_by_one] == ["m.mrxs", "v.vms", "d.dcm", "one.svs"]
    by_name = {slide.path.name: slide_identity(slide.path) for slide in remote}
    assert [slide_identity(stub) for [stub] in one_by_one] == [by_name[stub.name] for [stub] in one_by_one]


def test_another_version_of_one_file_is_another_slide(tmp_path: Path, store: tuple[str, Put]) -> None:
    url, put = store
    put_all(a_lab(tmp_path / "lab"), put)
    before = {slide.slide_id: slide_identity(slide.path) for slide in find_slides([url], tmp_path / "work")}
    put("m/Data0000.dat", b"DATA" * 100)
    put("d/deep/2.dcm", b"3")
    put("v_map.jpg", b"another map")
    after = {slide.slide_id: slide_identity(slide.path) for slide in find_slides([url], tmp_path / "work")}
    assert {slide for slide in before if before[slide] != after[slide]} == {"m", "d", "deep", "v"}


@pytest.mark.parametrize("store", ["s3", "web"], indirect=True)
def test_of_a_folder_of_several_dicom_slides_a_file_stands_for_its_own(tmp_path: Path, store: tuple[str, Put]) -> None:
    url, put = store
    here = tmp_path / "lab/d"
    for name, series in (("1.dcm", "1.1"), ("2.dcm", "1.1"), ("3.dcm", "1.2")):
        dicom(here, name, series)
    dicom(here, "report.dcm", "1.1", whole_slide=False)
    put_all(tmp_path / "lab", put)
    [stub] = find_remote(f"{url}/d/2.dcm", tmp_path / "work", {})
    [slide] = find_slides([here / "2.dcm"])
    assert stub.name == slide.path.name == "2.dcm"
    assert [file.name for file in remote_files(stub) or ()] == ["1.dcm", "2.dcm"]
    assert copies([stub], tmp_path / "scratch") == {"2": slide_identity(slide.path)}


def test_a_dicom_folder_by_url_is_tiled_as_the_folder_is(clinic: Clinic, bucket: Any, shared: Path) -> None:
    own = shared / "slides/dicom-cmu-1-small-region"
    shutil.copytree(own, clinic.folder / "slides/1.2.840.1")
    put_all(clinic.folder / "slides", lambda name, content: bucket.pipe(f"scans/{name}", content))
    outputs = []
    for given, workspace, more in (("slides", "local", ()), ("s3://scans", "work", ("--stage-bytes", "1GB"))):
        words = ("--tissue", "all", "--mpp", 2, "--workers", 1, "--stage-to", "scratch", *more)
        assert told("tile", given, "-w", workspace, *words)["tile"]["done"] == 1
        [folder] = (clinic.folder / workspace / "tiles").iterdir()
        outputs.append({n: o.digest for n, o in Manifest.of(folder).latest("tile")["1.2.840.1"].outputs.items()})
    assert outputs[0] == outputs[1]
    assert not list((clinic.folder / "scratch").iterdir())


# ----- a web server that does not list folders -----


@pytest.mark.parametrize("name", ["", "m.mrxs", "d/1.dcm"])
def test_where_a_web_server_does_not_list_it_is_said_what_to_do(tmp_path: Path, server: Server, name: str) -> None:
    put_all(a_lab(tmp_path / "lab"), server.put)
    with pytest.raises(UsageError, match="does not list this folder") as caught:
        find_remote(server.url(name), tmp_path / "work", {})
    assert "name the slides by their URLs" in caught.value.hint


def test_it_is_asked_for_the_images_that_an_index_names(tmp_path: Path, server: Server) -> None:
    put_all(a_lab(tmp_path / "lab"), server.put)
    [stub] = find_remote(server.url("v.vms"), tmp_path / "work", {})
    assert copies([stub], tmp_path / "scratch") == {"v": slide_identity(tmp_path / "lab/v.vms")}
    lonely = server.put("lonely.vms", b"[Virtual Microscope Specimen]\nImageFile=gone.jpg\n")
    with pytest.raises(UsageError, match="none of the images that it names"):
        find_remote(lonely, tmp_path / "work", {})


@pytest.mark.parametrize("store", ["s3", "gs", "az"], indirect=True)
def test_what_a_console_makes_of_a_new_folder_is_no_file(tmp_path: Path, store: tuple[str, Put]) -> None:
    """An object without bytes whose key ends with a slash, also within the folders of MRXS and DICOM slides."""
    url, put = store
    put_all(a_lab(tmp_path / "lab"), put)
    for folder in ("d/", "m/", "deep/", "empty/", "deep/1.2.840.113/"):
        put(folder, b"")
    on_disk, remote = find_slides([tmp_path / "lab"]), find_slides([url], tmp_path / "work")
    assert [slide_identity(slide.path)[0] for slide in remote] == [slide_identity(slide.path)[0] for slide in on_disk]
    assert [len(remote_files(slide.path) or ()) for slide in remote if slide.slide_id in ("d", "m")] == [2, 3]


def test_two_slides_of_one_id_are_named_by_their_urls(tmp_path: Path, server: Server) -> None:
    urls = [server.put(name, b"x") for name in ("a/one.svs", "b/One.SVS")]
    with pytest.raises(CohortError, match="two slides are called") as caught:
        find_slides(urls, tmp_path / "work")
    assert all(url in f"{caught.value}" for url in urls)


def test_one_index_without_its_images_does_not_stop_the_others(tmp_path: Path, server: Server) -> None:
    server.lists = True
    put_all(a_lab(tmp_path / "lab"), lambda name, content: server.put(f"scans/{name}", content))
    server.put("scans/odd/lonely.vms", b"[Virtual Microscope Specimen]\nImageFile=gone.jpg\n")
    left_out: dict[str, list[Path]] = {}
    found = find_remote(server.url("scans"), tmp_path / "work", left_out)
    assert {"m.mrxs", "v.vms", "one.svs"} <= {stub.name for stub in found}
    [url] = left_out["none of the images that it names lies beside it"]
    assert url.name == "lonely.vms"


def test_what_is_left_out_is_counted_once_though_the_server_is_asked_again(tmp_path: Path, server: Server) -> None:
    server.lists = True
    put_all(a_lab(tmp_path / "lab"), lambda name, content: server.put(f"scans/z/{name}", content))
    server.put("scans/other.vsi", b"vsi")
    server.to_break["/scans/z/v.vms"] = 1
    left_out: dict[str, list[Path]] = {}
    assert find_remote(server.url("scans"), tmp_path / "work", left_out)
    assert server.broken == 1
    assert len(left_out["a format that is not read (.vsi)"]) == 2


def test_no_name_leads_out_of_the_slides_folder(tmp_path: Path, server: Server) -> None:
    server.lists = True
    server.put("scans/m.mrxs", b"index")
    server.put("scans/m/Slidedat.ini", b"ini")
    server.put("x.vms", b"ImageFile=../secret.jpg\nMapFile=..\nOther=y.jpg\n")
    for name in ("secret.jpg", "y.jpg", "escaped.dat"):
        server.put(name, b"x")
    server.further_links = ["../../escaped.dat", "a/../../../escaped.dat"]
    found = [file.name for url in ("scans/m.mrxs", "x.vms") for file in _files(server.url(url), tmp_path)]
    assert found == ["m.mrxs", "m/Slidedat.ini", "x.vms", "y.jpg"]
    server.further_links = ["..%2f..%2fescaped.dat"]
    with pytest.raises(UsageError, match=r"contains a path separator|is not a name"):
        _files(server.url("scans/m.mrxs"), tmp_path)
    assert not list(tmp_path.rglob("*escaped*"))


def _files(url: str, place: Path) -> Sequence[RemoteFile]:
    [stub] = find_remote(url, place / "work", {})
    return remote_files(stub) or ()


# ----- what is not installed, or not known -----


@pytest.mark.parametrize(
    ("url", "extra"),
    [("gs://b/a.svs", "remote-gs"), ("gcs://b/a.svs", "remote-gs"), ("az://c/a.svs", "remote-az"),
     ("abfs://c/a.svs", "remote-az"), ("https://h/a.svs", "remote"), ("s3://b/a.svs", "remote")],
)  # fmt: skip
def test_a_url_without_its_extra_says_what_to_install(
    tmp_path: Path, url: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import builtins

    given = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] in ("fsspec",):
            raise ImportError(name)
        return given(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match="which is not installed") as caught:
        find_remote(url, tmp_path, {})
    assert f"wsipipe-momkd[{extra}]" in caught.value.hint


def test_azure_without_an_account_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("adlfs")
    for name in ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_NAME"):
        monkeypatch.delenv(name, raising=False)
    get_filesystem_class("az").clear_instance_cache()
    with pytest.raises(UsageError) as caught:
        find_remote("az://scans/a.svs", tmp_path, {})
    assert "AZURE_STORAGE_ACCOUNT_NAME" in caught.value.hint
    with pytest.raises(UsageError, match="an account in the URL"):
        find_remote("abfs://scans@account.dfs.core.windows.net/a.svs", tmp_path, {})
