"""The report in Chromium: all figures are drawn without errors, fit the screen, and respond to input."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest

from syncclip import storage
from syncclip.reports import report
from syncclip.studies import outputs
from tests.browser import Page, serious, visit
from tests.reports.test_search import RECORD
from tests.studies import fabricated
from tests.studies.fabricated_map import DATASETS, KNOWLEDGE, make_map

pytestmark = [pytest.mark.browser, pytest.mark.slow]

DRAWN = (
    "Object.fromEntries([...document.querySelectorAll('figure')].map(f => [f.dataset.figure, Number(f.dataset.drawn)]))"
)
MARKS = {"curve": 14, "bars": 10, "differences": 5, "classes": 12, "images": 14, "map": 480, "time": 6, "rejects": 3}
"""Number of data marks by figure, e.g. 5 configurations x 2 splits."""
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
"""Faults of a figure `f`."""
OPTIONS = """[...document.querySelectorAll('[data-figure=curve] [data-controls] button')]
    .filter(button => button.getClientRects().length).map(button => button.textContent)"""
NOTES = "[...document.querySelectorAll('[data-figure=curve] .axis-note')].map(note => note.textContent)"
FOLDED = "[...document.querySelectorAll('details:not([open])')].filter(fold => fold.getClientRects().length).length"
SHAPES = "document.querySelectorAll('[data-figure={}] [data-plot] :is(path, rect, circle, line)').length"


PUBLISHED = (Path(__file__).parents[2] / "docs/results/report.html").as_uri()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """URLs of the reports of a study, a run, a synthetic dataset, a map of gains and a hyperparameter search."""
    root = tmp_path_factory.mktemp("pages")
    dataset = fabricated.make_dataset(root / "shapes")
    folders = {
        "study": fabricated.make_study(root / "study", dataset),
        "run": fabricated.make_run(root / "run", dataset),
        "set": fabricated.make_set(root / "set"),
        "map": make_map(root / "map"),
        "search": root / "search",
    }
    outputs.write_json(str(folders["search"] / outputs.TUNED), RECORD, storage.identity("search"))
    return {kind: Path(report(str(folder))).as_uri() for kind, folder in folders.items()}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_all_figures_are_drawn_without_errors(browser: int, pages: dict[str, str], width: int, dark: bool) -> None:
    async def work(page: Page) -> tuple[Any, ...]:
        background = await page.run("getComputedStyle(document.body).backgroundColor")
        links = await page.run("[...document.querySelectorAll('nav a')].filter(a => a.getClientRects().length).length")
        return await page.run(DRAWN), page.errors, page.requests, background, links

    drawn, errors, requests, background, links = visit(browser, pages["study"], work, width, dark)
    assert drawn == MARKS
    assert errors == []
    assert [url for url in requests if not url.startswith("data:")] == [pages["study"]]
    assert (max(map(int, background[4:-1].split(","))) < 60) == dark
    assert links >= 6


CLIPPED = """[...document.querySelectorAll('[data-plot] svg text')].filter(t => {
    const box = t.getBoundingClientRect(), around = t.ownerSVGElement.getBoundingClientRect();
    return box.left < around.left - 1 || box.right > around.right + 1;
}).map(t => t.textContent)"""
HIDDEN = """[...document.querySelectorAll('[data-plot] svg, [data-plot] svg :is(g, path, rect, circle, line, text)')]
    .filter(e => getComputedStyle(e).display === 'none').length"""


@pytest.mark.parametrize("width", [700, 1000, 1400])
@pytest.mark.parametrize("kind", ["study", "run", "map", "search", "published"])
def test_no_label_is_clipped(browser: int, pages: dict[str, str], kind: str, width: int) -> None:
    async def work(page: Page) -> Any:
        await page.run("document.fonts.ready.then(() => null)")
        return await page.run(CLIPPED)

    assert visit(browser, pages.get(kind, PUBLISHED), work, width) == []


@pytest.mark.parametrize("kind", ["study", "run", "set", "map", "search", "published"])
def test_printed_page_shows_all_of_a_figure(browser: int, pages: dict[str, str], kind: str) -> None:
    async def work(page: Page) -> tuple[int, int]:
        on_screen = await page.run(HIDDEN)
        await page.send("Emulation.setEmulatedMedia", media="print")
        return on_screen, await page.run(HIDDEN)

    assert visit(browser, pages.get(kind, PUBLISHED), work) == (0, 0)


def test_printed_page_shows_the_selected_options_and_no_folded_boxes(browser: int, pages: dict[str, str]) -> None:
    async def work(page: Page) -> tuple[list[str], int, list[str]]:
        await page.send("Emulation.setEmulatedMedia", media="print")
        return await page.run(OPTIONS), await page.run(FOLDED), await page.run(NOTES)

    shown, folded, notes = visit(browser, pages["study"], work)
    assert shown == ["All classes", "Novel"] and folded == 0
    assert "Novel classes, all classes as candidates, %" in notes


@pytest.mark.parametrize("kind", ["study", "run", "set", "map", "search"])
def test_page_fits_400_pixels(browser: int, pages: dict[str, str], kind: str) -> None:
    async def work(page: Page) -> tuple[Any, ...]:
        await page.run("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
        return await page.run("document.documentElement.scrollWidth"), await page.run(DRAWN), page.errors

    scroll_width, drawn, errors = visit(browser, pages[kind], work, width=400)
    assert (scroll_width, errors) == (400, []) and all(drawn.values())


@pytest.fixture(scope="module")
def responses(browser: int, pages: dict[str, str]) -> dict[str, Any]:
    """Responses of the study's page after each control was used."""

    async def work(page: Page) -> dict[str, Any]:
        async def tip(figure: str) -> str:
            await page.run(f"document.querySelector('[data-figure={figure}]').scrollIntoView({{behavior: 'instant'}})")
            await page.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 60)))")
            return str(await page.run(POINT.replace("FIGURE", figure)))

        values = {f"tip of {name}": await tip(name) for name in ("curve", "classes", "map")}
        values["shapes of the curve"] = await page.run(SHAPES.format("curve"))
        values["before"] = await page.run(LABEL)
        checked = "[aria-label='Candidate classes'] [aria-checked=true]"
        values["candidates"] = await page.run(f'[...document.querySelectorAll("{checked}")].map((b) => b.textContent)')
        await page.run(CLICK.format("Within split"))
        values["after"] = await page.run(LABEL)
        await page.run(CLICK.format("SYNC-CLIP"))
        values["without a configuration"] = (await page.run(DRAWN))["curve"]
        select = "document.querySelector('[data-figure=images] select')"
        await page.run(f"{select}.value = '3'; {select}.dispatchEvent(new Event('change'))")
        values["image"] = await page.run("document.querySelector('[data-figure=images] .thumb').ariaLabel")
        await page.run("document.getElementById('scheme').click()")
        values["scheme"] = await page.run("document.documentElement.dataset.scheme")
        await page.run("localStorage.clear()")  # otherwise, other pages of this browser are dark
        await page.run("document.querySelector('#results thead th:nth-child(6) button').click()")
        values["best"] = await page.run("document.querySelector('#results tbody tr td').textContent")
        for name, wrong in WRONG.items():
            values[name] = await page.run(f"[...document.querySelectorAll('figure')].filter(f => {wrong}).length")
        values["errors"] = page.errors
        return values

    result: dict[str, Any] = visit(browser, pages["study"], work)
    return result


