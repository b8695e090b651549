"""The map in docs/how-it-works.md is that of the package and of its import contract."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
ROOMS = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", PAGE, re.MULTILINE)


def layers() -> list[set[str]]:
    """The rooms of each layer of the import contract, top to bottom."""
    found = re.search(r"^layers = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return [set(re.findall(r"\w+", layer)) - {"__main__"} for layer in re.findall(r'"(.*)"', found[1])]


def test_the_map_lists_every_room_once() -> None:
    children = {child.stem for child in (ROOT / "syncclip").iterdir() if child.suffix in ("", ".py")}
    assert sorted(ROOMS) == sorted(child for child in children if not child.startswith("__"))


def test_the_map_stands_in_the_order_of_the_import_contract() -> None:
    place = {room: number for number, layer in enumerate(layers()) for room in layer}
    assert [place[room] for room in ROOMS] == sorted(place.values())


def test_the_glossary_is_short() -> None:
    glossary = PAGE.partition("## Glossary\n")[2].strip().splitlines()
    assert 10 < len(glossary) <= 25
