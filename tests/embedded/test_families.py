"""Pretraining and dataset share no designer and no artwork, and each licence allows shipping."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.embedded.dataset import TRAINING_ALONE
from scripts.embedded.drawings import FAMILIES, LICENCES, read_family
from syncclip.embedded import FOLDER

PARTS = ("pretraining", "benchmark_colour", "benchmark_single_colour")
DATASET = {**FAMILIES["benchmark_colour"], **FAMILIES["benchmark_single_colour"]}

SHARED_ARTWORK = {
    "Streamline": r"streamline(-.*)?",
    "IconPark": r"icon-park(-.*)?",
    "Glyphs": r"glyphs(-poly)?",
    "Emoji One": r"emojione(-monotone|-v1)?",
    "Fluent Emoji": r"fluent-emoji(-flat|-high-contrast)?",
    "Fluent UI": r"fluent(-color)?",
    "Ionicons and its fork": r"ion|famicons",
    "Feather and its forks": r"feather|lucide(-lab)?",
    "Material": r"ic|line-md|material-symbols(-light)?|mdi(-light)?",
    "MynaUI": r"mynaui|vadivam",
    "Font Awesome": r"fa\d?(-.*)?",
    "Boxicons": r"bx[sl]?|boxicons",
    "Icons8": r"la|icons8|wpf|flat-color-icons",
}
"""Artwork -> pattern of the icon sets that contain it."""

FIRMS = {"Steve Schoger": "Refactoring UI"}
"""Designers who published an icon set under their own name and another for their firm."""


def designer(author: str) -> str:
    firm = re.sub(r",? (Inc|LLC|AG|Corporation|B\.V\.|S\.A\.)\.?$", "", author)
    return FIRMS.get(firm, firm)


def test_no_icon_set_is_in_both_pretraining_and_dataset() -> None:
    assert not FAMILIES["pretraining"].keys() & DATASET.keys()


@pytest.mark.parametrize("pattern", SHARED_ARTWORK.values(), ids=SHARED_ARTWORK)
def test_artwork_under_several_names_is_in_one_of_them(pattern: str) -> None:
    sides = [any(re.fullmatch(pattern, name) for name in side) for side in (FAMILIES["pretraining"], DATASET)]
    assert not all(sides)


def test_designers_in_both_are_two_firms_whose_emoji_are_for_training_only() -> None:
    pretraining = {designer(facts["author"]) for facts in FAMILIES["pretraining"].values()}
    designers = {family: designer(facts["author"]) for family, facts in DATASET.items()}
    both = {family: name for family, name in designers.items() if name in pretraining}
    assert set(both) == TRAINING_ALONE and set(both.values()) == {"Google", "Microsoft"}


@pytest.mark.parametrize("part", PARTS)
def test_each_licence_allows_shipping_and_is_in_the_notice(part: str) -> None:
    assert {facts["licence"] for facts in FAMILIES[part].values()} <= LICENCES
    notice = (FOLDER / "NOTICE").read_text(encoding="utf-8")
    for family, facts in FAMILIES[part].items():
        line = rf"^\* .* \({re.escape(family)}\), .+, {re.escape(facts['licence'])}"
        assert re.search(line, notice, re.MULTILINE), family


def test_an_icon_set_whose_licence_forbids_shipping_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="CC-BY-SA-4.0 may not be shipped"):
        next(read_family(tmp_path, "openmoji", "CC-BY-SA-4.0"))
