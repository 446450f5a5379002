"""Who may ask the viewer for anything: a browser on this machine that was given the token, for a page of the viewer.

Other pages in the same browser must not reach it. They can send requests to any address, so that each request needs
the token, which they do not have. A name of theirs can be made to lead to this machine (DNS rebinding); so a request
must name this machine. And what another page asks for is refused by what the browser says of it (``Sec-Fetch-Site``,
``Origin``), cookie or not.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from ipaddress import ip_address
from socket import gethostname
from threading import Lock
from urllib.parse import urlsplit


class Access:
    """The rules of one server.

    :param host: the name or address that it listens on.
    """

    def __init__(self, host: str) -> None:
        self.token = secrets.token_urlsafe(32)
        self._ticket = secrets.token_urlsafe(32)
        self._host = host.casefold()
        self._lock = Lock()

    @property
    def ticket(self) -> str:
        """For the browser that is started: it works once, since the command line of a process can be read by others."""
        return self._ticket

    def why_not(self, headers: Mapping[str, str], cookie: str, query: Mapping[str, str]) -> str:
        """Why a request is refused; empty if it is not.

        :param cookie: name of the cookie with the token.
        """
        if not self._is_of_this_machine(headers.get("Host", "")):
            return "this server answers by the name of its own machine only"
        comes_from_a_link = headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") == "document"
        if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and not comes_from_a_link:
            return "another page may not ask for this"
        origin = headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc.casefold() != headers.get("Host", "").casefold():
            return "another page may not ask for this"
        if not self.lets_in(query) and not _equal(_cookie(headers.get("Cookie", ""), cookie), self.token):
            return "open the address that wsipipe view printed: it has a token that is needed here"
        return ""

    def lets_in(self, query: Mapping[str, str]) -> bool:
        """Whether an address has the token, or the ticket, which it then uses up."""
        if _equal(query.get("token", ""), self.token):
            return True
        with self._lock:
            if self._ticket and _equal(query.get("ticket", ""), self._ticket):
                self._ticket = ""
                return True
        return False

    def _is_of_this_machine(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").casefold()
        except ValueError:
            return False
        if name == "localhost":
            return True
        try:
            address = ip_address(name)
        except ValueError:  # a name, which anybody may have made
            return not is_loopback(self._host) and name in (self._host, gethostname().casefold())
        return address.is_loopback or not is_loopback(self._host)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.casefold() == "localhost"


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def _cookie(header: str, name: str) -> str:
    for part in header.split(";"):
        key, _, value = part.strip().partition("=")
        if key == name:
            return value
    return ""
