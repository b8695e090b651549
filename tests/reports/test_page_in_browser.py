"""The report opened in Chromium: every figure draws, nothing goes wrong or sticks out, and it answers to touch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncclip.reports import report
from tests.browser import Page, visit
from tests.studies import fabricated

pytestmark = [pytest.mark.browser, pytest.mark.slow]

DRAWN = (
    "Object.fromEntries([...document.querySelectorAll('figure')].map(f => [f.dataset.figure, Number(f.dataset.drawn)]))"
)
MARKS = {"curve": 14, "bars": 10, "differences": 5, "classes": 12, "images": 14, "map": 480, "time": 6, "rejects": 3}
"""Marks that stand for data: 3 growing arms x 4 amounts + 2 still ones; 5 arms x 2 halves; and so on."""
POINT = """(() => {
    const plot = document.querySelector('[data-figure=FIGURE] [data-plot] svg'), box = plot.getBoundingClientRect();
    const at = {clientX: box.left + box.width / 2, clientY: box.top + box.height / 2, bubbles: true};
    (document.elementFromPoint(at.clientX, at.clientY) || plot).dispatchEvent(new PointerEvent('pointerdown', at));
    const tip = document.querySelector('.tip');
    return tip.hidden ? '' : tip.textContent;
})()"""
CLICK = "[...document.querySelectorAll('[data-figure=curve] button')].find(b => b.textContent.includes('{}')).click()"
LABEL = "document.querySelector('[data-figure=curve] [data-plot] svg').ariaLabel"
WRONG = {
    "unnamed": "[...f.querySelectorAll('[data-plot] svg[role=img]')].some(s => !s.ariaLabel)",
    "untitled": "!document.getElementById(f.getAttribute('aria-labelledby'))?.textContent",
    "without numbers": "f.querySelectorAll('[data-numbers] tbody td').length === 0",
}
"""What is wrong with a figure `f`."""
SHAPES = "document.querySelectorAll('[data-figure={}] [data-plot] :is(path, rect, circle, line)').length"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Addresses of the report of a study, a run and a set."""
    root = tmp_path_factory.mktemp("pages")
    dataset = fabricated.make_dataset(root / "shapes")
    folders = {
        "study": fabricated.make_study(root / "study", dataset),
        "run": fabricated.make_run(root / "run", dataset),
        "set": fabricated.make_set(root / "set"),
    }
    return {kind: Path(report(str(folder))).as_uri() for kind, folder in folders.items()}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_every_figure_of_a_study_draws_and_nothing_logs_an_error(
    browser: int, pages: dict[str, str], width: int, dark: bool
) -> None:
    async def work(page: Page) -> tuple[Any, ...]:
        paper = await page.run("getComputedStyle(document.body).backgroundColor")
        return await page.run(DRAWN), page.errors, page.requests, paper

    drawn, errors, requests, paper = visit(browser, pages["study"], work, width, dark)
    assert drawn == MARKS
    assert errors == []
    assert [address for address in requests if not address.startswith("data:")] == [pages["study"]]
    assert (max(map(int, paper[4:-1].split(","))) < 60) == dark


