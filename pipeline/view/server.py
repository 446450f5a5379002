"""The server of the viewer: HTTP of the standard library, a thread a connection, that answers and writes nothing."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from ...data.errors import UsageError
from .access import Access
from .answers import Answer, Answers
from .browser_files import browser_files

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""The page loads nothing from elsewhere, is shown in no other page, and leaves nothing in the browser's cache."""
_SECONDS: Final = 60.0
"""A connection without a request is closed after it."""


class ViewServer(ThreadingHTTPServer):
    """A server on one workspace.

    :param host: name or address to listen on.
    :param port: 0 for any free one.
    :raises UsageError: it cannot listen there, or Leaflet is not installed.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, workspace: Path, host: str, port: int) -> None:
        self.files = browser_files()
        self.access = Access(host)
        try:
            self.address_family, *_, at = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            super().__init__((str(at[0]), int(at[1])), _Request)
        except (OSError, OverflowError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            hint = "another --port, or none for any free one; --host must be an address of this machine"
            raise UsageError(f"cannot listen on {host} port {port}: {reason}", hint=hint) from error
        self.answers = Answers(workspace)
        self._host = host

    def server_bind(self) -> None:
        """Take the port, without asking a name server what this machine is called."""
        socket.socket.bind(self.socket, self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    @property
    def cookie(self) -> str:
        """Name of the cookie with the token: two viewers on one machine have one each."""
        return f"wsipipe-{self.server_port}"

    def address(self, **query: str) -> str:
        """The address of the page, for the browser."""
        host = socket.gethostname() if self._host in ("0.0.0.0", "::") else self._host
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.server_port}/" + "".join(f"?{name}={value}" for name, value in query.items())

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that leaves while it is answered is no error; nothing else gets here."""


class _Request(BaseHTTPRequestHandler):
    server: ViewServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "wsipipe", ""
    timeout = _SECONDS
    disable_nagle_algorithm = True  # else a small answer waits 40 ms for the browser to confirm its first part
    wbufsize = -1

    def do_GET(self) -> None:
        """Answer a request."""
        try:
            address = urlsplit(self.path)
            query = dict(parse_qsl(address.query, keep_blank_values=True, max_num_fields=20))
        except ValueError:
            self._send(_text(400, "this is no address"))
            return
        headers: Mapping[str, str] = dict(self.headers.items())
        if refusal := self.server.access.why_not(headers, self.server.cookie, query):
            self._send(_text(403, refusal))
        elif address.path in self.server.files:
            kind, content = self.server.files[address.path]
            self._send(Answer(200, kind, content), new=address.path == "/")
        else:
            self._send(self.server.answers.answer(address.path, query))

    def _send(self, answer: Answer, *, new: bool = False) -> None:
        self.send_response(answer.status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if new:
            cookie = f"{self.server.cookie}={self.server.access.token}; HttpOnly; SameSite=Strict; Path=/"
            self.send_header("Set-Cookie", cookie)
        self.send_header("Content-Type", answer.type)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is no request, or one that would change something."""
        self.close_connection = True
        self._send(_text(code, message or "not here"))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: addresses name patients' slides."""


def _text(status: int, text: str) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", f"{text}\n".encode())
