"""Who may ask the viewer: only the browser that has the token, by this machine's name, for a page of the viewer."""

from __future__ import annotations

from pathlib import Path

import pytest
from viewed_workspace import TILES, Client, Viewed
from wsipipe.pipeline.view.access import Access, is_loopback
from wsipipe.pipeline.view.server import ViewServer

PATHS = ("/", "/view.js", "/leaflet.js", "/slides.json", "/palettes.json", "/zoom", "/nothing", "/../../etc/passwd")


@pytest.mark.parametrize("path", PATHS)
def test_without_the_token_nothing_is_answered(client: Client, path: str) -> None:
    for headers in ({}, {"Cookie": f"{client.server.cookie}=wrong"}, {"Cookie": "other=" + client.server.access.token}):
        got = client.get(path, known=False, headers=headers)
        assert (got.status, "set-cookie" in got.headers) == (403, False)
        assert "open the address" in got.text
    assert client.get(path, known=False, headers={}, token="é" * 43).status == 403


def test_the_address_with_the_token_gives_the_page_and_a_cookie(client: Client) -> None:
    got = client.get("/", known=False, token=client.server.access.token)
    assert got.status == 200
    assert got.headers["set-cookie"] == f"{client.cookie}; HttpOnly; SameSite=Strict; Path=/"
    assert got.headers["content-type"] == "text/html; charset=utf-8"
    assert client.server.access.token not in got.text


def test_the_ticket_of_the_started_browser_works_once(client: Client) -> None:
    ticket = client.server.access.ticket
    assert client.get("/", known=False, ticket=ticket).status == 200
    assert client.get("/", known=False, ticket=ticket).status == 403
    assert client.get("/", known=False, ticket="").status == 403


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "8.8.8.8", "", "[::1", "@"],
)
def test_another_name_for_this_machine_is_refused(client: Client, host: str) -> None:
    got = client.get("/slides.json", headers={"Host": host})
    assert (got.status, got.text) == (403, "this server answers by the name of its own machine only\n")


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:1", "[::1]:8000", "LOCALHOST:1"])
def test_this_machines_own_names_are_taken_through_a_tunnel_too(client: Client, host: str) -> None:
    assert client.get("/slides.json", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
    ],
)
def test_what_another_page_asks_for_is_refused_cookie_or_not(client: Client, headers: dict[str, str]) -> None:
    got = client.get("/slides.json", headers=headers)
    assert (got.status, got.text) == (403, "another page may not ask for this\n")


def test_a_link_from_elsewhere_opens_the_page(client: Client) -> None:
    clicked = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("/", known=False, headers=clicked, token=client.server.access.token).status == 200
    assert client.get("/slides.json", headers={"Sec-Fetch-Site": "same-origin"}).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "NONSENSE"])
def test_only_reading_is_understood(client: Client, method: str) -> None:
    assert client.get("/slides.json", method=method).status == 501


def test_every_answer_forbids_what_a_page_of_others_could_do_with_it(client: Client) -> None:
    answers = [client.get(path) for path in ("/", "/slides.json", "/nothing")]
    answers += [client.get("/slides.json", known=False), client.of("/zoom", z=0, x=0, y=0)]
    assert [got.status for got in answers] == [200, 200, 404, 403, 200]
    for got in answers:
        assert got.headers["cache-control"] == "no-store"
        assert got.headers["x-content-type-options"] == "nosniff"
        assert got.headers["referrer-policy"] == "no-referrer"
        assert got.headers["cross-origin-resource-policy"] == "same-origin"
        policy = got.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert "access-control-allow-origin" not in got.headers


def test_the_page_loads_nothing_from_elsewhere(client: Client) -> None:
    for path in ("/", "/view.js", "/panes.js", "/view.css", "/page.css"):
        text = client.get(path).text
        assert "http:" not in text, path
        assert "https:" not in text, path
        assert "url(" not in text, path
        assert "innerHTML" not in text, path


@pytest.mark.parametrize(
    "path",
    [
        *("/../slides.json", "/..%2f..%2fetc%2fpasswd", "/view/../../../etc/passwd", "//etc/passwd", "/%2e%2e/"),
        *("/.git/config", "/view.html", "/server.py", "/tiles/", f"/tiles/{TILES}/a.h5", "/leaflet.js/.."),
        *(f"/tiles/{TILES}/manifest.jsonl", "/work/manifest.jsonl", "/\x00", "/slides.json/", "/slides.json%00"),
    ],
)  # fmt: skip
def test_no_file_is_served_by_its_path(client: Client, path: str) -> None:
    got = client.get(path.replace("\x00", "%00"))
    assert got.status in (400, 404)
    assert b"root:" not in got.content


@pytest.mark.parametrize("where", ["tiles", "slide", "layer"])
@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "/etc/passwd", "..", "", "a/../b", "a\x00", "\udcff", "a" * 5000]
)
def test_names_in_an_address_find_only_what_is_listed(client: Client, where: str, name: str) -> None:
    asked = {"tiles": TILES, "slide": "a", "layer": "kept", "z": 0, "x": 0, "y": 0, where: name}
    for path in ("/slide.json", "/zoom", "/layer", "/thumbnail", "/outlines.json"):
        got = client.get(path, **{key: str(value).encode("utf-8", "surrogateescape") for key, value in asked.items()})
        refused = where != "layer" or path == "/layer"
        assert got.status == (404 if refused else 200), (path, got.content[:200])


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("lab-7", False)],
)
def test_loopback_is_known(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


def test_a_server_for_others_takes_its_name_and_addresses_but_no_other_name() -> None:
    access = Access("lab-7")
    query = {"token": access.token}
    for host in ("lab-7:8000", "192.168.0.7:8000", "localhost:8000"):
        assert not access.why_not({"Host": host}, "c", query)
    assert "own machine" in access.why_not({"Host": "evil.example"}, "c", query)


def test_two_viewers_on_one_machine_do_not_share_a_token(client: Client, viewed: Viewed, tmp_path: Path) -> None:
    with ViewServer(viewed.workspace, "127.0.0.1", 0) as other:
        assert other.access.token != client.server.access.token
        assert other.cookie != client.server.cookie
        assert len(other.access.token) >= 43
        other.answers.close()
