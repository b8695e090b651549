"""The page of a protocol in Chromium: nothing sticks out, nothing is too small to read, nothing asks a server."""

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
"""Pixels of the smallest letters in a plot."""


OUTSIDE = """[...document.querySelectorAll('svg circle, svg .label, svg .end')].filter(mark => {
    const at = mark.getBoundingClientRect(), box = mark.ownerSVGElement.getBoundingClientRect();
    return at.left < box.left - 1 || at.right > box.right + 1 || at.top < box.top - 1 || at.bottom > box.bottom + 1;
}).length"""
"""Marks and names that a plot cuts off: an axis holds all values."""
DRAWN = "Object.fromEntries([...document.querySelectorAll('figure')].map(f => [f.dataset.figure, +f.dataset.drawn]))"
NEAREST = """Math.min(...[...document.querySelectorAll('[data-figure=growth] svg')].flatMap(plot => {
    const tops = [...plot.querySelectorAll('.end')].map(name => name.getBoundingClientRect().top).sort((a, b) => a - b);
    return tops.slice(1).map((top, i) => top - tops[i]);
}))"""
"""Pixels between the names at the ends of curves."""


MARKS = {"one": 3 * 3 * 11, "ours": 3 * 3, "theirs": 3 * 2}
"""Of three metrics: dots of three lines on eleven datasets, their averages, and published ones of zero-shot and
PromptSRC."""


def table_of(name: str) -> pd.DataFrame:
    """Three lines on all datasets; of `growing`, SYNC-CLIP with three amounts that change nothing, so names meet."""
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
    """Addresses of pages with three plots, with one, with six, and with six of dots and six of curves."""
    folder, found = tmp_path_factory.mktemp("pages"), {}
    for name in ("base-to-novel", "few-shot", "data-use", "growing"):
        page = folder / f"{name}.html"
        page.write_text(render(summarise(PROTOCOLS[name], table_of(name))), encoding="utf-8")
        found[name] = page.as_uri()
    return found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("name", ["base-to-novel", "few-shot", "data-use", "growing"])
def test_a_page_is_read_on_any_screen(browser: int, pages: dict[str, str], name: str, width: int, dark: bool) -> None:
    async def work(page: Page) -> tuple[Any, ...]:
        across = await page.run("document.documentElement.scrollWidth")
        paper = await page.run("getComputedStyle(document.body).backgroundColor")
        return across, await page.run(SMALLEST), await page.run(OUTSIDE), paper, page.errors, page.requests

    across, smallest, outside, paper, errors, requests = visit(browser, pages[name], work, width, dark)
    assert across == width
    assert smallest >= 10
    assert outside == 0
    assert (max(map(int, paper[4:-1].split(","))) < 60) == dark
    assert (errors, [url for url in requests if not url.startswith("data:")]) == ([], [pages[name]])


def test_a_plot_has_a_dot_for_each_number_and_a_ring_for_each_published_one(
    browser: int, pages: dict[str, str]
) -> None:
    async def work(page: Page) -> tuple[Any, ...]:
        kinds = [await page.run(f"document.querySelectorAll('.panel circle.{kind}').length") for kind in MARKS]
        return await page.run(DRAWN), dict(zip(MARKS, kinds, strict=True))

    drawn, kinds = visit(browser, pages["base-to-novel"], work)
    assert kinds == MARKS
    assert drawn == {"averages": sum(MARKS.values())}


def test_growing_numbers_are_points_of_curves_whose_names_do_not_touch(browser: int, pages: dict[str, str]) -> None:
    async def work(page: Page) -> tuple[Any, ...]:
        levels = await page.run("document.querySelectorAll('[data-figure=growth] .level').length")
        return await page.run(DRAWN), levels, await page.run(NEAREST)

    drawn, levels, nearest = visit(browser, pages["growing"], work)
    assert drawn["growth"] == 6 * (3 + 2)
    assert levels == 6 * 2
    assert nearest >= 14
