"""Every file, module, link and heading that the documentation refers to exists."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = "benchmarks|cluster|docs|examples|infra|ray_jobs|scripts|syncclip|tests"
PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *(page for name in FOLDERS.split("|") for page in (ROOT / name).rglob("*.md")))
    if page.name != "CHANGELOG.md"
)


def anchors(page: Path) -> set[str]:
    """The anchors of a page: those that GitHub generates for headings, and explicit ones."""
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    generated = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
    return generated | {*re.findall(r'<a id="([^"]+)"', text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_references_of_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    files = [name.rstrip("./") for name in re.findall(rf"(?<![\w/.:-])(?:{FOLDERS})/[\w./*-]*", text)]
    assert [name for name in files if not list(ROOT.glob(name))] == []
    for name in re.findall(r"python -m ([\w.]+)", text):
        module = ROOT / name.replace(".", "/")
        assert module.with_suffix(".py").exists() or (module / "__main__.py").exists(), name
    for link, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", text):
        target = page.parent / link if link else page
        assert "://" in link or target.exists(), link
        assert not anchor or "://" in link or anchor in anchors(target), f"{link}#{anchor}"


def statements(page: Path) -> list[str]:
    """Statements of the list items of a page."""
    blocks = re.split(r"\n(?=[*#|-] |\n)", page.read_text(encoding="utf-8"))
    items = (" ".join(block[2:].split()) for block in blocks if re.match(r"[*-] ", block))
    return [part for item in items for part in re.split(r"[.;](?: |$)", item) if len(part) > 25]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_list_states_nothing_twice(page: Path) -> None:
    repeated = [text for text, count in Counter(statements(page)).items() if count > 1]
    assert repeated == []
