"""The documentation's site: it is built without a warning, holds every page, and asks nothing of other hosts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

from scripts.site import ROOT, pages
from tests.browser import Page, serious, visit

pytestmark = pytest.mark.slow

VISITED = ("index.html", "docs/tutorial.html", "docs/commands.html", "docs/python-api.html", "docs/recipe.html")

QUERIES = [
    *("faq", "troubleshooting", "hyperparameter", "tune", "learning rate", "baseline", "early stopping", "api"),
    *("install", "leaderboard", "results", "checkpoint", "resume"),
]
"""What users search for."""


class Loads(HTMLParser):
    """What a page makes a browser fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe"):
            self.found.add(given.get("src") or "")
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload"):
            self.found.add(given.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: any warning, as of a link that leads nowhere, is an error."""
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder)))
    return folder


def test_it_holds_every_page(site: Path) -> None:
    for page in pages():
        assert (site / page.replace("README.md", "index.md").replace(".md", ".html")).is_file(), page


def test_its_reference_describes_the_librarys_functions_and_their_arguments(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "docs/python-api.html").read_text(encoding="utf-8"))
    for function in ("plan", "synth", "train", "evaluate", "tune", "study", "report"):
        assert f"{function}(" in re.sub(r"\s", "", text)
    assert "Parameters" in text
    assert "Raises" in text


@pytest.mark.parametrize(
    "query",
    QUERIES,
)
def test_the_search_finds_a_page_for(query: str, site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))

    pages = [entry for entry in index["docs"] if not entry["location"].startswith(("docs/recipe", "CHANGELOG"))]
    assert any(query in f"{entry['title']} {entry['text']}".lower() for entry in pages)


def test_it_asks_nothing_of_other_hosts(site: Path) -> None:
    asked = {url for page in site.rglob("*.html") for url in Loads(page.read_text(encoding="utf-8")).found}
    assert len(asked) > 5
    assert {url for url in asked if "://" in url or url.startswith("//")} == set()


def test_a_link_that_leads_nowhere_fails(tmp_path: Path) -> None:
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path))
    config.plugins.events["page_markdown"].append(lambda markdown, page, **_: f"{markdown}\n\n[gone](gone.md)\n")

    with pytest.raises(Abort, match="warnings in strict mode"):
        build(config)


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    """The address of a server of the site, which its search needs."""
    handler = partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and reports nothing."""

    def log_message(self, *_: object) -> None: ...


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_its_pages_are_read_on_any_screen(browser: int, served: str, width: int, dark: bool) -> None:
    async def work(page: Page) -> tuple[Any, ...]:
        across = await page.run("document.documentElement.scrollWidth")
        return across, [url for url in page.requests if not url.startswith((served, "data:"))], page.errors

    for page in VISITED:
        assert visit(browser, f"{served}/{page}", work, width, dark) == (width, [], []), page


@pytest.mark.browser
@pytest.mark.parametrize("page", VISITED)
def test_an_audit_of_a_page_finds_nothing_serious(browser: int, served: str, page: str) -> None:
    assert visit(browser, f"{served}/{page}", serious) == []
