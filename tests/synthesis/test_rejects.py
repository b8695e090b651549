from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from syncclip import storage
from syncclip.synthesis.plan import Plan
from syncclip.synthesis.rejects import PER_REASON, SHARDS, Gallery, read_rejects, rejects_name, write_rejects
from syncclip.synthesis.shard import begin_shard
from tests.synthesis.test_shard import Brighter, SeedGenerator


@pytest.fixture
def plan(make_plan: Callable[..., Plan]) -> Plan:
    return make_plan(400, shard_size=15, attempts=4)


def test_the_first_rejects_of_each_reason_are_stored(plan: Plan, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "again"):
        shard = begin_shard(plan, 0, SeedGenerator(), [Brighter(100, "dark"), Brighter(200, "dim")])()
        write_rejects(str(folder), 0, shard.gallery)
    assert (tmp_path / rejects_name(0)).read_bytes() == (tmp_path / "again" / rejects_name(0)).read_bytes()
    by_reason = read_rejects(str(tmp_path), 99, storage.NOBODY)
    assert {reason: len(rejects) for reason, rejects in by_reason.items()} == {"dark": PER_REASON, "dim": PER_REASON}
    for reason, (low, high) in {"dark": (0, 101), "dim": (101, 201)}.items():
        for reject in by_reason[reason]:
            entry = plan.entry(reject.index, reject.attempt)
            assert (reject.label, reject.score) == (entry.label, entry.seed % 256)
            assert low <= entry.seed % 256 < high
            assert np.asarray(Image.open(io.BytesIO(reject.jpeg))).mean() == pytest.approx(reject.score, abs=2)


def test_a_shard_without_rejects_and_a_late_shard_have_no_table(plan: Plan, tmp_path: Path) -> None:
    for shard, bound in ((0, -1), (SHARDS, 150)):
        write_rejects(str(tmp_path), shard, begin_shard(plan, shard, SeedGenerator(), [Brighter(bound)])().gallery)
    assert not list(tmp_path.iterdir())
    assert read_rejects(str(tmp_path), 9, storage.NOBODY) == {}


def test_rejects_alternate_between_classes(plan: Plan, tmp_path: Path) -> None:
    for shard in (0, 1):
        gallery = Gallery(shard)
        for index in (0, 3, 1):  # classes 0, 0 and 1
            gallery.add("dark", Image.new("RGB", (8, 8)), plan.entry(index + 15 * shard), 1.0, blurred=False)
        write_rejects(str(tmp_path), shard, gallery.rejects)
    assert [reject.label for reject in read_rejects(str(tmp_path), 3, storage.NOBODY)["dark"]] == [0, 1, 0]


def test_blurred_thumbnails_are_unrecognisable(plan: Plan) -> None:
    checks = Image.fromarray((np.indices((64, 64)).sum(axis=0) // 4 % 2 * 255).astype(np.uint8))
    contrasts = []
    for blurred in (False, True):
        gallery = Gallery(0)
        gallery.add("nsfw", checks, plan.entry(0), 0.0, blurred)
        contrasts.append(np.asarray(Image.open(io.BytesIO(gallery.rejects[0].jpeg))).std())
    assert contrasts[0] > 60 and contrasts[1] < 20
