"""The demo page in Chromium: the model, images and their classes, errors, the token, layout and accessibility."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from PIL import Image

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
    const carried = new DataTransfer(), options = {{bubbles: true, cancelable: true}};
    for (const [name, data] of {files}) {{
        const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
        carried.items.add(new File([bytes], name));
    }}
    document.getElementById("zone").dispatchEvent("{event}" === "paste"
        ? new ClipboardEvent("paste", {{clipboardData: carried, ...options}})
        : new DragEvent("drop", {{dataTransfer: carried, ...options}}));
}})()"""
ROWS = """[...document.querySelectorAll("article:nth-child({}) li")].map((row) => [
    row.querySelector("span").textContent, row.querySelector("b").textContent,
    row.querySelector("i").getBoundingClientRect().width,
    getComputedStyle(row.querySelector("i"), "::before").width])"""
STATE = "document.getElementById('state').textContent"
ERRORS = "[...document.querySelectorAll('article .error')].map((error) => error.textContent)"


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


async def drop(page: Page, *files: tuple[str, bytes], event: str = "drop") -> str:
    """State of the page after files are dropped or pasted on it."""
    encoded = json.dumps([(name, base64.b64encode(data).decode()) for name, data in files])
    await page.run(DROP.format(files=encoded, event=event))
    await page.until(f"{STATE}.startsWith('Classified') || {STATE} === 'The service requires a token.'")
    return str(await page.run(STATE))


