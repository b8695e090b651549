"""Numbers of images for a target accuracy, on studies with a given scaling curve."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.studies import outputs
from syncclip.studies.recommendation import recommend
from tests.studies.predicted import write_study, write_training


def law(configuration: str, n: int) -> float:
    """Accuracy with an error of 40 + 20 / sqrt(1 + n)."""
    return 60 - 20 * (1 + n) ** -0.5


def falling(configuration: str, n: int) -> float:
    return 60 - n / 4


@pytest.fixture
def study(tmp_path: Path) -> str:
    return write_study(tmp_path / "study", law)


def test_curve_is_inverted_within_the_measured_range(study: str) -> None:
    answer = recommend(study, 55, "novel")
    # The error of 45 % is reached at (20 / 5)^2 - 1 = 15 images.
    assert answer.needed and answer.needed.estimate == pytest.approx(15, rel=0.15)
    assert 5 < answer.needed.low < answer.needed.estimate < answer.needed.high < 60
    assert (answer.reason, answer.pilot, answer.configuration) == ("", (), "syncclip-both")
    assert answer.images in {8 * n for n in range(13, 18)}
    assert list(answer.measured) == [0, 1, 4, 16, 64] and answer.measured[64].estimate == 57.5


def test_uncertain_answer_has_a_pilot_at_the_upper_bound(study: str) -> None:
    answer = recommend(study, 57, "novel")
    assert answer.needed and answer.needed.estimate < 64 < answer.needed.high
    *measured, more = answer.pilot
    assert measured == [1, 4, 16, 64] and more == min(256, -int(-answer.needed.high // 1))


def test_target_that_some_classes_never_reach_has_no_pilot(tmp_path: Path) -> None:
    answer = recommend(write_study(tmp_path, law, spread=20), 55, "novel")
    assert answer.needed and answer.needed.high == float("inf") and answer.pilot == ()


def test_target_beyond_the_measured_range_is_not_extrapolated(study: str) -> None:
    answer = recommend(study, 59, "novel")
    assert answer.needed is None and answer.pilot == (1, 4, 16, 64, 256)
    assert answer.reason.startswith("the target exceeds the fitted accuracy at 64 images per class, 57.")
    assert answer.images == 256 * 8


def test_target_that_is_reached_without_synthetic_images_needs_none(study: str) -> None:
    answer = recommend(study, 30, "novel")
    assert answer.needed and answer.needed.estimate == answer.needed.high == 0 and answer.images == 0


@pytest.mark.parametrize(
    ("accuracy", "reason", "pilot"),
    [
        (lambda configuration, n: 50, "the accuracy has no significant trend", (1, 4, 16, 64, 256)),
        (falling, "the accuracy falls with more images", ()),
    ],
)
def test_curve_that_does_not_rise_is_not_inverted(
    tmp_path: Path, accuracy: object, reason: str, pilot: tuple[int, ...]
) -> None:
    answer = recommend(write_study(tmp_path, accuracy), 55, "novel")  # type: ignore[arg-type]
    assert (answer.needed, answer.reason, answer.pilot) == (None, reason, pilot)


def test_pilot_has_enough_numbers_of_images_for_a_fit(tmp_path: Path) -> None:
    answer = recommend(write_study(tmp_path, law, "study.images_per_class=[64]"), 55, "novel")
    assert answer.reason == "2 numbers of images, a power law requires 4" and answer.pilot == (4, 16, 64, 256)


def test_cost_follows_the_measured_throughput_and_the_price(tmp_path: Path) -> None:
    url = write_study(
        tmp_path, law, "synthesis.cost.price=2.5", "synthesis.num_gpus=0.5", "synthesis.cost.currency=EUR"
    )
    cost = outputs.Cost(outputs.SynthesisCost(100, {}, 1, images_per_second=0.1))
    outputs.write_json(str(tmp_path / outputs.COST), cost, storage.read_owner(str(tmp_path / outputs.STATE)))
    answer = recommend(url, 59, "novel")
    # 2,048 images at 0.1 images/s take 5.69 h of half a GPU.
    assert answer.cost == "5 h 41 min on one generator, 7.11 EUR"


def test_throughput_of_the_recipe_is_used_without_a_measurement(tmp_path: Path) -> None:
    assert recommend(write_study(tmp_path / "a", law), 59, "novel").cost == ""
    url = write_study(tmp_path / "b", law, "synthesis.cost.throughput=2.0")
    assert recommend(url, 59, "novel").cost == "17 min 4 s on one generator"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("novl",), "the study does not measure 'novl'; did you mean 'novel'"),
        (("novel", "syncclip-bth"), "no scaling curve of 'syncclip-bth'; did you mean 'syncclip-both'"),
        (("novel", "ivlp-real"), "no scaling curve of 'ivlp-real'"),
    ],
)
def test_unknown_metric_or_configuration_is_an_error(study: str, arguments: tuple[str, ...], error: str) -> None:
    with pytest.raises(UserError, match=error):
        recommend(study, 55, *arguments)


def test_training_and_unfinished_study_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pass the folder of a study"):
        recommend(write_training(tmp_path / "run", 50), 55)
    with pytest.raises(UserError, match="training runs are not finished"):
        recommend(write_study(tmp_path / "study", law, status="failed"), 55)
