"""Concepts of icons by their normalised names, and rendering."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.embedded.drawings import Drawing, choose, normalise, read_family, render

SQUARE = '<path fill="currentColor" d="M2 2h12v12H2z"/>'


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
def test_style_and_size_are_removed_from_names(family: str, name: str, expected: str) -> None:
    assert normalise(family, name) == expected


@pytest.mark.parametrize(
    ("icons", "expected"),
    [
        (["airplane", "plane-fill"], {"airplane": "airplane", "plane-fill": "airplane"}),
        (["star", "starfish", "star-of-david"], {"star": "star"}),  # a part of a name is no match
    ],
)
def test_icons_match_a_concept_by_their_full_name(tmp_path: Path, icons: list[str], expected: dict[str, str]) -> None:
    package = {"icons": {name: {"body": SQUARE} for name in icons}, "aliases": {"dog": {"parent": "star"}}, "width": 16}
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "mine.json").write_text(json.dumps(package))
    assert {drawing.name: drawing.concept for drawing in read_family(tmp_path, "mine", "MIT")} == expected


def drawing(name: str, concept: str, body: str = SQUARE, width: int = 16) -> Drawing:
    return Drawing("mine", name, concept, concept, body, (0, 0, width, 16))


def test_classes_may_have_more_drawings_per_icon_set_than_other_concepts() -> None:
    drawings = [drawing(f"{concept}{n}", concept) for concept in ("star", "wifi") for n in range(9)]
    chosen = choose(iter(drawings), most=5, most_other=2)
    assert [each.concept for each in chosen] == ["star"] * 5 + ["wifi"] * 2


def test_a_wide_drawing_is_centred_in_a_square() -> None:
    wide = drawing("star", "star", '<path d="M0 0h32v16H0z"/>', width=32)
    assert (render(wide, 32)[:, 16, 3] > 0).nonzero()[0].tolist() == list(range(8, 24))
