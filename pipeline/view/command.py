"""``wsipipe view``: serve the viewer until Ctrl-C."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from threading import Thread
from typing import Final

from ...data.errors import UsageError
from ..console import Console
from .access import is_loopback
from .server import ViewServer

_OPEN_TO_OTHERS: Final = (
    "whoever can reach {host} and has the address sees the slides, and what is sent can be read on the way: rather "
    "keep to this machine, and reach it through ssh -L {port}:localhost:{port}"
)


def view(workspace: Path, console: Console, *, host: str, port: int, browser: bool) -> None:
    """Serve the viewer of a workspace until the process is interrupted.

    :raises UsageError: there is no such workspace, Leaflet is not installed, or the port is taken.
    """
    if not workspace.is_dir():
        raise UsageError("there is no such workspace", path=workspace, hint="name the folder of the results")
    with ViewServer(workspace, host, port) as server:
        if not is_loopback(host):
            console.warning(_OPEN_TO_OTHERS.format(host=host, port=server.server_port))
        address = server.address(token=server.access.token)
        console.line(f"the viewer of {workspace}: {address}")
        console.line("Ctrl-C ends it")
        console.result({"workspace": str(workspace), "address": address})
        sys.stdout.flush()
        if browser and _has_a_screen():
            once = server.address(ticket=server.access.ticket)
            Thread(target=webbrowser.open, args=(once,), daemon=True).start()
        try:
            server.serve_forever(poll_interval=0.1)
        except KeyboardInterrupt:
            console.note("the viewer has ended")
        finally:
            server.answers.close()


def _has_a_screen() -> bool:
    """Whether a browser can open a window: without one, some take over the terminal."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
