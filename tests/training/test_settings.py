from __future__ import annotations

from typing import Any

import pytest
from ray._private import label_utils

from syncclip.methods.settings import Optimisation
from syncclip.training.settings import TrainingSettings, warmup_warning


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"workers": 5, "batch_size": 4}, "workers is 5, but a batch of 4 images can't be split"),
        ({"workers": 4, "min_workers": 2}, "the number of workers may be 3"),
        ({"workers": 2, "min_workers": 4}, "min_workers is 4, but workers is 2"),
        *(({"crop_scale": scale}, "crop_scale is") for scale in ((0.5, 0.2), (0.0, 1.0), (0.5, 1.5))),
        *(
            ({"label_selector": {key: value}}, "label_selector")
            for key, value in {"a b": "c", "a": "!!c", "b": "", "c": "in(b, c)", "-a": "b", "d": "b-"}.items()
        ),
    ],
)
def test_invalid_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**values)


def test_any_number_of_elastic_workers_can_split_the_batch() -> None:
    assert TrainingSettings(workers=4, min_workers=2, batch_size=12).min_workers == 2


def test_added_settings_are_serialised_only_if_set() -> None:
    new = {"accumulation_steps", "min_workers", "max_failures", "checkpoint_minutes", "keep_best", "label_selector"}
    assert not new & TrainingSettings().model_dump().keys()
    assert TrainingSettings(accumulation_steps=2).model_dump()["accumulation_steps"] == 2
    assert TrainingSettings().trackers == ()


@pytest.mark.parametrize("selector", [{}, {"gpu": "!t4"}, {"ray.io/market-type": "on-demand"}, {"zone": "a.b_c-1"}])
def test_valid_label_selectors_are_accepted_by_ray(selector: dict[str, str]) -> None:
    assert TrainingSettings(label_selector=selector).label_selector == selector
    assert label_utils.validate_label_selector(selector) is None


@pytest.mark.parametrize(("epochs", "warmup_epochs"), [(1, 1), (1, 5), (3, 3)])
def test_warning_if_all_epochs_are_warmup(epochs: int, warmup_epochs: int) -> None:
    training = TrainingSettings(method="ivlp", epochs=epochs, warmup_epochs=warmup_epochs)
    assert warmup_warning(training, 0.005, None) == (
        f"training.epochs={epochs} is all warm-up (training.warmup_epochs={warmup_epochs}): ivlp trains at 1e-05 and "
        "never reaches its learning rate of 0.005; increase training.epochs, or set training.warmup_epochs=0"
    )


@pytest.mark.parametrize(
    ("epochs", "warmup_epochs", "own"),
    [(2, 1, None), (1, 0, None), (10, 1, Optimisation()), (1, 1, Optimisation(by_step=True))],
)
def test_no_warning_if_the_learning_rate_is_reached(epochs: int, warmup_epochs: int, own: Optimisation | None) -> None:
    assert warmup_warning(TrainingSettings(epochs=epochs, warmup_epochs=warmup_epochs), 0.005, own) is None