@pytest.mark.parametrize(("width", "dark", "event"), [(400, False, "drop"), (1400, True, "paste")])
def test_several_images_are_classified_with_bars(
    browser: int, address: str, model: Model, images: Path, width: int, dark: bool, event: str
) -> None:
    files = [images / "03.png", images / "07.png"]

    async def work(page: Page) -> None:
        output = await drop(page, *((file.name, file.read_bytes()) for file in files), event=event)
        assert output == "Classified 2 of 2 images."
        assert await page.run("[...document.querySelectorAll('h2')].map((name) => name.textContent)") == [
            file.name for file in files
        ]
        for position, file in enumerate(files, start=1):
            rows, expected = await page.run(ROWS.format(position)), model.classify(file)
            assert [(name, share) for name, share, *_ in rows] == [
                (label.name, f"{100 * label.probability:.1f} %") for label in expected
            ]
            for (_, _, full, bar), label in zip(rows, expected, strict=True):
                assert float(bar.removesuffix("px")) == pytest.approx(full * label.probability, abs=1)
        assert await page.run("document.documentElement.scrollWidth") == width
        paper = await page.run("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, paper[4:-1].split(","))) < 60) == dark
        assert await serious(page) == []
        requests = [url for url in page.requests if not url.startswith(("data:", "blob:"))]
        assert (requests, page.errors) == ([address, f"{address}model", *[f"{address}classify?neighbours=3"] * 2], [])

    visit(browser, address, work, width, dark)


def test_nearest_training_images_are_shown(
    browser: int, model: Model, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "others", torch.arange(len(model.classes)) >= model.base)  # which have no real images
    file = images / "03.png"

    async def work(page: Page) -> None:
        await drop(page, (file.name, file.read_bytes()))
        heading = f"Nearest training images of “{model.classify(file)[0].name}”"
        assert await page.run("document.querySelector('article h3').textContent") == heading
        figures = await page.run(
            "[...document.querySelectorAll('figure')].map((figure) => [figure.querySelector('img').naturalWidth,"
            " figure.querySelector('img').alt, figure.querySelector('figcaption').textContent])"
        )
        assert len(figures) == 3
        for width, alt, caption in figures:
            assert width > 0 and " image of " in alt and ", similarity " in caption
        assert await page.run("document.documentElement.scrollWidth") == 400
        assert (await serious(page), page.errors) == ([], [])

    with run_server(Front(Replica(model, neighbours=True).app(), None)) as url:
        visit(browser, url, work, 400)


def test_missing_training_images_are_reported(browser: int, address: str, images: Path) -> None:
    async def work(page: Page) -> None:
        await drop(page, ("03.png", (images / "03.png").read_bytes()))
        text = await page.run("document.querySelector('article h3').textContent")
        assert text == "No training images of this class are available."

    visit(browser, address, work)


def test_the_model_and_its_limits_are_described(browser: int, address: str, model: Model) -> None:
    async def work(page: Page) -> None:
        await page.until("!document.getElementById('about').hidden")
        text = await page.run("document.getElementById('about').textContent")
        for part in (f"zeroshot with CLIP {model.metadata.clip}", f"run {model.recipe.name} in", *model.classes):
            assert part in text
        assert f"{len(model.classes)} candidate classes" in text
        assert "even if it shows none of them" in text and "It is not calibrated" in text
        assert page.errors == []

    visit(browser, address, work)


@pytest.mark.parametrize(("width", "dark"), [(400, True), (1400, False)])
def test_an_invalid_file_is_an_error_and_the_next_image_is_classified(
    browser: int, address: str, images: Path, width: int, dark: bool
) -> None:
    tiff = io.BytesIO()
    Image.open(images / "00.png").save(tiff, "TIFF")  # Chromium can't display it

    async def work(page: Page) -> None:
        output = await drop(page, ("notes.txt", b"no image"), ("a.tiff", tiff.getvalue()))
        assert output == "Classified 1 of 2 images."
        assert await page.run("document.getElementById('state').className") == "error"
        [error] = await page.run(ERRORS)
        assert error.startswith("notes.txt: unreadable image: not a JPEG, PNG")
        assert len(await page.run(ROWS.format(2))) == 5
        await page.until("document.querySelector('img') === null")
        assert await page.run("document.documentElement.scrollWidth") == width
        assert await serious(page) == []
        assert await drop(page, ("bus.png", (images / "00.png").read_bytes())) == "Classified 1 of 1 image."
        assert await page.run(f"[document.getElementById('state').className, {ERRORS}]") == ["", []]
        assert len(page.errors) == 1 and "400" in page.errors[0]  # logged by the browser

    visit(browser, address, work, width, dark)


def test_files_can_be_selected_by_keyboard(browser: int, address: str, images: Path) -> None:
    async def work(page: Page) -> None:
        await page.send("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
        assert await page.run("document.activeElement.id") == "file"
        assert "choose" in await page.run("document.activeElement.labels[0].textContent")
        for name in ("file", "camera"):
            expression = f"document.getElementById('{name}')"
            node = (await page.send("Runtime.evaluate", expression=expression))["result"]["objectId"]
            await page.send("DOM.setFileInputFiles", files=[str(images / "05.png")], objectId=node)
            await page.until("document.querySelectorAll('article li').length === 5")
            assert await page.run("document.querySelector('h2').textContent") == "05.png"
            await page.run("document.getElementById('results').replaceChildren()")
        assert page.errors == []

    visit(browser, address, work)


def test_the_page_asks_for_a_required_token(browser: int, model: Model, images: Path) -> None:
    send = "document.getElementById('token').value = '{}'; document.querySelector('#key button').click()"

    async def work(page: Page) -> None:
        await page.until("document.activeElement.id === 'token'")
        assert "the token is missing or wrong" in await page.run(STATE)
        assert await page.run("[document.getElementById('about').hidden, document.getElementById('key').hidden]") == [
            True,
            False,
        ]
        assert await drop(page, ("a.png", (images / "00.png").read_bytes())) == "The service requires a token."
        assert await serious(page) == []
        await page.run(send.format(TOKEN))
        await page.until("document.querySelectorAll('article li').length === 5")
        assert await page.run("[document.getElementById('about').hidden, document.getElementById('key').hidden]") == [
            False,
            True,
        ]
        assert all("401" in error for error in page.errors) and len(page.errors) == 2  # logged by the browser

    with run_server(Front(Replica(model).app(), hashlib.sha256(TOKEN.encode()).digest())) as address:
        visit(browser, address, work, width=400)
