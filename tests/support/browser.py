"""A headless Chromium that opens a page, answers questions about it and photographs it."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update --disable-sync"
    " --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe"
).split()
DESKTOP, PHONE = 1280, 390  # CSS pixels
SECONDS = 60.0  # until an answer


def program() -> str | None:
    """Return the browser of this machine, None where there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One page. It is spoken to over two pipes: JSON that ends with a zero byte."""

    def __init__(self, send: int, receive: int) -> None:
        """Open an empty page."""
        self.send, self.receive, self.rest, self.last = send, receive, b"", 0
        self.session, self.complaints = None, []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters) -> dict:
        """Return the answer to a command of the DevTools protocol."""
        self.last += 1
        asked = {"id": self.last, "method": method, "params": parameters}
        if self.session:
            asked["sessionId"] = self.session
        os.write(self.send, json.dumps(asked).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == asked["id"]:
                assert "error" not in answer, answer
                return answer["result"]

    def wait_for(self, event: str) -> None:
        """Read on until an event."""
        while self._next().get("method") != event:
            pass

    def _next(self) -> dict:
        end = time.monotonic() + SECONDS
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.receive], [], [], max(end - time.monotonic(), 0))
            assert ready, "the browser does not answer"
            self.rest += os.read(self.receive, 2**20)
        message, _, self.rest = self.rest.partition(b"\0")
        answer = json.loads(message)
        name, given = answer.get("method"), answer.get("params", {})
        if name == "Runtime.exceptionThrown" or name == "Log.entryAdded":
            self.complaints.append(given)
        if name == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning", "assert"):
            self.complaints.append(given)
        if name == "Network.requestWillBeSent":
            address = given["request"]["url"]
            if not address.startswith(("file:", "data:", "about:")):
                self.complaints.append({"asked for": address})
        return answer

    def show(self, page: Path, width: int, dark: bool = False, height: int = 900) -> None:
        """Load a page as a screen of this width shows it."""
        phone = width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=page.resolve().as_uri())
        self.wait_for("Page.loadEventFired")

    def evaluate(self, script: str):
        """Return what an expression gives on the page."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self, path: Path, height: int | None = None, top: int = 0) -> None:
        """Write a PNG of the page: from `top`, all of it or so much."""
        width = self.evaluate("document.documentElement.clientWidth")
        height = height or self.evaluate("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": top, "width": width, "height": height, "scale": 1}
        shot = self.ask("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


# Gives a program the two pipes as 3 and 4, where Chromium looks for them, and becomes it.
LAUNCH = """
import fcntl, os, sys
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]
for place, fd in zip((3, 4), high):
    os.dup2(fd, place)
os.execv(sys.argv[3], sys.argv[3:])
"""


@contextmanager
def browser():
    """Yield a Browser; it ends with the block."""
    to_read, send = os.pipe()
    receive, to_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        launch = [sys.executable, "-c", LAUNCH, str(to_read), str(to_write)]
        process = subprocess.Popen(
            [*launch, program(), *FLAGS, f"--user-data-dir={profile}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(to_read, to_write),
            env=os.environ | {"HOME": profile},
        )
        os.close(to_read)
        os.close(to_write)
        try:
            yield Browser(send, receive)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(send)
            os.close(receive)
