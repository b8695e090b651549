from __future__ import annotations

import pytest

from syncclip.training.settings import TrainingSettings


def test_more_workers_than_pictures_in_a_batch_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"workers is 5, but a batch of 4 cannot be shared out evenly to so many; use 4 worker"
    ):
        TrainingSettings(workers=5, batch=4)


@pytest.mark.parametrize("scale", [(0.5, 0.2), (0.0, 1.0), (0.5, 1.5)])
def test_an_impossible_crop_is_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="scale is"):
        TrainingSettings(scale=scale)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValueError, match="epoch_count"):
        TrainingSettings(epoch_count=3)  # type: ignore[call-arg]
