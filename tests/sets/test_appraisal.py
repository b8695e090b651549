from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from syncclip.cli import app
from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from syncclip.sets.quality import measure_quality
from syncclip.shards.reader import ShardSet
from tests.conftest import TinyWorld


def test_a_set_is_measured_by_its_recipes_clip_and_real_images(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    url = str(shutil.copytree(tiny_set, tmp_path / "set"))
    quality = measure_quality(Recipe.load(tiny.recipe), url)
    assert (quality.images, quality.measured) == (12, 12)
    assert quality.backbone == tiny.backbone
    assert quality.shift is not None and quality.shift.centroid_distance > 0
    assert (tmp_path / "set" / "stats.json").is_file()
    assert len(ShardSet(url)) == 12  # the numbers beside it don't disturb readers


def test_another_datasets_set_is_refused(tiny: TinyWorld, tiny_set: str) -> None:
    with pytest.raises(UserError, match="shows 6 classes of dataset 'shapes', not the 88 of 'icons'; name its"):
        measure_quality(Recipe.load("icons"), tiny_set)


def test_the_command_tells_the_numbers_in_a_few_lines(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = Path(shutil.copytree(tiny_set, tmp_path / "set"))
    (url / "synthesis.yaml").write_text(Recipe.load(tiny.recipe).to_yaml())
    assert app.run(["shards", "quality", str(url)]) == 0
    told = capsys.readouterr().out
    assert "12 of 12 images measured" in told
    assert "similarity of two images of a class" in told and "shift to the real images" in told