RESPONSES: dict[str, Callable[[Any], bool]] = {
    "tip of curve": lambda tip: "images per class" in tip and "SYNC-CLIP" in tip and "±" in tip,
    "tip of classes": lambda tip: "test images" in tip and "change" in tip,
    "tip of map": lambda tip: any(name in tip for name in fabricated.NAMES),
    "shapes of the curve": lambda count: count > 60,
    "before": lambda label: "Novel classes, all classes as candidates" in label,  # metric of the headline
    "after": lambda label: "Novel classes" in label and "all classes as candidates" not in label,
    "without a configuration": lambda count: count == MARKS["curve"] - 4,
    "image": lambda label: label == "real image of dog, number 1",
    "scheme": lambda scheme: scheme == "dark",
    "best": lambda label: label == "SYNC-CLIP",
    "unnamed": lambda count: count == 0,
    "untitled": lambda count: count == 0,
    "without numbers": lambda count: count == 0,
    "errors": lambda errors: errors == [],
}


@pytest.mark.parametrize("key", RESPONSES)
def test_controls_respond(responses: dict[str, Any], key: str) -> None:
    assert RESPONSES[key](responses[key]), f"{key}: {responses[key]!r}"


def test_map_of_gains_responds_to_its_controls(browser: int, pages: dict[str, str]) -> None:
    drawn, label = f"({DRAWN}).gains", LABEL.replace("curve", "gains")
    select = "document.querySelector('[data-figure=gains] select[aria-label=\"{0}\"]')"
    change = f"{select}.value = '{{1}}'; {select}.dispatchEvent(new Event('change'))"

    async def work(page: Page) -> list[Any]:
        values = [await page.run(drawn)]
        await page.run(CLICK.replace("curve", "gains").format("IVLP naive mix"))
        values.append(await page.run(drawn))
        await page.run(change.format("Baseline", "zero-shot"))
        values.append(await page.run(drawn))
        before = await page.run(label)
        await page.run(change.format("Dataset", DATASETS[1]))
        values += [await page.run(drawn), await page.run(label) != before]
        tip = await page.run(POINT.replace("FIGURE", "gains"))
        return [*values, any(tag in tip for tag in KNOWLEDGE), page.errors]

    levels = len(KNOWLEDGE)
    expected = [2 * levels, levels, 3 * levels, 3 * levels, True, True, []]
    assert visit(browser, pages["map"], work) == expected


