"""The page of a protocol in Chromium: nothing sticks out, nothing is too small to read, nothing asks a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from syncclip.protocols.protocols import PROTOCOLS
from syncclip.protocols.report import render
from syncclip.protocols.scores import summarise
from tests.browser import Page, visit
from tests.protocols.fabricated import fabricated

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SMALLEST = """Math.min(...[...document.querySelectorAll('svg text')].map(
    text => parseFloat(getComputedStyle(text).fontSize) * text.ownerSVGElement.getScreenCTM().a))"""
"""Pixels of the smallest letters in a plot."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Addresses of pages with three plots, with one, and with six."""
    folder, found = tmp_path_factory.mktemp("pages"), {}
    for name in ("base-to-novel", "few-shot", "data-use"):
        protocol = PROTOCOLS[name]
        table = fabricated(protocol, lambda test, *_, all=protocol: dict.fromkeys(all.metrics, 30.0 + len(test)))
        (folder / f"{name}.html").write_text(render(summarise(protocol, table)), encoding="utf-8")
        found[name] = Path(folder / f"{name}.html").as_uri()
    return found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("name", ["base-to-novel", "few-shot", "data-use"])
def test_a_page_is_read_on_any_screen(browser: int, pages: dict[str, str], name: str, width: int, dark: bool) -> None:
    async def work(page: Page) -> tuple[Any, ...]:
        across = await page.run("document.documentElement.scrollWidth")
        paper = await page.run("getComputedStyle(document.body).backgroundColor")
        return across, await page.run(SMALLEST), paper, page.errors, page.requests

    across, smallest, paper, errors, requests = visit(browser, pages[name], work, width, dark)
    assert across == width
    assert smallest >= 10
    assert (max(map(int, paper[4:-1].split(","))) < 60) == dark
    assert (errors, requests) == ([], [pages[name]])
