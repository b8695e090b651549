"""A page in headless Chromium, driven over the DevTools protocol: sizes, schemes, scripts, errors, screenshots."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
]
_READY = (
    "document.readyState === 'complete' && location.href !== 'about:blank' && "
    "(document.getElementById('payload') === null || document.documentElement.dataset.ready === 'yes')"
)
_PATIENCE = 300  # timeout in seconds


@dataclass
class Page:
    """An open page with its JavaScript errors and logged warnings, and the URLs of its requests."""

    send: Callable[..., Awaitable[dict[str, Any]]]
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    async def run(self, script: str) -> Any:
        """The value of an expression; promises are awaited."""
        reply = await self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in reply, f"{script}: {reply['exceptionDetails']}"
        return reply["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + _PATIENCE
        while not await self.run(script):
            assert time.monotonic() < end, f"timeout: {script}"
            await asyncio.sleep(0.05)


async def serious(page: Page) -> list[str]:
    """Serious accessibility violations of a page found by axe: rule and first element."""
    import axe_core_python

    await page.run((Path(axe_core_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8") + ";null")
    violations = await page.run("axe.run().then(result => result.violations)")
    return [
        f"{item['id']}: {item['nodes'][0]['html']} ({item['nodes'][0].get('failureSummary')})"
        for item in violations
        if item["impact"] in ("serious", "critical")
    ]


@contextmanager
def chromium() -> Iterator[int]:
    """Start a browser with a profile of its own; yields the port of its DevTools."""
    assert CHROMIUM is not None, "Chromium is not installed"
    with tempfile.TemporaryDirectory(prefix="syncclip-browser-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield _port(Path(profile), process)
        finally:
            process.terminate()
            process.wait(_PATIENCE)


def visit(port: int, url: str, work: Callable[[Page], Awaitable[Any]], width: int = 1400, dark: bool = False) -> Any:
    """Open a page in a new tab, run `work` on it, and close the tab; returns the result of `work`."""
    return asyncio.run(_visit(port, url, work, width, dark))


def _port(profile: Path, process: subprocess.Popen[bytes]) -> int:
    file, end = profile / "DevToolsActivePort", time.monotonic() + _PATIENCE
    while not file.exists() or not file.read_text().strip():
        assert process.poll() is None and time.monotonic() < end, "Chromium did not start"
        time.sleep(0.05)
    return int(file.read_text().splitlines()[0])


async def _visit(port: int, url: str, work: Callable[[Page], Awaitable[Any]], width: int, dark: bool) -> Any:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(_PATIENCE)) as session:
        async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as reply:
            target = await reply.json()
        async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
            numbers = itertools.count(1)

            async def send(method: str, **parameters: Any) -> dict[str, Any]:
                number = next(numbers)
                waiting[number] = asyncio.get_running_loop().create_future()
                await socket.send_json({"id": number, "method": method, "params": parameters})
                return await asyncio.wait_for(waiting[number], _PATIENCE)

            page = Page(send)
            listener = asyncio.create_task(_listen(socket, waiting, page))
            for domain in ("Page", "Runtime", "Log", "Network"):
                await send(f"{domain}.enable")
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
            await send("Emulation.setDeviceMetricsOverride", **size)
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            await send("Emulation.setEmulatedMedia", features=[scheme])
            await send("Page.navigate", url=url)
            await page.until(_READY)
            try:
                return await work(page)
            finally:
                await send("Page.close")
                listener.cancel()


async def _listen(
    socket: aiohttp.ClientWebSocketResponse, waiting: dict[int, asyncio.Future[dict[str, Any]]], page: Page
) -> None:
    async for message in socket:
        event = message.json()
        parameters = event.get("params", {})
        if "id" in event:
            future = waiting.pop(event["id"])
            if "error" in event:
                future.set_exception(RuntimeError(str(event["error"])))
            else:
                future.set_result(event["result"])
        elif event["method"] == "Runtime.exceptionThrown":
            page.errors.append(
                str(
                    parameters["exceptionDetails"].get("exception", {}).get("description")
                    or parameters["exceptionDetails"]["text"]
                )
            )
        elif event["method"] == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            page.errors.append(
                " ".join(str(part.get("value") or part.get("description")) for part in parameters["args"])
            )
        elif event["method"] == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            page.errors.append(parameters["entry"]["text"])
        elif event["method"] == "Network.requestWillBeSent":
            page.requests.append(parameters["request"]["url"])
