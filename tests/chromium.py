"""A real browser for tests: Chromium without a window, driven through two pipes by its own protocol (CDP)."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Thread
from typing import Any

import pytest

PATIENCE = 300
"""Seconds that a test waits for what must come: no test depends on how fast the machine is."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def found() -> str:
    """The program; the test is skipped where there is none."""
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser here ({', '.join(NAMES)}, or the one that CHROMIUM names)")
    return program


class Browser:
    """One page of a browser."""

    def __init__(self, program: str, profile: Path) -> None:
        down, self._write = os.pipe()
        self._read, up = os.pipe()

        def hand_over() -> None:
            kept = os.dup(down), os.dup(up)  # neither is 3 or 4 then, whatever their numbers were
            os.dup2(kept[0], 3)
            os.dup2(kept[1], 4)

        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += ["--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"]
        self._process = subprocess.Popen(
            [program, *flags, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=hand_over,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(down)
        os.close(up)
        self._changed = Condition()
        self._answers: dict[int, dict[str, Any]] = {}
        self._number = 0
        self._ended = False
        self.complaints: list[str] = []
        """Errors in the page's console, exceptions, and what could not be loaded."""
        self._session = ""
        Thread(target=self._listen, daemon=True).start()
        [page] = [one for one in self.send("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        self._session = self.send("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its result."""
        with self._changed:
            self._number += 1
            number = self._number
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        with self._changed:
            assert self._changed.wait_for(lambda: number in self._answers or self._ended, PATIENCE), method
            answer = self._answers.pop(number, {"error": "the browser has ended"})
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, (script, result["exceptionDetails"])
        return result["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true in the page."""
        poll = f"""new Promise((resolve, reject) => {{
            const end = Date.now() + {PATIENCE * 1000};
            const look = () => {{
                if ({condition}) resolve(true);
                else if (Date.now() > end) reject(new Error("in vain"));
                else setTimeout(look, 20);
            }};
            look();
        }})"""
        self.run(poll)

    def open(self, address: str) -> None:
        """Go to an address."""
        self.send("Page.navigate", url=address)
        self.wait(f"document.readyState === 'complete' && location.href.startsWith({address.split('?')[0]!r})")

    def reload(self) -> None:
        """Load the page again."""
        self.open(self.run("location.href.split('#')[0]") + "?again=" + self.run("location.hash"))

    def window(self, width: int, height: int, *, dark: bool = False) -> None:
        """Set the size of the window, and whether the person likes dark pages."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[feature])

    def mouse(self, kind: str, x: float, y: float, **further: Any) -> None:
        """Send an event of the mouse."""
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **further)

    def click(self, selector: str) -> None:
        """Click on the middle of an element."""
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def middle(self, selector: str) -> tuple[float, float]:
        """Where the middle of an element is on the screen."""
        box = f"document.querySelector({selector!r}).getBoundingClientRect()"
        x, y = self.run(f"(box => [box.x + box.width / 2, box.y + box.height / 2])({box})")
        return x, y

    def key(self, key: str) -> None:
        """Press a key."""
        text: dict[str, Any] = {"text": key} if len(key) == 1 else {"windowsVirtualKeyCode": {"Escape": 27}[key]}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def picture(self) -> bytes:
        """A PNG of what is seen."""
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        """End the browser."""
        os.close(self._write)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listen(self) -> None:
        rest = b""
        while part := os.read(self._read, 1 << 16):
            *messages, rest = (rest + part).split(b"\0")
            for message in messages:
                self._take(json.loads(message))
        os.close(self._read)
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _take(self, message: dict[str, Any]) -> None:
        with self._changed:
            if "id" in message:
                self._answers[message["id"]] = message
                self._changed.notify_all()
                return
            given = message.get("params", {})
            if message["method"] == "Runtime.exceptionThrown":
                details = given["exceptionDetails"]
                self.complaints.append(str(details.get("exception", details).get("description", details)))
            elif message["method"] == "Log.entryAdded" and given["entry"]["level"] == "error":
                self.complaints.append(f"{given['entry']['text']} {given['entry'].get('url', '')}")
            elif message["method"] == "Runtime.consoleAPICalled" and given["type"] in ("error", "assert"):
                self.complaints.append(str(given["args"]))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser, ended after the block."""
    started = Browser(found(), profile)
    try:
        yield started
    finally:
        started.close()
