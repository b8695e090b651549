from __future__ import annotations

import pytest
from ray._private import label_utils

from syncclip.methods.settings import Optimisation
from syncclip.training.settings import TrainingSettings, warmup_warning


def test_more_workers_than_images_in_a_batch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"workers is 5, but a batch of 4 can't be split evenly"):
        TrainingSettings(workers=5, batch_size=4)


@pytest.mark.parametrize("scale", [(0.5, 0.2), (0.0, 1.0), (0.5, 1.5)])
def test_an_impossible_crop_is_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="crop_scale is"):
        TrainingSettings(crop_scale=scale)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValueError, match="epoch_count"):
        TrainingSettings(epoch_count=3)  # type: ignore[call-arg]


def test_what_a_cluster_may_have_room_for_must_share_the_batch() -> None:
    assert TrainingSettings(workers=4, min_workers=2, batch_size=12).min_workers == 2
    with pytest.raises(ValueError, match=r"between training.min_workers and training.workers is 3, but a batch of 16"):
        TrainingSettings(workers=4, min_workers=2, batch_size=16)
    with pytest.raises(ValueError, match="min_workers is 4, but workers is 2"):
        TrainingSettings(workers=2, min_workers=4)


def test_settings_of_today_are_written_as_before() -> None:
    new = {"accumulation_steps", "min_workers", "max_failures", "checkpoint_minutes", "keep_best", "label_selector"}
    assert not new & TrainingSettings().model_dump().keys()
    assert TrainingSettings(accumulation_steps=2).model_dump()["accumulation_steps"] == 2


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


@pytest.mark.parametrize(("epochs", "warmup_epochs"), [(1, 1), (1, 5), (3, 3)])
def test_a_training_that_is_all_warm_up_is_warned_about(epochs: int, warmup_epochs: int) -> None:
    training = TrainingSettings(method="ivlp", epochs=epochs, warmup_epochs=warmup_epochs)
    assert warmup_warning(training, 0.005, None) == (
        f"training.epochs={epochs} is all warm-up (training.warmup_epochs={warmup_epochs}): ivlp trains at 1e-05 and "
        "never reaches its learning rate of 0.005; increase training.epochs, or set training.warmup_epochs=0"
    )


@pytest.mark.parametrize(
    ("epochs", "warmup_epochs", "asked"),
    [(2, 1, None), (1, 0, None), (10, 1, Optimisation()), (1, 1, Optimisation(by_step=True))],
)
def test_a_training_that_reaches_its_learning_rate_is_not(
    epochs: int, warmup_epochs: int, asked: Optimisation | None
) -> None:
    assert warmup_warning(TrainingSettings(epochs=epochs, warmup_epochs=warmup_epochs), 0.005, asked) is None
