"""Servers on loopback that answer as Google Cloud Storage and Azure Blob Storage do, as far as reading needs it."""

from __future__ import annotations

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

DAY = "Thu, 01 Jan 2026 00:00:00 GMT"


class CloudServer(ThreadingHTTPServer):
    """Objects of one bucket, ``scans``."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self.objects: dict[str, bytes] = {}
        super().__init__(("127.0.0.1", 0), handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def listed(self, prefix: str, delimiter: str) -> tuple[list[str], list[str]]:
        """Names of objects that begin so, and of what stands for those that lie deeper."""
        names, deeper = [], dict[str, None]()
        for name in sorted(self.objects):
            rest = name.removeprefix(prefix)
            if not name.startswith(prefix):
                continue
            if delimiter and delimiter in rest:
                deeper[prefix + rest.partition(delimiter)[0] + delimiter] = None
            else:
                names.append(name)
        return names, list(deeper)


class _Handler(BaseHTTPRequestHandler):
    server: CloudServer
    protocol_version = "HTTP/1.1"

    def send(self, code: int, content: bytes = b"", kind: str = "application/json", **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_part(self, content: bytes, asked: str | None, **headers: str) -> None:
        """An object, or the range of it that was asked for."""
        if not asked:
            self.send(200, content, "application/octet-stream", **headers)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last or len(content) - 1) + 1, len(content))
        if begin >= len(content):
            self.send(416)
            return
        where = f"bytes {begin}-{end - 1}/{len(content)}"
        self.send(206, content[begin:end], "application/octet-stream", Content_Range=where, **headers)

    def log_message(self, *_: Any) -> None:
        pass


class GoogleHandler(_Handler):
    """The JSON API of Google Cloud Storage."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        parts = url.path.removeprefix("/download").removeprefix("/storage/v1/").split("/")
        if parts[:2] != ["b", "scans"]:
            self.send(404, b"{}")
        elif parts[2:] == []:
            self.send(200, b'{"name": "scans"}')
        elif parts[2:] == ["o"]:
            names, deeper = self.server.listed(asked.get("prefix", ""), asked.get("delimiter", ""))
            found = {"kind": "storage#objects", "items": [self._about(name) for name in names], "prefixes": deeper}
            self.send(200, json.dumps(found).encode())
        else:
            name = unquote("/".join(parts[3:]))
            if name not in self.server.objects:
                self.send(404, b'{"error": {"code": 404, "message": "No such object"}}')
            elif asked.get("alt") == "media":
                self.send_part(self.server.objects[name], self.headers.get("Range"))
            else:
                self.send(200, json.dumps(self._about(name)).encode())

    def _about(self, name: str) -> dict[str, str]:
        content = self.server.objects[name]
        tag = hashlib.md5(content, usedforsecurity=False).hexdigest()
        about = {"kind": "storage#object", "bucket": "scans", "name": name, "size": str(len(content)), "etag": tag}
        return about | {"updated": "2026-01-01T00:00:00.000Z", "timeCreated": "2026-01-01T00:00:00.000Z"}


class AzureHandler(_Handler):
    """The Blob service of an Azure storage account."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        container, _, name = url.path.removeprefix("/account/").partition("/")
        name = unquote(name)
        if asked.get("comp") == "list" and container == "scans":
            self.send(200, self._list(asked), "application/xml")
        elif container == "scans" and not name:
            self.send(200, ETag='"1"', Last_Modified=DAY)
        elif name in self.server.objects:
            content = self.server.objects[name]
            asked_range = self.headers.get("x-ms-range") or self.headers.get("Range")
            headers = {"ETag": f'"{self._tag(name)}"', "Last_Modified": DAY, "x_ms_blob_type": "BlockBlob"}
            if self.command == "HEAD":
                self.send_head(len(content), headers)
            else:
                self.send_part(content, asked_range, **headers)
        else:
            self.send(404, b"", x_ms_error_code="BlobNotFound")

    def send_head(self, size: int, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(size), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _tag(self, name: str) -> str:
        return hashlib.md5(self.server.objects[name], usedforsecurity=False).hexdigest()

    def _list(self, asked: dict[str, str]) -> bytes:
        names, deeper = self.server.listed(asked.get("prefix", ""), asked.get("delimiter", ""))
        blobs = "".join(
            f"<Blob><Name>{escape(name)}</Name><Properties><Last-Modified>{DAY}</Last-Modified>"
            f"<Etag>{self._tag(name)}</Etag><Content-Length>{len(self.server.objects[name])}</Content-Length>"
            "<Content-Type>application/octet-stream</Content-Type><BlobType>BlockBlob</BlobType></Properties></Blob>"
            for name in names
        )
        blobs += "".join(f"<BlobPrefix><Name>{escape(name)}</Name></BlobPrefix>" for name in deeper)
        return (
            '<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="scans">'
            f"<Blobs>{blobs}</Blobs><NextMarker /></EnumerationResults>"
        ).encode()
