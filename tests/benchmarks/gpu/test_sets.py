"""Both formulations generate the same number of images."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gpu import sets

pytestmark = pytest.mark.nightly


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_both_formulations_generate_all_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # without compilation, which takes a minute
    for name, value in (("BATCH", 4), ("CLASSES", 2), ("WHATS", sets.WHATS[:2])):
        monkeypatch.setattr(sets, name, value)
    theirs, ours = sets.rows("cpu", tmp_path, tiny=True, images=8)
    assert theirs["images"] == ours["images"] == 8, (theirs, ours)
    assert theirs["images_s"] > 0 and ours["images_s"] > 0
    assert 0 < ours["computed"] <= 1 and "busy" not in theirs
