"""The documentation site: strict build, pages, search, no requests to other hosts, layout and accessibility."""

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

QUERIES = (
    *("faq", "troubleshooting", "hyperparameter", "tune", "learning rate", "baseline", "early stopping", "api"),
    *("install", "leaderboard", "results", "checkpoint", "resume"),
)
"""Common search queries."""


class Resources(HTMLParser):
    """URLs of the resources that a browser loads for a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.urls: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag in ("script", "img", "iframe"):
            self.urls.add(attributes.get("src") or "")
        elif tag == "link" and attributes.get("rel") in ("stylesheet", "icon", "preload"):
            self.urls.add(attributes.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built in strict mode, in which warnings such as broken links are errors."""
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder)))
    return folder


def test_the_site_contains_every_page_and_the_reference_of_the_library(site: Path) -> None:
    for page in pages():
        assert (site / page.replace("README.md", "index.md").replace(".md", ".html")).is_file(), page
    text = re.sub(r"<[^>]+>", "", (site / "docs/python-api.html").read_text(encoding="utf-8"))
    for function in ("plan", "synth", "train", "evaluate", "tune", "study", "report"):
        assert f"{function}(" in re.sub(r"\s", "", text)
    assert "Parameters" in text and "Raises" in text


def test_the_search_finds_a_page_for_common_queries(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    pages = [entry for entry in index["docs"] if not entry["location"].startswith(("docs/recipe", "CHANGELOG"))]
    texts = [f"{entry['title']} {entry['text']}".lower() for entry in pages]
    assert [query for query in QUERIES if not any(query in text for text in texts)] == []


def test_pages_load_nothing_from_other_hosts(site: Path) -> None:
    urls = {url for page in site.rglob("*.html") for url in Resources(page.read_text(encoding="utf-8")).urls}
    assert len(urls) > 5
    assert {url for url in urls if "://" in url or url.startswith("//")} == set()


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path))
    config.plugins.events["page_markdown"].append(lambda markdown, page, **_: f"{markdown}\n\n[gone](gone.md)\n")

    with pytest.raises(Abort, match="warnings in strict mode"):
        build(config)


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    """URL of a local server of the site."""
    handler = partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    """File server without a log."""

    def log_message(self, *_: object) -> None: ...


@pytest.mark.browser
@pytest.mark.parametrize("page", VISITED)
def test_pages_fit_the_screen_and_are_accessible(browser: int, served: str, page: str) -> None:
    async def work(page: Page) -> tuple[Any, ...]:
        width = await page.run("document.documentElement.scrollWidth")
        requests = [url for url in page.requests if not url.startswith((served, "data:"))]
        return width, requests, page.errors, await serious(page)

    for width, dark in ((400, False), (1400, True)):
        assert visit(browser, f"{served}/{page}", work, width, dark) == (width, [], [], [])
