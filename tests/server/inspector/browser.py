"""A Chromium that is controlled by its DevTools protocol over a WebSocket."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
)
TIMEOUT = 50
"""Seconds for which something is waited for."""


class Page:
    """One page of the browser."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self._ws = ws
        self._numbers = count(1)
        self.complaints: list[str] = []
        """What the page complained of: exceptions, errors, what its policy kept out."""

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Execute a command of the protocol and return its result."""
        number = next(self._numbers)
        await self._ws.send_json({"id": number, "method": method, "params": params})
        while True:
            message = await self._ws.receive_json(timeout=TIMEOUT)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params["exceptionDetails"]))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.complaints.append(params["entry"]["text"])
            case _:
                pass

    async def open(self, url: str) -> None:
        """Open a URL."""
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def run(self, script: str) -> Any:
        """Return the value of an expression."""
        got = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in got, got["exceptionDetails"]
        return got["result"].get("value")

    async def until(self, script: str) -> Any:
        """Wait until an expression is true and return its value."""
        async with asyncio.timeout(TIMEOUT):
            while not (value := await self.run(script)):  # noqa: ASYNC110  it is the page that changes
                await asyncio.sleep(0.02)
        return value

    async def text(self, selector: str) -> str:
        """Return the visible text."""
        return await self.run(f"document.querySelector({json.dumps(selector)}).innerText")

    async def shows(self, selector: str, text: str) -> None:
        """Wait until this text is visible."""
        await self.until(
            f"document.querySelector({json.dumps(selector)})?.innerText.includes({json.dumps(text)}) ?? false"
        )

    async def click(self, selector: str) -> None:
        """Click on an element."""
        await self.run(f"document.querySelector({json.dumps(selector)}).click()")

    async def focus(self, selector: str) -> None:
        """Focus an element and select its text, so that typing replaces it."""
        found = f"document.querySelector({json.dumps(selector)})"
        await self.run(f"{found}.focus(), {found}.select?.()")

    async def type(self, text: str) -> None:
        """Type this text into the focused element."""
        await self.call("Input.insertText", text=text)

    async def press(self, key: str, code: int, modifiers: int = 0) -> None:
        """Press and release a key. `modifiers`: 2 is Ctrl."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            fields = {"modifiers": modifiers, **({"text": text} if kind == "keyDown" and text else {})}
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **fields)

    async def nodes(self) -> list[tuple[str, str]]:
        """Return role and name of each node in the accessibility tree."""
        tree = await self.call("Accessibility.getFullAXTree")
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in tree["nodes"]
            if not node.get("ignored") and "role" in node
        ]

    async def picture(self, *, width: int, height: int, dark: bool) -> bytes:
        """Return a screenshot as PNG."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.call("Emulation.setEmulatedMedia", features=scheme)
        shot = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(shot["data"])


@asynccontextmanager
async def chromium(program: str, folder: Path, *flags: str) -> AsyncGenerator[Page]:
    """Open a page of a browser that ends with the block; `folder` is for its profile."""
    process = await asyncio.create_subprocess_exec(
        program,
        *FLAGS,
        *flags,
        f"--user-data-dir={folder}",
        "about:blank",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            while (port := _port(folder / "DevToolsActivePort")) is None:  # noqa: ASYNC110  another program writes it
                await asyncio.sleep(0.02)
        async with aiohttp.ClientSession() as http:
            async with http.get(f"http://127.0.0.1:{port}/json/list") as answer:
                (target,) = [it for it in await answer.json() if it["type"] == "page"]
            async with http.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as ws:
                page = Page(ws)
                for domain in ("Page", "Runtime", "Log", "Accessibility"):
                    await page.call(f"{domain}.enable")
                await page.call("Emulation.setFocusEmulationEnabled", enabled=True)
                yield page
    finally:
        process.kill()
        await process.wait()


def _port(path: Path) -> str | None:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return lines[0] if len(lines) > 1 else None
