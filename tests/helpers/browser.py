"""A page in a real browser: Chromium without a window, asked over its DevTools protocol."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from tests.helpers.waiting import wait_until_async

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_START_S = 60.0


def why_not() -> str | None:
    """Why there is no browser here; None where there is."""
    return None if any(map(shutil.which, _NAMES)) else "Chromium is not installed"


class Page:
    """One page; its text and its scripts' words."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        number = next(self._numbers)
        params = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        await self._socket.send_json({"id": number, "method": "Runtime.evaluate", "params": params})
        async with asyncio.timeout(30):
            while (told := await self._socket.receive_json()).get("id") != number:
                pass
        return told["result"]["result"].get("value")

    async def text(self) -> str:
        """What a person reads."""
        return str(await self.ask("document.body.innerText"))

    async def wait_for(self, words: str, timeout_s: float = 30.0) -> str:
        """Until they are shown."""
        deadline, text = asyncio.get_running_loop().time() + timeout_s, ""
        while asyncio.get_running_loop().time() < deadline:
            text = await self.text()
            if words in text:
                return text
            await asyncio.sleep(0.05)
        raise AssertionError(f"{words!r} is not shown:\n{text}")


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[Page]:
    """The page at ``url``, until it is closed with its browser."""
    browser = next(filter(None, map(shutil.which, _NAMES)))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        child = await asyncio.create_subprocess_exec(
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-dev-shm-usage", "--no-proxy-server", "--remote-debugging-port=0",
            f"--user-data-dir={profile}", "about:blank",
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": profile},
        )  # fmt: skip
        try:
            told = pathlib.Path(profile) / "DevToolsActivePort"
            await wait_until_async(lambda: told.exists() and "\n" in told.read_text(), _START_S)
            port = told.read_text().split("\n")[0]
            async with (
                aiohttp.ClientSession(trust_env=False) as session,
                session.put(f"http://127.0.0.1:{port}/json/new?{url}") as answer,
                session.ws_connect((await answer.json())["webSocketDebuggerUrl"]) as socket,
            ):
                yield Page(socket)
        finally:
            child.kill()
            await child.wait()
