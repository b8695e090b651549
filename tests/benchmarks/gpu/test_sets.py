"""Both ways to a set make as many images."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gpu import sets

pytestmark = pytest.mark.nightly


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_set_is_made_by_rays_own_formulation_and_by_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BATCH", 4), ("CLASSES", 2), ("WHATS", sets.WHATS[:2])):  # compiling takes a minute
        monkeypatch.setattr(sets, name, value)
    theirs, ours = sets.rows("cpu", tmp_path, tiny=True, images=8)
    assert theirs["images"] == ours["images"] == 8, (theirs, ours)
    assert theirs["images_s"] > 0 and ours["images_s"] > 0
    assert 0 < ours["computed"] <= 1 and "busy" not in theirs


def test_a_way_that_fails_is_left_out_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no room")

    for name in ("_with_map_batches", "synthesise_set"):
        monkeypatch.setattr(sets, name, fail)
    found = list(sets.rows("cpu", tmp_path, tiny=True))
    assert found == [{"what": what, "left_out": "no room"} for what in sets.WHATS]
