"""A headless Chromium that tests drive through its DevTools protocol; no driver, no network."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import websocket

PROGRAM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
QUIET = (  # noqa: SIM905
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-default-apps --hide-scrollbars --disable-dev-shm-usage"
).split()


class Browser:
    """One tab of a headless Chromium with a profile of its own; use as a context manager."""

    def __init__(self, profile: Path):
        self.profile, self.requests, self.opened = Path(profile), [], 0
        self._numbers = itertools.count(1)

    def __enter__(self):
        command = [PROGRAM, *QUIET, "--remote-debugging-port=0", f"--user-data-dir={self.profile}", "about:blank"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self._socket = websocket.create_connection(self._address(), timeout=60, suppress_origin=True)
        for domain in ("Page", "Runtime", "Network", "Accessibility"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _address(self) -> str:
        port = self.profile / "DevToolsActivePort"
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                number = port.read_text().splitlines()[0]
                with urllib.request.urlopen(f"http://127.0.0.1:{number}/json/list", timeout=10) as answer:
                    return next(t["webSocketDebuggerUrl"] for t in json.load(answer) if t["type"] == "page")
            except (OSError, IndexError, StopIteration, ValueError):
                time.sleep(0.1)
        raise TimeoutError("Chromium did not come up")

    def ask(self, method: str, **params):
        """Send one command; its answer. Requests and opened dialogs met meanwhile are noted."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        return self._until(lambda said: said.get("id") == number)

    def _until(self, wanted):
        while True:
            said = json.loads(self._socket.recv())
            if said.get("method") == "Network.requestWillBeSent":
                self.requests.append(said["params"]["request"]["url"])
            elif said.get("method") == "Page.javascriptDialogOpening":
                self.opened += 1
                self._socket.send(
                    json.dumps(
                        {"id": next(self._numbers), "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
                    )
                )
            if wanted(said):
                assert "error" not in said, said
                return said.get("result", {})

    def open(self, page: Path | str, width: int = 1280, height: int = 900, dark: bool = False, media: str = ""):
        """Load a page from disk at a size and in a scheme; returns when it has loaded."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.requests.clear()
        number = next(self._numbers)
        url = page if isinstance(page, str) else page.as_uri()
        self._socket.send(json.dumps({"id": number, "method": "Page.navigate", "params": {"url": "about:blank"}}))
        self._until(lambda said: said.get("method") == "Page.loadEventFired")
        self.requests.clear()
        self._socket.send(json.dumps({"id": next(self._numbers), "method": "Page.navigate", "params": {"url": url}}))
        self._until(lambda said: said.get("method") == "Page.loadEventFired")
        return self

    def run(self, script: str):
        """The value of a JavaScript expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str):
        code = {"Tab": 9, "Enter": 13, " ": 32}[key]
        text = {"Enter": "\r", " ": " "}.get(key, "")
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, text=text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def picture(self, out: Path, full: bool = True) -> Path:
        data = self.ask("Page.captureScreenshot", captureBeyondViewport=full)["data"]
        Path(out).write_bytes(base64.b64decode(data))
        return Path(out)
