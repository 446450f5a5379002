"""The files that the browser loads: the page of this package, and Leaflet from its own package (the extra ``view``)."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from ...data.errors import UsageError
from ...stages import pages

_OWN: Final = Path(__file__).parent
_LEAFLET: Final = "XStatic-Leaflet"
TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


def browser_files() -> dict[str, tuple[str, bytes]]:
    """Path of each file on the server → its type and content.

    :raises UsageError: Leaflet is not installed.
    """
    leaflet = _leaflet()
    files = {
        "/": _OWN / "view.html",
        "/view.css": _OWN / "view.css",
        "/view.js": _OWN / "view.js",
        "/panes.js": _OWN / "panes.js",
        "/gallery.js": _OWN / "gallery.js",
        "/page.css": Path(pages.__file__).parent / "page.css",
        "/leaflet.js": leaflet / "leaflet.js",
        "/leaflet.css": leaflet / "leaflet.css",
    }
    return {at: (f"{TYPES[file.suffix]}; charset=utf-8", file.read_bytes()) for at, file in files.items()}


def _leaflet() -> Path:
    """The folder of Leaflet's files. Nothing of its package is imported: it holds files for a browser."""
    try:
        found = Path(str(distribution(_LEAFLET).locate_file("xstatic/pkg/leaflet/data")))
    except PackageNotFoundError:
        found = None
    if found is None or not (found / "leaflet.js").is_file():
        hint = "pip install 'wsipipe-momkd[view]'"
        raise UsageError("wsipipe view needs Leaflet, which is not installed", hint=hint)
    return found