SAVED = """(async () => {
    const saved = [];
    URL.createObjectURL = (blob) => { saved.push(blob); return 'data:,'; };
    const values = {};
    for (const figure of document.querySelectorAll('figure')) {
        for (const button of figure.querySelectorAll('[data-save] button')) {
            button.click();
            while (!saved.length) await new Promise(done => setTimeout(done, 20));
            const blob = saved.pop(), name = `${figure.dataset.figure}.${button.textContent}`;
            if (blob.type !== 'image/png') { values[name] = await blob.text(); continue; }
            const picture = await createImageBitmap(blob);
            values[name] = [picture.width, picture.height];
        }
    }
    return values;
})()"""


@pytest.fixture(scope="module")
def saved(browser: int, pages: dict[str, str]) -> dict[str, Any]:
    """Files that the buttons below the figures save, from a dark page on a small screen: text, or size of an image."""

    async def work(page: Page) -> dict[str, Any]:
        before = await page.run(DRAWN)
        files = dict(await page.run(SAVED))
        assert (await page.run(DRAWN), page.errors) == (before, [])
        return files

    files: dict[str, Any] = visit(browser, pages["study"], work, width=400, dark=True)
    return files


def test_figures_are_saved_as_svg_png_and_csv(saved: dict[str, Any]) -> None:
    assert {name.partition(".")[0] for name in saved if name.endswith(".CSV")} == set(MARKS)
    drawn = {name.partition(".")[0] for name in saved if name.endswith(".SVG")}
    assert set(MARKS) - drawn == {"images"}
    assert drawn == {name.partition(".")[0] for name in saved if name.endswith(".PNG")}


def test_saved_svg_is_light_and_self_contained(saved: dict[str, Any]) -> None:
    for name, text in saved.items():
        if not name.endswith(".SVG"):
            continue
        image = ElementTree.fromstring(text)
        assert image.get("width") == "760", name
        assert "@font-face" in text and "font/woff2;base64" in text
        assert "var(--" not in text and "class=" not in text
        texts = [element for element in image.iter() if element.tag.endswith("}text")]
        assert texts and all("Inter" in (element.get("font-family") or "") for element in texts), name
        assert all(sum(map(int, re.findall(r"\d+", element.get("fill") or "")[:3])) < 500 for element in texts), name


