"""The demo page in Chromium: dropped images and their classes, errors, the token, layout and accessibility."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from syncclip import jobs
from syncclip.inference.model import Model, load
from syncclip.recipe.recipe import Recipe
from syncclip.serving.app import Front, Replica
from tests.browser import Page, serious, visit
from tests.conftest import TinyWorld
from tests.ray_head import free_ports

pytestmark = [pytest.mark.browser, pytest.mark.slow]

TOKEN = "open sesame"
DROP = """(() => {{
    const bytes = Uint8Array.from(atob("{data}"), (letter) => letter.charCodeAt(0)), carried = new DataTransfer();
    carried.items.add(new File([bytes], "{name}", {{type: "{kind}"}}));
    document.getElementById("zone").dispatchEvent(
        new DragEvent("drop", {{dataTransfer: carried, bubbles: true, cancelable: true}}));
}})()"""
ROWS = """[...document.querySelectorAll("#classes li")].map((row) => [
    row.querySelector("span").textContent, row.querySelector("b").textContent,
    row.querySelector("i").getBoundingClientRect().width,
    getComputedStyle(row.querySelector("i"), "::before").width])"""
STATE, DONE = "document.getElementById('state').textContent", "!{}.includes('…')"


@pytest.fixture(scope="module")
def model(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Model:
    recipe = Recipe.load(tiny.recipe, ["training.method=zeroshot", "training.data=real"])
    return load(jobs.run_here(recipe, str(tmp_path_factory.mktemp("page") / "run")).url, device="cpu")


@contextmanager
def run_server(app: Any) -> Iterator[str]:
    [port] = free_ports(1)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def address(model: Model) -> Iterator[str]:
    with run_server(Front(Replica(model, top=5).app(), None)) as url:
        yield url


async def drop(page: Page, data: bytes, name: str = "bus.png", kind: str = "image/png") -> str:
    """State of the page after a file is dropped on it."""
    before = await page.run(STATE)
    await page.run(DROP.format(data=base64.b64encode(data).decode(), name=name, kind=kind))
    await page.until(f"{DONE.format(STATE)} && ({STATE} !== {before!r} || document.querySelector('#classes li'))")
    return str(await page.run(STATE))


@pytest.mark.parametrize(("width", "dark"), [(400, False), (1400, True)])
def test_a_dropped_image_is_classified_with_bars(
    browser: int, address: str, model: Model, images: Path, width: int, dark: bool
) -> None:
    image = images / "03.png"

    async def work(page: Page) -> None:
        best, *_ = expected = model.classify(image)
        assert await drop(page, image.read_bytes()) == f"bus.png: {best.name}"
        rows = await page.run(ROWS)
        assert [(name, share) for name, share, *_ in rows] == [
            (label.name, f"{100 * label.probability:.1f} %") for label in expected
        ]
        for (_, _, full, bar), label in zip(rows, expected, strict=True):
            assert float(bar.removesuffix("px")) == pytest.approx(full * label.probability, abs=1)
        assert await page.run("document.getElementById('image').alt") == "bus.png"
        assert await page.run("document.documentElement.scrollWidth") == width
        paper = await page.run("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, paper[4:-1].split(","))) < 60) == dark
        assert await serious(page) == []
        requests = [url for url in page.requests if not url.startswith(("data:", "blob:"))]
        assert (requests, page.errors) == ([address, f"{address}classify"], [])

    visit(browser, address, work, width, dark)


@pytest.mark.parametrize(("width", "dark"), [(400, True), (1400, False)])
def test_an_invalid_file_is_an_error_and_the_next_image_is_classified(
    browser: int, address: str, images: Path, width: int, dark: bool
) -> None:
    async def work(page: Page) -> None:
        output = await drop(page, b"no image", "notes.txt", "text/plain")
        assert output == "notes.txt: not a readable image; choose a JPEG, PNG or WebP file."
        assert await page.run("document.getElementById('state').className") == "error"
        assert await page.run("[document.getElementById('image').hidden, document.querySelector('li')]") == [True, None]
        assert await page.run("document.documentElement.scrollWidth") == width
        assert await serious(page) == []
        assert (await drop(page, (images / "00.png").read_bytes())).startswith("bus.png: ")
        assert await page.run("document.getElementById('state').className") == ""
        assert page.errors == []

    visit(browser, address, work, width, dark)


def test_a_file_can_be_selected_by_keyboard(browser: int, address: str, images: Path) -> None:
    async def work(page: Page) -> None:
        await page.send("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
        assert await page.run("document.activeElement.id") == "file"
        assert "choose" in await page.run("document.activeElement.labels[0].textContent")
        node = (await page.send("Runtime.evaluate", expression="document.getElementById('file')"))["result"]["objectId"]
        await page.send("DOM.setFileInputFiles", files=[str(images / "05.png")], objectId=node)
        await page.until("document.querySelectorAll('#classes li').length === 5")
        assert str(await page.run(STATE)).startswith("05.png: ")
        assert page.errors == []

    visit(browser, address, work)


def test_the_page_asks_for_a_required_token(browser: int, model: Model, images: Path) -> None:
    send = "document.getElementById('token').value = '{}'; document.querySelector('#key button').click()"

    async def work(page: Page) -> None:
        assert "the token is missing or wrong" in await drop(page, (images / "00.png").read_bytes())
        assert await page.run("[document.activeElement.id, document.getElementById('key').hidden]") == ["token", False]
        assert await serious(page) == []
        await page.run(send.format(TOKEN))
        await page.until("document.querySelectorAll('#classes li').length === 5")
        assert await page.run("document.getElementById('key').hidden")
        assert len(page.errors) == 1 and "401" in page.errors[0]  # logged by the browser

    with run_server(Front(Replica(model).app(), hashlib.sha256(TOKEN.encode()).digest())) as address:
        visit(browser, address, work, width=400)
