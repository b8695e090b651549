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
    """Noise as test images, of which the second is unreadable."""

    labels = None

    def __len__(self) -> int:
        return 3

    def image(self, row: int):
        if row == 1:
            raise UserError("broken")
        return noise(row)


def no_images() -> ImageSet:
    raise AssertionError("the features were computed before")


def test_near_duplicates_of_test_images_are_rejected(
    backbone: BackboneSettings, clip: FrozenClip, tmp_path: Path
) -> None:
    settings = with_leakage_checksum(LeakageSettings(backbone=backbone, similarity=0.998), str(tmp_path), Images)
    near = ImageEnhance.Brightness(noise(2)).enhance(0.98)
    result = Leakage(settings, clip, str(tmp_path)).score(batch([noise(0), near, noise(9)], [0, 3, 0]))
    assert result.keep == [False, False, True]
    assert result.scores[0] < result.scores[1] < result.scores[2]


def test_features_are_computed_once_and_damage_is_reported(
    backbone: BackboneSettings, clip: FrozenClip, tmp_path: Path
) -> None:
    settings = with_leakage_checksum(LeakageSettings(backbone=backbone), str(tmp_path), Images)
    assert with_leakage_checksum(settings, str(tmp_path), no_images) == settings
    (file,) = (tmp_path / "filters").iterdir()
    file.unlink()
    assert with_leakage_checksum(settings, str(tmp_path), Images) == settings
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(UserError, match="is corrupt"):
        Leakage(settings, clip, str(tmp_path))
