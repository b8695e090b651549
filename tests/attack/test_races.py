"""Two concurrent commands on one folder have the result of one of them, or of both in some order."""

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


def check_race(names: tuple[str, str], world: World, root: Path) -> None:
    kinds = [RACERS[name] for name in names]
    before = sorted({world.path(kind.before) for kind in kinds if kind.before})
    ends = race([partial(kind.act, world) for kind in kinds], prepared(root / "raced", before))
    assert all("\n" not in end.user_error and not end.error for end in ends), ends
    orders = [kinds, kinds[::-1]]
    if ends[0] != End() or ends[1] != End():  # one failed because of the other or of the input
        orders += [[kind] for kind in kinds]
    raced = content(str(root / "raced"))
    expected = []
    for number, order in enumerate(orders):
        folder = prepared(root / str(number), before)
        for kind in order:
            race([partial(kind.act, world)], folder)  # may fail, as in a folder of the other's set
        expected.append(content(folder))
        if raced == expected[-1]:
            return
    differences = [sorted(name for name in raced | x if raced.get(name) != x.get(name)) for x in expected]
    raise AssertionError(f"{names}: {ends} differ from every order: {differences}")


@pytest.mark.parametrize("names", SOME, ids="-".join)
def test_concurrent_commands_equal_consecutive_ones(names: tuple[str, str], world: World, tmp_path: Path) -> None:
    check_race(names, world, tmp_path)


@pytest.mark.attack
@pytest.mark.parametrize("names", [*itertools.combinations_with_replacement(RACERS, 2)], ids="-".join)
def test_any_two_concurrent_commands_equal_consecutive_ones(
    names: tuple[str, str], world: World, tmp_path: Path
) -> None:
    check_race(names, world, tmp_path)
