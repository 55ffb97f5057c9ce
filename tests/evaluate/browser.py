"""Chromium without a window, driven through its own pipe (the DevTools protocol), for tests of pages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def browser() -> str | None:
    """The command of a browser on this machine."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One page, as a context manager.

    Args:
        downloads: where downloads go.
    """

    def __init__(self, path: Path, downloads: Path) -> None:
        command = browser()
        assert command is not None
        to_read, self._to_write = os.pipe()
        self._from_read, from_write = os.pipe()
        options = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --remote-debugging-pipe"
        profile = f"--user-data-dir={downloads / 'profile'}"
        line = f'exec "$0" {options} "$1" about:blank 3<&{to_read} 4>&{from_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", line, command, profile],
            pass_fds=(to_read, from_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(from_write)
        self._buffer, self._number, self.session = b"", 0, None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads), eventsEnabled=True)
        self.call("Page.navigate", url=path.absolute().as_uri())
        self.wait("Page.loadEventFired")

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)
        os.close(self._to_write)
        os.close(self._from_read)

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """One command and its answer."""
        self._number += 1
        body: dict[str, Any] = {"id": self._number, "method": method, "params": arguments}
        if self.session is not None:
            body["sessionId"] = self.session
        os.write(self._to_write, json.dumps(body).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def wait(self, method: str) -> None:
        """Read until an event has come."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._next())

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """One key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)

    def click(self, selector: str) -> None:
        """Click as a user would."""
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    @property
    def requests(self) -> list[str]:
        """Addresses that the page asked for, its own and those of what it saved itself left out."""
        asked = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [address for address in asked if not address.startswith(("file:", "blob:", "about:"))]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._from_read, 1 << 16)
            assert part, "the browser has gone"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found
