"""What the long form of the chaos test tells of a storm."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.chaos import against, figures, prediction
from tests.worlds.chaos import Toll
from tests.worlds.light import Note, light_plan, read_notes

QUIET = [Note(10.0, 1, "draw", 4), Note(10.0, 2, "draw", 4)]


def test_the_ledger_counts_what_was_begun_and_not_for_the_set(tmp_path: Path) -> None:
    (tmp_path / "draws.txt").write_text("12.500 7 draw 4\n11.000 8 draw 4\n13.000 7 fail 16\n14.000 7 draw 4\n")
    notes = read_notes(tmp_path / "draws.txt")
    assert [note.time for note in notes] == [11.0, 12.5, 13.0, 14.0]
    toll = Toll(wanted=8, notes=notes, ended=31.0)
    assert (toll.wasted, toll.failed, toll.drawing) == (4, 16, 20.0)


def test_an_actor_lives_from_its_first_batch_to_its_last() -> None:
    batches = [(0, 1), (1, 2), (9, 1), (12, 3), (13, 2)]
    assert Toll(wanted=8, notes=[Note(float(when), actor, "draw", 4) for when, actor in batches]).alive == 9.0 + 12.0


def test_the_simulation_gets_the_quiet_rate_and_the_storms_own_deaths() -> None:
    plan = light_plan(200, 16)
    quiet = Toll(wanted=3200, notes=QUIET, ended=90.0)  # two actors, 80 s: 20 images a second each
    notes = [*QUIET, Note(130.0, 1, "draw", 4), Note(130.0, 2, "draw", 4)]
    toll = Toll(wanted=3200, notes=notes, ended=170.0, deaths=8, kills=Counter(actor=8))
    predicted = prediction(plan, quiet, toll, actors=2)
    assert predicted.quiet == pytest.approx(80.0)
    assert 80.0 + 20.0 < predicted.wall.mean < 80.0 + 40.0  # a death in 30 s of an actor costs it 10 s
    rows = {row[0]: row[1:] for row in against(toll, predicted)}
    assert rows["seconds"][0] == "160" and rows["images thrown away"][0] == str(16 - 3200)
    assert dict(figures(plan, toll, {"503": 3}))["S3: 503"] == 3
