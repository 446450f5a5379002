"""An HTTP server of files on loopback, with ranges; it lists folders or does not, and its answers may break off."""

from __future__ import annotations

import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote


class Server(ThreadingHTTPServer):
    """Serves files, by ranges; some answers break off."""

    daemon_threads = True

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.tags: dict[str, str | None] = {}
        self.to_break: dict[str, int] = {}
        """Path → how many of its next answers break off in the middle."""
        self.broken = 0
        self.lists = False
        """Whether it answers with a page of links to what is in a folder; otherwise it forbids that."""
        self.further_links: list[str] = []
        """On each of these pages."""
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
        path = unquote(self.path.partition("?")[0])
        content = self.server.files.get(path)
        if content is None:
            self._answer_of_a_folder(path, body=body)
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

    def _answer_of_a_folder(self, path: str, *, body: bool) -> None:
        """As Apache and nginx do."""
        folder = f"{path.rstrip('/')}/"
        inside = [file.removeprefix(folder) for file in self.server.files if file.startswith(folder)]
        if not inside or not self.server.lists:
            self.send_error(403 if inside else 404)
            return
        if folder != path:
            self.send_response(301)
            self.send_header("Location", quote(folder))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        names = dict.fromkeys(name.partition("/")[0] + "/" * ("/" in name) for name in inside)
        links = ["?C=M;O=A", "/", "../", *map(quote, names), *self.server.further_links]
        page = "".join(f'<a href="{link}">{link}</a>\n' for link in links).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if body:
            self.wfile.write(page)

    def log_message(self, *_: Any) -> None:
        pass
