"""A headless Chromium, driven over its own pipe (Chrome DevTools Protocol): nothing to install beside the browser."""

import base64
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE_S = 60


def find() -> str | None:
    """The browser's command, from $CHROMIUM or the usual names; None if there is none."""
    named = os.environ.get("CHROMIUM")
    return named or next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One headless browser with one page; `problems` are errors and warnings of the console, in words."""

    def __init__(self, command: str, profile: Path):
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        # the protocol's pipe is file descriptors 3 (in) and 4 (out)
        start = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        options = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--hide-scrollbars", "--remote-debugging-pipe", f"--user-data-dir={profile}",
            "--autoplay-policy=no-user-gesture-required",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            ["bash", "-c", start, "chromium", command, *options, "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._numbers, self._buffer, self.problems = itertools.count(1), b"", []
        self._session = None
        self._events: list[str] = []
        target = next(t for t in self._pages() if t["type"] == "page")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Log"):
            self.call(f"{part}.enable")

    def close(self) -> None:
        """End the browser."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def call(self, method: str, **arguments) -> dict:
        """Send one command, hand back its result; what the page says meanwhile goes to `problems`."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": arguments}
        if self._session and not method.startswith("Target."):
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._hear(answer)

    def open(self, path: Path, width: int, height: int = 900, reduced_motion: bool = False) -> None:
        """Open a file in a window of this size and wait until it is loaded."""
        value = "reduce" if reduced_motion else "no-preference"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": value}])
        self.resize(width, height)
        self.problems, self._events = [], []
        self.call("Page.navigate", url=path.resolve().as_uri())
        while "Page.loadEventFired" not in self._events:
            self._hear(self._next())

    def resize(self, width: int, height: int = 900) -> None:
        """Change the size of the window; below 640 pixels it is a phone's."""
        phone = width < 640
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def run(self, script: str):
        """Evaluate JavaScript (a promise is waited for), hand back its value."""
        arguments = {"expression": script, "returnByValue": True, "awaitPromise": True}
        result = self.call("Runtime.evaluate", **arguments)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 20) -> None:
        """Wait until a JavaScript condition holds."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"still not true after {seconds} s: {script}"
            time.sleep(0.05)

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            held = {"text": text} if kind == "keyDown" and text else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **held)

    def screenshot(self, out: Path, whole: bool = True) -> None:
        """Write a PNG of the page, whole or the part in the window."""
        content = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(base64.b64decode(content))

    def _pages(self) -> list[dict]:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            pages = self.call("Target.getTargets")["targetInfos"]
            if any(page["type"] == "page" for page in pages):
                return pages
            time.sleep(0.05)
        raise TimeoutError("chromium opened no page")

    def _hear(self, message: dict) -> None:
        method, told = message.get("method"), message.get("params", {})
        self._events.append(method)
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(told["exceptionDetails"].get("exception", {}).get("description")))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.problems.append(f"{told['type']}: {[a.get('value') for a in told['args']]}")
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{told['entry']['level']}: {told['entry']['text']}")

    def _next(self) -> dict:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], PATIENCE_S)
            part = os.read(self._read, 1 << 20) if ready else b""
            assert part, f"chromium said nothing for {PATIENCE_S} s" if not ready else "chromium ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)
