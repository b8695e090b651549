"""The page of a protocol in Chromium: it fits the screen, is legible, and loads nothing."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from syncclip.protocols.protocols import PROTOCOLS
from syncclip.protocols.report import render
from syncclip.protocols.scores import summarise
from tests.browser import Page, visit
from tests.protocols.fabricated import fabricated

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SMALLEST = """Math.min(...[...document.querySelectorAll('svg text')].map(
    text => parseFloat(getComputedStyle(text).fontSize) * text.ownerSVGElement.getScreenCTM().a))"""
"""Smallest font size in the plots, in pixels."""


OUTSIDE = """[...document.querySelectorAll('svg circle, svg .label, svg .end')].filter(mark => {
    const at = mark.getBoundingClientRect(), box = mark.ownerSVGElement.getBoundingClientRect();
    return at.left < box.left - 1 || at.right > box.right + 1 || at.top < box.top - 1 || at.bottom > box.bottom + 1;
}).length"""
"""Number of marks and labels outside of their plot."""
DRAWN = "Object.fromEntries([...document.querySelectorAll('figure')].map(f => [f.dataset.figure, +f.dataset.drawn]))"
NEAREST = """Math.min(...[...document.querySelectorAll('[data-figure=growth] svg')].flatMap(plot => {
    const tops = [...plot.querySelectorAll('.end')].map(name => name.getBoundingClientRect().top).sort((a, b) => a - b);
    return tops.slice(1).map((top, i) => top - tops[i]);
}))"""
"""Smallest distance between labels at the ends of curves, in pixels."""


MARKS = {"one": 3 * 3 * 11, "ours": 3 * 3, "theirs": 3 * 2}
"""For three metrics: dots of three methods on eleven datasets, their averages, and published ones of two methods."""


def table_of(name: str) -> pd.DataFrame:
    """Three methods on all datasets; in `growing`, three numbers of images have equal scores, so labels collide."""
    protocol = PROTOCOLS[name]

    def numbers(test: str, *_: object) -> dict[str, float]:
        return dict.fromkeys(protocol.metrics, 30.0 + len(test))

    if name != "growing":
        return fabricated(protocol, numbers)
    others = fabricated(protocol, numbers, methods=["zeroshot", "promptsrc"])
    return pd.concat(
        [others, *(fabricated(protocol, numbers, methods=["syncclip"], amount=amount) for amount in (1, 4, 16))]
    )


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """URLs of pages with three, one and six plots, and with six plots of dots and six of curves."""
    folder, urls = tmp_path_factory.mktemp("pages"), {}
    for name in ("base-to-novel", "few-shot", "data-use", "growing"):
        page = folder / f"{name}.html"
        page.write_text(render(summarise(PROTOCOLS[name], table_of(name))), encoding="utf-8")
        urls[name] = page.as_uri()
    return urls


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("name", ["base-to-novel", "few-shot", "data-use", "growing"])
def test_page_is_legible_on_all_screens(browser: int, pages: dict[str, str], name: str, width: int, dark: bool) -> None:
    async def work(page: Page) -> tuple[Any, ...]:
        scroll_width = await page.run("document.documentElement.scrollWidth")
        background = await page.run("getComputedStyle(document.body).backgroundColor")
        return scroll_width, await page.run(SMALLEST), await page.run(OUTSIDE), background, page.errors, page.requests

    scroll_width, smallest, outside, background, errors, requests = visit(browser, pages[name], work, width, dark)
    assert scroll_width == width
    assert smallest >= 10
    assert outside == 0
    assert (max(map(int, background[4:-1].split(","))) < 60) == dark
    assert (errors, [url for url in requests if not url.startswith("data:")]) == ([], [pages[name]])


def test_plot_has_dots_for_scores_and_rings_for_published_ones(browser: int, pages: dict[str, str]) -> None:
    async def work(page: Page) -> tuple[Any, ...]:
        kinds = [await page.run(f"document.querySelectorAll('.panel circle.{kind}').length") for kind in MARKS]
        return await page.run(DRAWN), dict(zip(MARKS, kinds, strict=True))

    drawn, kinds = visit(browser, pages["base-to-novel"], work)
    assert kinds == MARKS
    assert drawn == {"averages": sum(MARKS.values())}


def test_labels_of_curves_do_not_overlap(browser: int, pages: dict[str, str]) -> None:
    async def work(page: Page) -> tuple[Any, ...]:
        levels = await page.run("document.querySelectorAll('[data-figure=growth] .level').length")
        return await page.run(DRAWN), levels, await page.run(NEAREST)

    drawn, levels, nearest = visit(browser, pages["growing"], work)
    assert drawn["growth"] == 6 * (3 + 2)
    assert levels == 6 * 2
    assert nearest >= 14
