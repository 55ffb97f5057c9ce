"""A headless Chromium that is driven over its debugging pipe (Chrome DevTools Protocol): no driver, no package."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 60.0
KEYS = {"Enter": 13, "Backspace": 8, "Tab": 9}


class Browser:
    """One tab, as a context manager.

    Args:
        size: of the window, in pixels.
        downloads: the folder where downloads go; None: nowhere.

    Attributes:
        complaints: what the page logged, and errors of its scripts.
        requests: addresses that were asked for, those of files and of what the page made itself left out.
    """

    def __init__(self, size: tuple[int, int] = (900, 800), downloads: Path | None = None) -> None:
        if PROGRAM is None:
            raise RuntimeError("no chromium here")
        self._profile = tempfile.TemporaryDirectory(prefix="whet-browser-", ignore_cleanup_errors=True)
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
        place = [f"--user-data-dir={self._profile.name}", f"--window-size={size[0]},{size[1]}", "about:blank"]
        # Chromium reads its commands from file descriptor 3 and answers on 4.
        shell = ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "bash", PROGRAM]
        self._process = subprocess.Popen(
            [*shell, *options, *place],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._held, self._number, self._session = b"", 0, ""
        self.complaints: list[str] = []
        self.requests: list[str] = []
        (page,) = [found for found in self._call("Target.getTargets")["targetInfos"] if found["type"] == "page"]
        self._session = self._call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        if downloads is not None:
            self._call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)
        self._profile.cleanup()

    def open(self, address: str) -> None:
        """Load a page."""
        self._call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def value(self, script: str) -> Any:
        """What a JavaScript expression gives; a promise is waited for."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"])
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = SECONDS) -> None:
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not self.value(script):
            if time.monotonic() > end:
                raise AssertionError(f"not within {seconds:g} s: {script}")
            time.sleep(0.02)

    def type(self, text: str) -> None:
        """Text into the element that has the focus."""
        self._call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """A key by its name; those of ``KEYS`` also do what the browser does with them."""
        event: dict[str, Any] = {"key": key}
        if key in KEYS:
            event |= {"code": key, "windowsVirtualKeyCode": KEYS[key], "text": "\r" if key == "Enter" else ""}
        self._call("Input.dispatchKeyEvent", type="keyDown", **event)
        self._call("Input.dispatchKeyEvent", type="keyUp", **event)

    def click(self, selector: str) -> None:
        """The mouse on the middle of an element, scrolled into the window first."""
        place = self.value(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2, b.width]; })()"
        )
        if not place[2]:
            raise AssertionError(f"{selector} is not to be seen")
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def picture(self, target: Path) -> None:
        """The window as a PNG."""
        target.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + SECONDS
        while True:
            answer = self._next(end)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Network.requestWillBeSent":
            address = str(event["params"]["request"]["url"])
            self.requests += [] if address.startswith(("file:", "blob:", "about:")) else [address]
        if event.get("method") == "Log.entryAdded":
            self.complaints.append(str(event["params"]["entry"]["text"]))
        if event.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.complaints.append(json.dumps(event["params"])[:500])

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._read], [], [], max(end - time.monotonic(), 0))
            more = os.read(self._read, 2**16) if ready else b""
            if not more:
                raise AssertionError("chromium does not answer")
            self._held += more
        message, _, self._held = self._held.partition(b"\0")
        return json.loads(message)
