"""Tables of the accuracies of studies and trainings, and their comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from syncclip import compare, results, storage
from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from syncclip.studies import outputs, predictions
from syncclip.studies.analysis import Evidence
from syncclip.studies.levels_state import LevelsState
from tests.studies.predicted import write_study, write_training


def growing(configuration: str, n: int) -> float:
    """50 % without synthetic images, and one point more for each doubling of n, starting at 60 %."""
    return 60 + np.log2(n) if n else 50


def row(frame: pd.DataFrame, **values: object) -> pd.Series:
    for key, value in values.items():
        frame = frame[frame[key] == value]
    (only,) = frame.index
    return frame.loc[only]


def test_each_configuration_has_a_row_for_each_number_of_images_and_metric(tmp_path: Path) -> None:
    frame = results(write_study(tmp_path, growing))
    novel = frame[frame["metric"] == "novel"]
    assert novel["configuration"].tolist() == ["zeroshot", "ivlp-real", *["syncclip-both"] * 4]
    assert novel["images_per_class"].fillna(0).tolist() == [0, 0, 1, 4, 16, 64]
    assert novel["mean"].tolist() == [50, 50, 60, 62, 64, 66]
    assert set(frame["dataset"]) == {"shapes"} and set(frame["split"]) == {"test"}


def test_standard_error_and_interval_are_over_seeds(tmp_path: Path) -> None:
    scores = row(results(write_study(tmp_path, growing)), metric="hm", images_per_class=16)
    # Accuracies of the seeds are 63.5, 64 and 64.5; 4.30 is the 97.5 % quantile of t with two degrees of freedom.
    assert scores["seeds"] == 3 and scores["standard_error"] == pytest.approx(0.5 / 3**0.5)
    assert scores["high"] - scores["low"] == pytest.approx(2 * 4.30 * 0.5 / 3**0.5, rel=0.5)


def test_interval_is_also_over_classes(tmp_path: Path) -> None:
    narrow, wide = (
        row(results(write_study(tmp_path / str(spread), growing, spread=spread)), metric="novel", images_per_class=16)
        for spread in (0, 20)
    )
    assert narrow["mean"] == wide["mean"] and wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"])


def test_interval_of_an_accuracy_contains_only_possible_values(tmp_path: Path) -> None:
    frame = results(write_study(tmp_path, lambda configuration, n: 98 if n else 3, spread=80))
    assert frame["low"].min() >= 0 and frame["high"].max() == 100


def test_study_of_a_recipes_folder_is_read(tmp_path: Path) -> None:
    write_study(tmp_path / "study", growing)
    pd.testing.assert_frame_equal(results(str(tmp_path)), results(str(tmp_path / "study")))


def test_training_has_a_row_for_each_metric_without_standard_error(tmp_path: Path) -> None:
    frame = results(write_training(tmp_path, 60, "evaluation.split=val", spread=8))
    scores = row(frame, metric="novel")
    assert (scores["configuration"], scores["split"], scores["seeds"]) == ("ivlp-real", "val", 1)
    assert scores["mean"] == 60 and scores["low"] < 60 < scores["high"] and np.isnan(scores["standard_error"])


def test_csv_is_read_without_cleaning(tmp_path: Path) -> None:
    frame = results(write_study(tmp_path, growing))
    frame.to_csv(tmp_path / "results.csv", index=False)
    read = pd.read_csv(tmp_path / "results.csv")
    assert all(read[column].dtype == float for column in ("mean", "standard_error", "low", "high"))
    np.testing.assert_allclose(read["mean"], frame["mean"])


def test_study_without_finished_runs_is_an_error(tmp_path: Path) -> None:
    url = write_study(tmp_path, growing)
    predictions.write(Evidence([], {}), url, storage.read_owner(str(tmp_path / outputs.STATE)))
    with pytest.raises(UserError, match="no training run is finished"):
        results(url)


def test_unevaluated_training_is_an_error(tmp_path: Path) -> None:
    url = write_training(tmp_path, 60)
    (tmp_path / "classes.json").unlink()
    with pytest.raises(UserError, match="syncclip evaluate"):
        results(url)


def test_other_folders_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no study or training"):
        results(str(tmp_path))
    state = LevelsState(name="a", dataset="b", split="test", datasets=(), pretrained=("openai",), configurations={})
    storage.write_document(str(tmp_path / outputs.LEVELS), state)
    with pytest.raises(UserError, match=r"several pretrained tags; pass a subfolder: .*/openai"):
        results(str(tmp_path))


def flat(configuration: str, n: int) -> float:
    return 50


def higher(configuration: str, n: int) -> float:
    """4 points above `flat` with synthetic images."""
    return 54 if n else 50


def compared(frame: pd.DataFrame, **values: object) -> list[tuple[float, float, float]]:
    for key, value in {"metric": "novel", **values}.items():
        frame = frame[frame[key] == value]
    return list(frame[["difference", "difference_low", "difference_high"]].itertuples(index=False, name=None))


def test_settings_are_those_of_the_used_methods_that_differ(tmp_path: Path) -> None:
    both = ["methods.ivlp.learning_rate=0.5", "evaluation.bins=10", "training.cache_images=0", "study.seeds=[3]"]
    first = write_training(tmp_path / "a", 50, "methods.coop.learning_rate=0.5")
    second = write_training(tmp_path / "b", 50, *both)
    untrained = write_training(tmp_path / "c", 50, "training.method=zeroshot", "training.epochs=3")
    frame = compare(first, second, untrained)
    rate = Recipe.of_defaults().methods.ivlp.learning_rate
    assert frame["settings"].tolist()[:3] == [
        f"evaluation.bins=15\nmethods.ivlp.learning_rate={rate}",
        "evaluation.bins=10\nmethods.ivlp.learning_rate=0.5",
        "evaluation.bins=15",
    ]


def test_differing_overrides_are_labelled_by_their_configuration(tmp_path: Path) -> None:
    configurations = "{method: zeroshot}, {method: syncclip}"  # ivlp-real is at another position in the first study
    first = write_study(tmp_path / "a", flat)
    second = write_study(
        tmp_path / "b",
        flat,
        f"study.configurations=[{configurations}, {{method: ivlp, data: real, overrides: {{training.epochs: 3}}}}]",
    )
    assert list(dict.fromkeys(compare(first, second)["settings"])) == [
        "ivlp-real.overrides={}",
        'ivlp-real.overrides={"training.epochs": 3}',
    ]


def test_overrides_of_configurations_that_are_not_compared_are_no_settings(tmp_path: Path) -> None:
    other = "{method: coop, data: real, overrides: {training.epochs: 3}}"
    second = write_study(tmp_path / "b", flat, f"study.configurations=[{{method: zeroshot}}, {other}]")
    frame = compare(write_study(tmp_path / "a", flat), second)
    assert set(frame["configuration"]) == {"zeroshot"} and not frame["settings"].str.contains("overrides").any()


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
    trained = frame[(frame["configuration"] == "syncclip-both") & (frame["metric"] == "novel")]
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
    with pytest.raises(
        UserError, match=r"/study is a study, but .*/run is a training; pass several folders of one kind"
    ):
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
