"""A headless Chromium for the tests of pages, driven by its DevTools protocol over two pipes: the standard library is all that this takes.

A page is opened from disk, as a user opens it; real pointer and key events go to it; what it says on its console, and what its content policy
refuses, is kept.
"""

import base64
import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35}


class Browser:
    """One tab. Coordinates are CSS pixels of the window."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, os.fdopen(from_browser, "rb", closefd=False)
        self._said = 0
        self._events: list[dict[str, Any]] = []
        self.complaints: list[str] = []  # errors and warnings of the console, and exceptions
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._said += 1
        message = {"id": self._said, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            heard = self._hear()
            if heard.get("id") == self._said:
                assert "error" not in heard, f"{method}: {heard['error']}"
                return dict(heard["result"])

    def _hear(self) -> dict[str, Any]:
        """The next message; an event is kept."""
        text = bytearray()
        while (byte := self._from.read(1)) != b"\0":
            assert byte, "the browser is gone"
            text += byte
        heard = json.loads(text)
        if "method" in heard:
            self._events.append(heard)
            self._complain(heard["method"], heard["params"])
        return dict(heard)

    def _complain(self, method: str, told: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(told["exceptionDetails"]))
        if method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(told["args"]))
        if method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(told["entry"]["text"])
        if method == "Network.requestWillBeSent" and not told["request"]["url"].startswith(("file:", "data:")):
            self.complaints.append(f"asked the network for {told['request']['url']}")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._call(method, self._session, **parameters)

    def open(self, page: Path, *, width: int = 1440, height: int = 900, scheme: str = "light") -> None:
        """The page, loaded, in a window of this size, with the user's `scheme` of colours: light or dark."""
        self._events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._hear()

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page, as JSON can say it."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def place(self, selector: str) -> tuple[float, float, float, float]:
        """x, y, width and height of the first such element, scrolled into the window."""
        return tuple(
            self.evaluate(
                f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}});"
                "const r = e.getBoundingClientRect(); return [r.x, r.y, r.width, r.height] })()"
            )
        )

    def move(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        x, y, width, height = self.place(selector)
        self.move(x + width / 2, y + height / 2)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x + width / 2, y=y + height / 2, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """A key, in what has the focus."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])

    def type(self, text: str) -> None:
        """Text, into what has the focus."""
        self.call("Input.insertText", text=text)

    def picture(self, *, whole: bool = False) -> Image.Image:
        """The window as it is seen, or the whole page."""
        told = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **({"clip": self._whole()} if whole else {}))
        return Image.open(io.BytesIO(base64.b64decode(told["data"]))).convert("RGB")

    def _whole(self) -> dict[str, float]:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser for as long as the block lasts. The test fails where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.fail("no Chromium to look at pages with: apt-get install chromium", pytrace=False)
    (read_there, write_here), (read_here, write_there) = os.pipe(), os.pipe()

    def as_3_and_4() -> None:
        # Where --remote-debugging-pipe reads and writes. By way of high numbers: one of the four may be 3 or 4.
        os.dup2(read_there, 100)
        os.dup2(write_there, 101)
        os.dup2(100, 3)
        os.dup2(101, 4)

    with TemporaryDirectory() as profile:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        process = subprocess.Popen([program, *flags], preexec_fn=as_3_and_4, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(read_there)
        os.close(write_there)
        try:
            yield Browser(write_here, read_here)
        finally:
            os.close(write_here)
            process.terminate()
            process.wait(timeout=20)
            os.close(read_here)
