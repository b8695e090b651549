"""Which icon shows which concept: names are normalised, then must be equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.embedded.drawings import Drawing, choose, normalise, read_family, render


@pytest.mark.parametrize(
    ("family", "name", "expected"),
    [
        ("fluent", "bell-20-regular", "bell"),
        ("fluent", "shopping-cart-24-filled", "shopping cart"),
        ("ic", "baseline-gift4", "gift"),
        ("ic", "sharp-home", "home"),
        ("bi", "sharp-home", "sharp home"),
        ("ion", "md-bicycle", "bicycle"),
        ("ion", "ios-sunny-outline", "sunny"),
        ("mdi", "umbrella_closed-outline", "umbrella closed"),
        ("ph", "Key-Duotone", "key"),
        ("icon-park", "light-house-two-tone", "light house"),
        ("bi", "3-circle-fill", "circle"),
        ("bi", "house-2-line", "house"),
        ("bi", "outline", "outline"),
        ("bi", "7", "7"),
    ],
)
def test_a_name_loses_its_frame_its_style_and_its_numbers(family: str, name: str, expected: str) -> None:
    assert normalise(family, name) == expected


SQUARE = '<path fill="currentColor" d="M2 2h12v12H2z"/>'


def package_with(folder: Path, **icons: dict[str, Any]) -> Path:
    """An npm package that holds one set."""
    (folder / "json").mkdir()
    icons = {name.replace("_", "-"): {"body": SQUARE, **icon} for name, icon in icons.items()}
    aliases = {"dog": {"parent": "star"}}
    (folder / "json" / "mine.json").write_text(json.dumps({"icons": icons, "aliases": aliases, "width": 16}))
    return folder


def names(package: Path) -> dict[str, str]:
    return {drawing.name: drawing.concept for drawing in read_family(package, "mine", "MIT")}


def test_a_drawing_belongs_to_a_class_by_any_of_its_names(tmp_path: Path) -> None:
    assert names(package_with(tmp_path, airplane={}, plane_fill={})) == {
        "airplane": "airplane",
        "plane-fill": "airplane",
    }


def test_a_part_of_a_name_is_not_enough(tmp_path: Path) -> None:
    assert names(package_with(tmp_path, star={}, starfish={}, star_of_david={})) == {"star": "star"}


def drawing(name: str, concept: str = "star", body: str = SQUARE, box: tuple[int, ...] = (0, 0, 16, 16)) -> Drawing:
    left, top, width, height = box
    return Drawing("mine", name, concept, concept, body, (left, top, width, height))


def test_a_class_gets_more_drawings_of_a_set_than_another_concept() -> None:
    many = [drawing(f"{concept}{n}", concept) for concept in ("star", "wifi") for n in range(9)]

    chosen = choose(iter(many), most=5, most_other=2)

    assert [one.concept for one in chosen] == ["star"] * 5 + ["wifi"] * 2


def test_a_wide_drawing_is_centred_in_a_square() -> None:
    wide = drawing("star", body='<path d="M0 0h32v16H0z"/>', box=(0, 0, 32, 16))

    assert (render(wide, 32)[:, 16, 3] > 0).nonzero()[0].tolist() == list(range(8, 24))
