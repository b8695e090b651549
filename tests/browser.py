"""A page in headless Chromium, driven over the DevTools protocol: sizes, schemes, scripts, errors, screenshots."""

from __future__ import annotations

import asyncio
import base64
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
_PATIENCE = 300  # seconds until a start or an answer counts as failed; a busy machine needs some


@dataclass
class Page:
    """One open page. `errors` holds whatever it logged as an error or threw, `requests` every address it asked for."""

    send: Callable[..., Awaitable[dict[str, Any]]]
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    async def run(self, script: str) -> Any:
        """The value of an expression (promises are waited for)."""
        answer = await self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, f"{script}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + _PATIENCE
        while not await self.run(script):
            assert time.monotonic() < end, f"never came true: {script}"
            await asyncio.sleep(0.05)

    async def shot(self, path: Path, whole: bool = True) -> None:
        """Save a screenshot, of the whole page or of what the window shows."""
        size = (await self.send("Page.getLayoutMetrics"))["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        options = {"captureBeyondViewport": True, "clip": clip} if whole else {}
        answer = await self.send("Page.captureScreenshot", format="png", **options)
        path.write_bytes(base64.b64decode(answer["data"]))


async def serious(page: Page) -> list[str]:
    """What axe finds on a page that would keep people from using it: the rule, and the first place."""
    import axe_core_python

    await page.run((Path(axe_core_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8") + ";null")
    found = await page.run("axe.run().then(result => result.violations)")
    return [
        f"{one['id']}: {one['nodes'][0]['html']} ({one['nodes'][0].get('failureSummary')})"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


@contextmanager
def chromium() -> Iterator[int]:
    """A running browser with a profile of its own; gives the port of its DevTools."""
    assert CHROMIUM is not None, "no Chromium on this machine"
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


def visit(
    port: int,
    url: str,
    work: Callable[[Page], Awaitable[Any]],
    width: int = 1400,
    dark: bool = False,
    height: int = 900,
) -> Any:
    """Open a page in a new tab, do some work on it, and close the tab; returns what `work` returns."""
    return asyncio.run(_visit(port, url, work, width, dark, height))


def _port(profile: Path, process: subprocess.Popen[bytes]) -> int:
    file, end = profile / "DevToolsActivePort", time.monotonic() + _PATIENCE
    while not file.exists() or not file.read_text().strip():
        assert process.poll() is None and time.monotonic() < end, "Chromium did not start"
        time.sleep(0.05)
    return int(file.read_text().splitlines()[0])


async def _visit(
    port: int, url: str, work: Callable[[Page], Awaitable[Any]], width: int, dark: bool, height: int
) -> Any:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(_PATIENCE)) as session:
        async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as answer:
            target = await answer.json()
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
            await send(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=height,
                deviceScaleFactor=1,
                mobile=width < 600,
            )
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
        said = message.json()
        parameters = said.get("params", {})
        if "id" in said:
            future = waiting.pop(said["id"])
            if "error" in said:
                future.set_exception(RuntimeError(str(said["error"])))
            else:
                future.set_result(said["result"])
        elif said["method"] == "Runtime.exceptionThrown":
            page.errors.append(
                str(
                    parameters["exceptionDetails"].get("exception", {}).get("description")
                    or parameters["exceptionDetails"]["text"]
                )
            )
        elif said["method"] == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            page.errors.append(
                " ".join(str(part.get("value") or part.get("description")) for part in parameters["args"])
            )
        elif said["method"] == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            page.errors.append(parameters["entry"]["text"])
        elif said["method"] == "Network.requestWillBeSent":
            page.requests.append(parameters["request"]["url"])