@pytest.mark.parametrize("kind", ["study", "run", "set"])
def test_nothing_sticks_out_at_400_pixels(browser: int, pages: dict[str, str], kind: str) -> None:
    async def work(page: Page) -> tuple[Any, ...]:
        await page.run("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
        return await page.run("document.documentElement.scrollWidth"), page.errors

    assert visit(browser, pages[kind], work, width=400) == (400, [])


@pytest.mark.parametrize("kind", ["run", "set"])
def test_the_simpler_pages_draw_all_of_their_figures(browser: int, pages: dict[str, str], kind: str) -> None:
    async def work(page: Page) -> tuple[Any, ...]:
        return await page.run(DRAWN), page.errors

    drawn, errors = visit(browser, pages[kind], work)
    assert drawn and all(count > 0 for count in drawn.values()) and errors == []


@pytest.fixture(scope="module")
def answers(browser: int, pages: dict[str, str]) -> dict[str, Any]:
    """What the study's page says to a reader who uses every control once."""

    async def work(page: Page) -> dict[str, Any]:
        async def tip(figure: str) -> str:
            await page.run(f"document.querySelector('[data-figure={figure}]').scrollIntoView({{behavior: 'instant'}})")
            await page.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 60)))")
            return str(await page.run(POINT.replace("FIGURE", figure)))

        found = {f"tip of {name}": await tip(name) for name in ("curve", "classes", "map")}
        found["shapes of the curve"] = await page.run(SHAPES.format("curve"))
        found["before"] = await page.run(LABEL)
        await page.run(CLICK.format("All classes"))
        found["after"] = await page.run(LABEL)
        await page.run(CLICK.format("SYNC-CLIP"))
        found["without an arm"] = (await page.run(DRAWN))["curve"]
        select = "document.querySelector('[data-figure=images] select')"
        await page.run(f"{select}.value = '3'; {select}.dispatchEvent(new Event('change'))")
        found["image"] = await page.run("document.querySelector('[data-figure=images] .thumb').ariaLabel")
        await page.run("document.getElementById('scheme').click()")
        found["scheme"] = await page.run("document.documentElement.dataset.scheme")
        await page.run("localStorage.clear()")  # else other pages of this browser are dark, too
        await page.run("document.querySelector('#results thead th:nth-child(6) button').click()")
        found["best"] = await page.run("document.querySelector('#results tbody tr td').textContent")
        for name, wrong in WRONG.items():
            found[name] = await page.run(f"[...document.querySelectorAll('figure')].filter(f => {wrong}).length")
        found["errors"] = page.errors
        return found

    answered: dict[str, Any] = visit(browser, pages["study"], work)
    return answered


def expect(key: str, right: Callable[[Any], bool], answers: dict[str, Any]) -> None:
    assert right(answers[key]), f"{key}: {answers[key]!r}"


def test_pointing_at_the_curve_tells_every_arms_number(answers: dict[str, Any]) -> None:
    expect("tip of curve", lambda tip: "images per class" in tip and "SYNC-CLIP" in tip and "±" in tip, answers)


def test_tapping_a_class_tells_its_numbers(answers: dict[str, Any]) -> None:
    expect("tip of classes", lambda tip: "test images" in tip and "change" in tip, answers)


def test_pointing_at_the_map_names_the_class_and_the_domain(answers: dict[str, Any]) -> None:
    expect("tip of map", lambda tip: any(name in tip for name in fabricated.NAMES), answers)


def test_the_curve_has_lines_bands_points_and_whiskers(answers: dict[str, Any]) -> None:
    expect("shapes of the curve", lambda count: count > 60, answers)


def test_the_curves_metric_can_be_switched(answers: dict[str, Any]) -> None:
    expect("after", lambda label: "all classes as candidates" in label and label != answers["before"], answers)


def test_an_arm_can_be_hidden(answers: dict[str, Any]) -> None:
    expect("without an arm", lambda count: count == MARKS["curve"] - 4, answers)


def test_any_class_can_be_chosen(answers: dict[str, Any]) -> None:
    expect("image", lambda label: label == "real image of dog, number 1", answers)


def test_the_scheme_can_be_changed(answers: dict[str, Any]) -> None:
    expect("scheme", lambda scheme: scheme == "dark", answers)


def test_the_table_of_results_can_be_sorted(answers: dict[str, Any]) -> None:
    expect("best", lambda label: label == "SYNC-CLIP", answers)


@pytest.mark.parametrize("key", ["unnamed", "untitled"])
def test_every_figure_has_a_title_and_a_text_alternative(answers: dict[str, Any], key: str) -> None:
    expect(key, lambda count: count == 0, answers)


def test_every_figure_has_its_numbers_as_a_table(answers: dict[str, Any]) -> None:
    expect("without numbers", lambda count: count == 0, answers)


def test_using_the_page_logs_no_error(answers: dict[str, Any]) -> None:
    expect("errors", lambda errors: errors == [], answers)
