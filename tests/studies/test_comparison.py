"""Comparisons of trainings and of studies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from syncclip import compare
from syncclip.core.settings import UserError
from tests.studies.predicted import write_study, write_training


def flat(configuration: str, n: int) -> float:
    return 50


def higher(configuration: str, n: int) -> float:
    """4 points above `flat` with synthetic images."""
    return 54 if n else 50


def compared(frame: pd.DataFrame, **values: object) -> list[tuple[float, float, float]]:
    for key, value in {"metric": "novel", **values}.items():
        frame = frame[frame[key] == value]
    return list(frame[["difference", "difference_low", "difference_high"]].itertuples(index=False, name=None))


def test_constant_difference_of_studies_is_exact_although_seeds_and_classes_vary(tmp_path: Path) -> None:
    first, second = (write_study(tmp_path / each.__name__, each, spread=16) for each in (flat, higher))
    frame = compare(first, second)
    assert compared(frame, configuration="syncclip-both", images_per_class=16) == [(0, 0, 0), pytest.approx((4, 4, 4))]
    assert compared(frame, configuration="zeroshot") == [(0, 0, 0)] * 2
    assert frame["folder"].tolist()[:2] == [first, second] and set(frame["reason"]) == {""}
    assert frame["mean"].iloc[0] + 10 < frame["high"].iloc[0], "the intervals of the accuracies are wide"


def test_only_common_configurations_numbers_of_images_and_seeds_are_compared(tmp_path: Path) -> None:
    first = write_study(tmp_path / "first", flat, "study.images_per_class=[1, 4]", "study.seeds=[1, 2]")
    second = write_study(tmp_path / "second", flat, "study.images_per_class=[4, 8]", "study.seeds=[2, 3]")
    frame = compare(first, second)
    trained = frame[frame["configuration"] == "syncclip-both"]
    assert trained["images_per_class"].unique().tolist() == [4]
    assert set(trained["seeds"]) == {1} and set(trained["difference"]) == {0}


def test_trainings_with_different_methods_are_paired_by_image(tmp_path: Path) -> None:
    first = write_training(tmp_path / "first", 50, spread=16)
    second = write_training(tmp_path / "second", 45, "training.method=coop", "training.seed=7", spread=16)
    third = write_training(tmp_path / "third", 55, "training.method=zeroshot", spread=0)
    frame = compare(first, second, third)
    _, constant, (difference, low, high) = compared(frame)
    assert constant == pytest.approx((-5, -5, -5))
    assert difference == pytest.approx(5) and low < 0 < 5 < high, "the classes differ"
    assert frame["configuration"].tolist()[:3] == ["ivlp-real", "coop-real", "zeroshot"]


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("evaluation.split=val", "different test images (split: test and val)"),
        ("dataset.split_seed=3", "different test images (split_seed: 0 and 3)"),
    ],
)
def test_different_test_images_have_no_interval(tmp_path: Path, override: str, reason: str) -> None:
    frame = compare(write_training(tmp_path / "first", 50), write_training(tmp_path / "second", 52, override))
    first, (difference, low, high) = compared(frame)
    assert first == (0, 0, 0) and difference == pytest.approx(2) and np.isnan([low, high]).all()
    assert frame["reason"].tolist()[:2] == ["", reason]


def test_studies_without_a_common_seed_have_no_interval(tmp_path: Path) -> None:
    first, second = (write_study(tmp_path / str(seed), flat, f"study.seeds=[{seed}, {seed + 1}]") for seed in (1, 3))
    frame = compare(first, second)
    trained, untrained = (frame[frame["configuration"] == name] for name in ("ivlp-real", "zeroshot"))
    assert set(trained["reason"]) == {"no common seed"} and set(untrained["reason"]) == {""}
    assert trained["difference_low"].isna().all()


def test_a_single_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least two folders"):
        compare(write_training(tmp_path, 50))


def test_a_study_and_a_training_are_an_error(tmp_path: Path) -> None:
    folders = write_study(tmp_path / "study", flat), write_training(tmp_path / "run", 50)
    with pytest.raises(UserError, match=r"/study is a study, but .*/run is a training; pass several folders of one kind"):
        compare(*folders)


def test_an_unfinished_study_is_an_error(tmp_path: Path) -> None:
    folders = write_study(tmp_path / "first", flat), write_study(tmp_path / "second", flat, status="waiting")
    with pytest.raises(UserError, match=r"/second: 16 of 16 training runs are not finished; run the study again"):
        compare(*folders)


def test_studies_without_a_common_configuration_are_an_error(tmp_path: Path) -> None:
    other = "study.configurations=[{method: coop, data: real}]"
    folders = write_study(tmp_path / "first", flat), write_study(tmp_path / "second", flat, other)
    with pytest.raises(UserError, match="share no configuration"):
        compare(*folders)
