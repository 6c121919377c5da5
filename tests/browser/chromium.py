"""A headless Chromium driven over its debugging pipe: addresses in, what pages say and show out.

Only the standard library. Messages are JSON ended by a zero byte, in over descriptor 3 and out over
descriptor 4, as `--remote-debugging-pipe` has it.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# nothing is asked from the network, nothing is remembered, one process less for the GPU
FLAGS = (
    "--headless=new", "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check",
    "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
    "--mute-audio", "--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
ANSWER_S, STOP_S, FREE_DESCRIPTOR = 240.0, 10.0, 20
# a shell cannot give two-digit descriptors away, and 3 and 4 may be in use here
LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
    "os.execvp(sys.argv[3], sys.argv[3:])"
)


def find() -> str | None:
    """FUSEQUANT_CHROMIUM, else the first known name on the path; none where pipes are no files."""
    if os.name != "posix":
        return None
    said = os.environ.get("FUSEQUANT_CHROMIUM")
    return said or next((found for name in NAMES if (found := shutil.which(name))), None)


class PageError(RuntimeError):
    """A script that threw in the page: its message and where."""


@dataclass
class Page:
    """One open page. `complaints` are errors and warnings of its console, uncaught ones too."""

    browser: Chromium
    session: str
    complaints: list[str] = field(default_factory=list)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol -> its result."""
        return self.browser.call(method, params, self.session)

    def run(self, script: str) -> Any:
        """An expression (a promise is waited for) -> its value."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in found:
            thrown = found["exceptionDetails"]
            said = thrown.get("exception", {}).get("description") or thrown["text"]
            raise PageError(said)
        return found["result"].get("value")

    def wait(self, condition: str, timeout_s: float = ANSWER_S) -> None:
        """Until an expression is true."""
        limit = time.monotonic() + timeout_s
        while time.monotonic() < limit:
            if self.run(f"Boolean({condition})"):
                return
            time.sleep(0.1)
        raise TimeoutError(f"not within {timeout_s:.0f} s: {condition}")

    def picture(self, path: Path, quality: int = 85) -> Path:
        """What the page shows now, as `.png` or `.jpg`."""
        kind = (
            {"format": "png"} if path.suffix == ".png" else {"format": "jpeg", "quality": quality}
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", **kind)["data"]))
        return path

    def size(self, width: int, height: int) -> None:
        """The page's size in pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def hear(self, event: dict[str, Any]) -> None:
        """One event of the protocol -> a complaint, if it is one."""
        said = event.get("params", {})
        if event["method"] == "Runtime.exceptionThrown":
            thrown = said["exceptionDetails"]
            text = thrown.get("exception", {}).get("description") or thrown["text"]
            self.complaints.append(f"uncaught: {text}")
        elif event["method"] == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning"):
            parts = (str(arg.get("value", arg.get("description", ""))) for arg in said["args"])
            self.complaints.append(f"{said['type']}: {' '.join(parts)}")
        elif event["method"] == "Log.entryAdded" and said["entry"]["level"] == "error":
            entry = said["entry"]
            self.complaints.append(f"log: {entry['text']} {entry.get('url', '')}")


class Chromium:
    """`with Chromium() as browser: page = browser.open(url)`; its profile is removed at the end."""

    def __init__(self, program: str | None = None) -> None:
        found = program or find()
        if found is None:
            raise FileNotFoundError("no Chromium on this machine")
        self.program = found
        self.profile = Path(tempfile.mkdtemp(prefix="fusequant-chromium-"))
        self.pages: dict[str, Page] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._to, self._from = -1, -1
        self._heard, self._last = b"", 0

    def __enter__(self) -> Chromium:
        import fcntl

        hears, self._to = os.pipe()
        self._from, says = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, FREE_DESCRIPTOR) for end in (hears, says)]
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        command = [self.program, *FLAGS, *root, f"--user-data-dir={self.profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", LAUNCH, *map(str, ends), *command],
            pass_fds=ends,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for end in (hears, says, *ends):
            os.close(end)
        self.call("Browser.getVersion")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(STOP_S)
        for end in (self._to, self._from):
            os.close(end)
        shutil.rmtree(self.profile, ignore_errors=True)

    def open(self, address: str, width: int = 1600, height: int = 1000) -> Page:
        """An address -> its page, listened to from the first line on."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})
        page = Page(self, attached["sessionId"])
        self.pages[page.session] = page
        for part in ("Page", "Runtime", "Log"):
            page.call(f"{part}.enable")
        page.size(width, height)
        page.call("Page.navigate", url=address)
        return page

    def call(
        self, method: str, params: dict[str, Any] | None = None, session: str | None = None
    ) -> dict[str, Any]:
        """One command -> its result; what pages say meanwhile is heard."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params or {}}
        if session is not None:
            message["sessionId"] = session
        self._send(json.dumps(message).encode() + b"\0")
        limit = time.monotonic() + ANSWER_S
        while time.monotonic() < limit:
            answer = self._next(limit)
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise PageError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])
            if "method" in answer and answer.get("sessionId") in self.pages:
                self.pages[answer["sessionId"]].hear(answer)
        raise TimeoutError(f"{method}: no answer within {ANSWER_S:.0f} s")

    def _send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._to, data) :]

    def _next(self, limit: float) -> dict[str, Any]:
        while b"\0" not in self._heard:
            ready, _, _ = select.select([self._from], [], [], max(0.0, limit - time.monotonic()))
            if not ready:
                raise TimeoutError("Chromium says nothing")
            part = os.read(self._from, 1 << 20)
            if not part:
                raise RuntimeError("Chromium ended")
            self._heard += part
        line, self._heard = self._heard.split(b"\0", 1)
        return dict(json.loads(line))
