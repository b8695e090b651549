"""The map of packages in docs/how-it-works.md matches the package and its import contract."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
PACKAGES = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", PAGE, re.MULTILINE)


def layers() -> list[set[str]]:
    """The packages in each layer of the import contract, top to bottom."""
    contract = re.search(r"^layers = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert contract
    return [set(re.findall(r"\w+", layer)) - {"__main__"} for layer in re.findall(r'"(.*)"', contract[1])]


def test_the_map_lists_every_package_in_the_order_of_the_import_contract() -> None:
    children = {child.stem for child in (ROOT / "syncclip").iterdir() if child.suffix in ("", ".py")}
    assert sorted(PACKAGES) == sorted(child for child in children if not child.startswith("__"))
    depth = {package: number for number, layer in enumerate(layers()) for package in layer}
    assert [depth[package] for package in PACKAGES] == sorted(depth.values())


def test_the_glossary_is_short() -> None:
    glossary = PAGE.partition("## Glossary\n")[2].strip().splitlines()
    assert 10 < len(glossary) <= 25
