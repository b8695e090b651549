"""No designer, and no drawing under a second name, is both in pretraining and in the dataset."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.embedded.dataset import TRAINING_ALONE
from scripts.embedded.drawings import FAMILIES, LICENCES, read_family
from syncclip.embedded import FOLDER

SIDES = {
    "pretraining": set(FAMILIES["pretraining"]),
    "dataset": {*FAMILIES["benchmark_colour"], *FAMILIES["benchmark_single_colour"]},
}
PARTS = ("pretraining", "benchmark_colour", "benchmark_single_colour")

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

HANDS = {"Steve Schoger": "Refactoring UI"}
"""Designers who published a set in their own name and drew another for their firm."""


def designer(author: str) -> str:
    firm = re.sub(r",? (Inc|LLC|AG|Corporation|B\.V\.|S\.A\.)\.?$", "", author)
    return HANDS.get(firm, firm)


def test_no_set_is_in_pretraining_and_in_the_dataset() -> None:
    assert not SIDES["pretraining"] & SIDES["dataset"]


@pytest.mark.parametrize("group", SHARED_ARTWORK)
def test_the_same_drawings_under_several_names_stay_on_one_side(group: str) -> None:
    sides = [side for side, sets in SIDES.items() if any(re.fullmatch(SHARED_ARTWORK[group], name) for name in sets)]

    assert len(sides) <= 1


def test_designers_on_both_sides_are_two_firms_whose_emoji_are_for_training_alone() -> None:
    learnt = {designer(facts["author"]) for facts in FAMILIES["pretraining"].values()}
    both = {
        family: designer(facts["author"])
        for part in PARTS[1:]
        for family, facts in FAMILIES[part].items()
        if designer(facts["author"]) in learnt
    }

    assert set(both) == TRAINING_ALONE and set(both.values()) == {"Google", "Microsoft"}


@pytest.mark.parametrize("part", PARTS)
def test_every_licence_allows_shipping(part: str) -> None:
    assert {facts["licence"] for facts in FAMILIES[part].values()} <= LICENCES


def test_a_set_whose_licence_forbids_shipping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="CC-BY-SA-4.0 may not be shipped"):
        next(read_family(tmp_path, "openmoji", "CC-BY-SA-4.0"))


@pytest.mark.parametrize("part", PARTS)
def test_the_notice_has_a_line_for_every_set(part: str) -> None:
    notice = (FOLDER / "NOTICE").read_text(encoding="utf-8")
    missing = [
        family
        for family, facts in FAMILIES[part].items()
        if not re.search(rf"^\* .* \({re.escape(family)}\), .+, {re.escape(facts['licence'])}", notice, re.MULTILINE)
    ]

    assert missing == []
