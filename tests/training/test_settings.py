from __future__ import annotations

import pytest
from ray._private import label_utils

from syncclip.training.settings import TrainingSettings


def test_more_workers_than_images_in_a_batch_are_refused() -> None:
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


def test_what_a_cluster_may_have_room_for_must_share_the_batch() -> None:
    assert TrainingSettings(workers=4, min_workers=2, batch=12).min_workers == 2
    with pytest.raises(ValueError, match=r"between training.min_workers and training.workers is 3, but a batch of 16"):
        TrainingSettings(workers=4, min_workers=2, batch=16)
    with pytest.raises(ValueError, match="min_workers is 4, but workers is 2"):
        TrainingSettings(workers=2, min_workers=4)


def test_settings_of_today_are_written_as_before() -> None:
    new = {"accumulate", "min_workers", "max_failures", "checkpoint_minutes", "keep_best", "label_selector"}
    assert not new & TrainingSettings().model_dump().keys()
    assert TrainingSettings(accumulate=2).model_dump()["accumulate"] == 2


@pytest.mark.parametrize("selector", [{}, {"gpu": "!t4"}, {"ray.io/market-type": "on-demand"}, {"zone": "a.b_c-1"}])
def test_a_label_selector_is_one_that_ray_takes(selector: dict[str, str]) -> None:
    assert TrainingSettings(label_selector=selector).label_selector == selector
    assert label_utils.validate_label_selector(selector) is None


@pytest.mark.parametrize(
    "selector", [{"a b": "c"}, {"a": "!!c"}, {"a": ""}, {"a": "in(b, c)"}, {"-a": "b"}, {"a": "b-"}]
)
def test_another_label_selector_is_refused(selector: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="label_selector"):
        TrainingSettings(label_selector=selector)
