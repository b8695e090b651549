"""No designer, and no drawing under a second name, is both in pretraining and in the dataset."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.embedded.dataset import SETS, held_out_sets
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
FIRMS_WITH_SEVERAL_STUDIOS = {
    "Google": {"noto", "noto-v1"},
    "Microsoft": {"fluent-emoji", "fluent-emoji-flat"},
}
"""Emoji of firms whose interface icons are in pretraining: other people drew them, in another style."""


def designer(author: str) -> str:
    firm = re.sub(r",? (Inc|LLC|AG|Corporation|B\.V\.|S\.A\.)\.?$", "", author)
    return HANDS.get(firm, firm)


def test_no_set_is_in_pretraining_and_in_the_dataset() -> None:
    assert not SIDES["pretraining"] & SIDES["dataset"]


@pytest.mark.parametrize("group", SHARED_ARTWORK)
def test_the_same_drawings_under_several_names_stay_on_one_side(group: str) -> None:
    sides = [side for side, sets in SIDES.items() if any(re.fullmatch(SHARED_ARTWORK[group], name) for name in sets)]

    assert len(sides) <= 1


def test_no_designer_of_the_dataset_is_in_pretraining() -> None:
    learnt = {designer(facts["author"]) for facts in FAMILIES["pretraining"].values()}
    both = {
        family: facts["author"]
        for part in PARTS[1:]
        for family, facts in FAMILIES[part].items()
        if designer(facts["author"]) in learnt
        and family not in FIRMS_WITH_SEVERAL_STUDIOS.get(designer(facts["author"]), set())
    }

    assert both == {}


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


def test_the_held_out_sets_are_those_of_half_of_the_drawings_and_no_designer_is_on_both_sides() -> None:
    count = {family: 10 + place for place, family in enumerate(SETS)}
    tested = held_out_sets(count)
    share = sum(count[family] for family in tested) / sum(count.values())
    assert 0.4 < share <= 0.5
    designers = [{designer(SETS[family]["author"]) for family in side} for side in (tested, set(SETS) - tested)]
    assert not designers[0] & designers[1]


def test_which_sets_are_tested_does_not_depend_on_their_order() -> None:
    count = dict.fromkeys(SETS, 10)
    assert held_out_sets(count) == held_out_sets(dict(reversed(count.items())))
