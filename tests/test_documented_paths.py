"""Every file, module, link and heading that the documentation names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = "benchmarks|cluster|docs|examples|infra|ray_jobs|scripts|syncclip|tests"
PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *(page for place in PLACES.split("|") for page in (ROOT / place).rglob("*.md")))
    if page.name != "CHANGELOG.md"
)


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    files = [name.rstrip("./") for name in re.findall(rf"(?<![\w/.:-])(?:{PLACES})/[\w./*-]*", text)]
    assert [name for name in files if not list(ROOT.glob(name))] == []

    modules = [ROOT / name.replace(".", "/") for name in re.findall(r"python -m ([\w.]+)", text)]
    assert [one for one in modules if not (one.with_suffix(".py").exists() or (one / "__main__.py").exists())] == []

    for link, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", text):
        target = page.parent / link if link else page
        assert "://" in link or target.exists(), link
        assert not anchor or "://" in link or anchor in headings(target), f"{link}#{anchor}"
