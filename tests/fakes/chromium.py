# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium that is told what to do over its DevTools pipe, as a user would do it."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

PATIENCE_S = 60.0


def find_chromium() -> str | None:
    """Return the program, if it is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Chromium:
    """One browser with one page.

    Args:
        folder: an empty folder for its profile.

    Attributes:
        requested: URLs of everything that the page asked for.
        console: what the browser wrote to its console, blocked things among it.
    """

    def __init__(self, folder: Path) -> None:
        program = find_chromium()
        assert program is not None
        self.requested: list[str] = []
        self.console: list[str] = []
        self._loads = self._number = 0
        self._rest = b""
        self._session: str | None = None
        their_input, self._to = os.pipe()
        self._from, their_output = os.pipe()
        command = (
            f"exec {program} --headless --no-sandbox --disable-gpu --disable-dev-shm-usage "
            "--no-first-run --disable-background-networking --disable-component-update "
            f"--disable-sync --remote-debugging-pipe --user-data-dir={folder} --no-proxy-server "
            f"--window-size=900,640 about:blank 3<&{their_input} 4>&{their_output}"
        )
        try:
            self._process = subprocess.Popen(
                ["bash", "-c", command],
                pass_fds=(their_input, their_output),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "HOME": str(folder)},
            )
        finally:
            os.close(their_input)
            os.close(their_output)
        try:
            target = self.do("Target.createTarget", url="about:blank")["targetId"]
            found = self.do("Target.attachToTarget", targetId=target, flatten=True)
            self._session = found["sessionId"]
            for domain in ("Page", "DOM", "Network", "Log"):
                self.do(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the browser."""
        os.close(self._to)  # it ends when its pipe does
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._from)

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def go(self, url: str) -> str:
        """Open an address; return the page as it is after loading."""
        return self._loading(lambda: self.do("Page.navigate", url=url))

    def click(self, selector: str) -> str:
        """Click on an element with the mouse; return the page that it leads to."""
        return self._loading(lambda: self._click(selector))

    def type(self, selector: str, text: str) -> None:
        """Replace what a text field holds."""
        self.do("DOM.focus", nodeId=self._find(selector))
        for kind in ("keyDown", "keyUp"):
            self.do(
                "Input.dispatchKeyEvent",
                type=kind,
                key="a",
                code="KeyA",
                modifiers=2,
                commands=["selectAll"],
            )
        self.do("Input.insertText", text=text)

    def html(self) -> str:
        """Return the page as the browser has it."""
        root = self.do("DOM.getDocument")["root"]["nodeId"]
        return self.do("DOM.getOuterHTML", nodeId=root)["outerHTML"]

    def screenshot(self) -> bytes:
        """Return what is seen, as PNG."""
        return base64.b64decode(self.do("Page.captureScreenshot", format="png")["data"])

    def _find(self, selector: str) -> int:
        root = self.do("DOM.getDocument")["root"]["nodeId"]
        node = self.do("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        assert node, f"{selector} is not on the page"
        return node

    def _click(self, selector: str) -> None:
        node = self._find(selector)
        self.do("DOM.scrollIntoViewIfNeeded", nodeId=node)
        x1, y1, _, _, x2, y2, *_ = self.do("DOM.getContentQuads", nodeId=node)["quads"][0]
        for kind in ("mousePressed", "mouseReleased"):
            self.do(
                "Input.dispatchMouseEvent",
                type=kind,
                x=(x1 + x2) / 2,
                y=(y1 + y2) / 2,
                button="left",
                clickCount=1,
            )

    def _loading(self, action: Any) -> str:
        before = self._loads
        action()
        while self._loads == before:
            self._next()
        return self.html()

    def _next(self) -> dict[str, Any]:
        """Return the next message; note events."""
        deadline = time.monotonic() + PATIENCE_S
        while b"\0" not in self._rest:
            left = max(0.0, deadline - time.monotonic())
            assert select.select([self._from], [], [], left)[0], "no answer"
            data = os.read(self._from, 1 << 16)
            assert data, "the browser ended"
            self._rest += data
        raw, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(raw)
        event, parameters = message.get("method"), message.get("params", {})
        if event == "Page.loadEventFired":
            self._loads += 1
        elif event == "Network.requestWillBeSent":
            self.requested.append(parameters["request"]["url"])
        elif event == "Log.entryAdded":
            self.console.append(parameters["entry"]["text"])
        return message