def test_saved_png_has_three_pixels_per_unit(saved: dict[str, Any]) -> None:
    for name in saved:
        if name.endswith(".PNG"):
            height = int(str(ElementTree.fromstring(saved[name.replace(".PNG", ".SVG")]).get("height")))
            assert saved[name] == [2280, 3 * height]


def test_all_figures_open_with_the_candidate_classes_of_the_headline(responses: dict[str, Any]) -> None:
    assert len(responses["candidates"]) > 2 and {*responses["candidates"]} == {"All classes"}


def test_saved_csv_is_a_table(saved: dict[str, Any]) -> None:
    table = pd.read_csv(io.StringIO(saved["differences.CSV"]))
    assert len(table) == MARKS["differences"]
    assert pd.api.types.is_numeric_dtype(table.iloc[:, 1]) or "points" in " ".join(map(str, table.columns))


def test_url_restores_the_state_of_controls(browser: int, pages: dict[str, str]) -> None:
    async def choose(page: Page) -> tuple[str, ...]:
        await page.run(CLICK.format("Within split"))
        await page.run(CLICK.format("Base"))
        await page.run(CLICK.format("IVLP naive mix"))
        await page.run("document.querySelector('nav a[href=\"#images\"]').click()")
        return await page.run("location.href"), await page.run(LABEL), (await page.run(DRAWN))["curve"]

    async def look(page: Page) -> tuple[str, ...]:
        return await page.run("location.href"), await page.run(LABEL), (await page.run(DRAWN))["curve"]

    url, label, drawn = visit(browser, pages["study"], choose)
    assert url.startswith(f"{pages['study']}#images&curve.")
    assert "Base classes" in label and "all classes as candidates" not in label and drawn == MARKS["curve"] - 4
    assert visit(browser, url, look) == (url, label, drawn)
    assert visit(browser, pages["study"], look)[1:] != (label, drawn)


PRESSED = """Object.fromEntries([...document.querySelectorAll('[data-figure=curve] .chip')]
    .map(chip => [chip.textContent, chip.ariaPressed === 'true']))"""


def test_only_the_highest_upper_bound_is_shown_at_first(browser: int, pages: dict[str, str], tmp_path: Path) -> None:
    async def look(page: Page) -> tuple[Any, ...]:
        shown = await page.run(PRESSED)
        await page.run(CLICK.format("first"))
        return shown, await page.run(PRESSED), await page.run("location.hash")

    text = Path(pages["study"].removeprefix("file://")).read_text()
    before, values, after = re.split(r'(?<=id="payload">)(.*?)(?=</script>)', text, maxsplit=1, flags=re.DOTALL)
    payload = json.loads(values)
    for name, score in (("first", 60.0), ("second", 70.0), ("third", 50.0)):
        bound = {**payload["configurations"][0], "id": name, "label": name, "short": name, "data": "all_real"}
        payload["configurations"].append(bound)
        payload["points"][name] = {payload["metric"]: [{"n": 0, "mean": score, "se": None, "seeds": []}]}
    page = tmp_path / "report.html"
    page.write_text(before + json.dumps(payload).replace("<", "\\u003c") + after)
    shown, clicked, fragment = visit(browser, page.as_uri(), look)
    assert [shown.pop(name) for name in ("first", "second", "third")] == [False, True, False]
    assert all(shown.values()) and clicked == {**shown, "first": True, "second": True, "third": False}
    assert "curve.hidden=third" in fragment


@pytest.mark.parametrize("broken", ["#curve.Score=%zz", "#images&curve.Score=none&=&x", "#curve.hidden=nobody"])
def test_invalid_url_fragment_is_ignored(browser: int, pages: dict[str, str], broken: str) -> None:
    async def look(page: Page) -> tuple[Any, ...]:
        return await page.run(LABEL), await page.run(DRAWN), page.errors

    assert visit(browser, pages["study"] + broken, look) == visit(browser, pages["study"], look)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("kind", ["study", "run", "set", "search"])
def test_accessibility_audit_has_no_serious_finding(browser: int, pages: dict[str, str], kind: str, dark: bool) -> None:
    async def work(page: Page) -> list[str]:
        return await serious(page)

    assert visit(browser, pages[kind], work, 400, dark) == []
