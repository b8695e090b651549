"""Two commands of any kinds at once on one folder leave what one alone leaves, or one after the other."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import pytest

from syncclip.reports.page import report
from tests.attack.races import End, content, prepared, race
from tests.synthesis.conftest import in_process
from tests.test_one_writer import KINDS, Kind, World, light, world

__all__ = ["in_process", "light", "world"]

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.usefixtures("light")]

RACERS = {name: kind for name, kind in KINDS.items() if kind.finishes} | {
    "report": Kind("report", lambda world, folder: report(folder), before="set")
}
SOME = [("train", "train"), ("synth", "synth"), ("merge", "import"), ("train", "evaluate"), ("repair", "quality")]


def check_race(names: tuple[str, str], world: World, place: Path) -> None:
    kinds = [RACERS[name] for name in names]
    before = sorted({world.path(kind.before) for kind in kinds if kind.before})
    ends = race([partial(kind.act, world) for kind in kinds], prepared(place / "raced", before))
    assert all("\n" not in end.refusal and not end.error for end in ends), ends
    orders = [kinds, kinds[::-1]]
    if ends[0] != End() or ends[1] != End():  # one was refused, whether for the other or for what is there
        orders += [[kind] for kind in kinds]
    found = content(str(place / "raced"))
    alone = []
    for number, order in enumerate(orders):
        folder = prepared(place / str(number), before)
        for kind in order:
            race([partial(kind.act, world)], folder)  # one may be refused, as where the other's set is
        alone.append(content(folder))
        if found == alone[-1]:
            return
    different = [sorted(name for name in found | one if found.get(name) != one.get(name)) for one in alone]
    raise AssertionError(f"{names}: {ends} left something else than any order of them: {different}")


@pytest.mark.parametrize("names", SOME, ids="-".join)
def test_two_commands_at_once_leave_what_they_leave_one_after_the_other(
    names: tuple[str, str], world: World, tmp_path: Path
) -> None:
    check_race(names, world, tmp_path)


@pytest.mark.attack
@pytest.mark.parametrize("names", [*itertools.combinations_with_replacement(RACERS, 2)], ids="-".join)
def test_any_two_commands_at_once_do_so(names: tuple[str, str], world: World, tmp_path: Path) -> None:
    check_race(names, world, tmp_path)
