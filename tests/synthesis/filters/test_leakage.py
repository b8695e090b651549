from __future__ import annotations

from pathlib import Path

import pytest
from PIL import ImageEnhance

from syncclip.clip.backbone import BackboneSettings
from syncclip.core.settings import UserError
from syncclip.shards.reader import ImageSet
from syncclip.synthesis.filters import FrozenClip
from syncclip.synthesis.filters.leakage import Leakage, LeakageSettings, with_leakage_checksum
from tests.synthesis.filters.conftest import batch, noise


class Images:
    """Noise as test images; the second can't be read."""

    labels = None

    def __len__(self) -> int:
        return 3

    def image(self, row: int):
        if row == 1:
            raise UserError("broken")
        return noise(row)


def never() -> ImageSet:
    raise AssertionError("the features were to be computed once")


def test_a_copy_of_a_test_image_is_rejected_whatever_its_class(
    backbone: BackboneSettings, clip: FrozenClip, tmp_path: Path
) -> None:
    settings = with_leakage_checksum(LeakageSettings(backbone=backbone, similarity=0.998), str(tmp_path), Images)
    copy = ImageEnhance.Brightness(noise(2)).enhance(0.98)
    verdict = Leakage(settings, clip, str(tmp_path)).score(batch([noise(0), copy, noise(9)], [0, 3, 0]))
    assert verdict.keep == [False, False, True]
    assert verdict.scores[0] < verdict.scores[1] < verdict.scores[2]


def test_the_features_are_computed_once_and_again_only_if_they_are_gone(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    settings = with_leakage_checksum(LeakageSettings(backbone=backbone), str(tmp_path), Images)
    assert with_leakage_checksum(settings, str(tmp_path), never) == settings
    for file in (tmp_path / "filters").iterdir():
        file.unlink()
    assert with_leakage_checksum(settings, str(tmp_path), Images) == settings
    assert with_leakage_checksum(settings, str(tmp_path), never) == settings


def test_damaged_features_are_reported(backbone: BackboneSettings, clip: FrozenClip, tmp_path: Path) -> None:
    settings = with_leakage_checksum(LeakageSettings(backbone=backbone), str(tmp_path), Images)
    (file,) = (tmp_path / "filters").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(UserError, match="is damaged"):
        Leakage(settings, clip, str(tmp_path))
