"""The documentation's site: it is built without a warning, holds every page, and asks nothing of other hosts."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

from scripts.site import ROOT, pages

pytestmark = pytest.mark.slow


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
        name = page.removesuffix("README.md").removesuffix(".md")
        assert (site / name / "index.html").is_file(), page


def test_its_reference_describes_the_librarys_functions_and_their_arguments(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "docs/library/index.html").read_text(encoding="utf-8"))
    for function in ("plan", "synthesise", "train", "evaluate", "choose", "study", "report"):
        assert f"{function}(" in re.sub(r"\s", "", text)
    assert "Parameters" in text
    assert "Raises" in text


def test_it_asks_nothing_of_other_hosts(site: Path) -> None:
    asked = {url for page in site.rglob("*.html") for url in Loads(page.read_text(encoding="utf-8")).found}
    assert len(asked) > 5
    assert {url for url in asked if "://" in url or url.startswith("//")} == set()


def test_a_link_that_leads_nowhere_fails(tmp_path: Path) -> None:
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path))
    config.plugins.events["page_markdown"].append(lambda markdown, page, **_: f"{markdown}\n\n[gone](gone.md)\n")

    with pytest.raises(Abort, match="warnings in strict mode"):
        build(config)
