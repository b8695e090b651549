"""Predictions of the gain map: known model, recommendation, held-out datasets and levels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from syncclip.studies import gain_prediction
from syncclip.studies.gain_prediction import (
    ALL_CONFIGURATIONS,
    ExpectedGain,
    enough_images,
    errors,
    held_out,
    predict,
    reason_without,
    recommend,
)
from syncclip.studies.statistics.bootstrap import Interval
from tests.studies.synthetic_map import CONFIGURATIONS, REAL_OVER_ZERO_SHOT, gain, synthetic_map


def expected(configuration: str, n: int, over_real: float, over_zero_shot: float = 9.0) -> ExpectedGain:
    intervals = (Interval(value, value - 1, value + 1) for value in (over_real, over_zero_shot))
    return ExpectedGain(configuration, n, "ivlp-real", *intervals)


def test_gains_of_the_known_model_are_predicted() -> None:
    gains = predict(synthetic_map(1, between=0, within=0), 0.6)
    assert len(gains) == 3 * len(CONFIGURATIONS)
    for each in gains:
        true = gain(each.configuration, 0.6, each.images_per_class)
        assert each.over_real.estimate == pytest.approx(true)
        assert each.over_zero_shot.estimate == pytest.approx(true + REAL_OVER_ZERO_SHOT)


def test_the_interval_grows_with_the_variation_between_datasets() -> None:
    widths = []
    for between in (0.2, 3.0):
        interval = predict(synthetic_map(2, between), 0.6)[0].over_real
        widths.append(interval.high - interval.low)
    assert widths[1] > 3 * widths[0]


@pytest.mark.parametrize(("name_knowledge", "recommended"), [(0.4, "class-vectors"), (0.93, None)])
def test_the_recommendation_depends_on_name_knowledge(name_knowledge: float, recommended: str | None) -> None:
    chosen = recommend(predict(synthetic_map(3, between=0.1, within=0.1), name_knowledge))
    assert (chosen and chosen.configuration) == recommended


def test_a_method_must_outperform_zero_shot_and_every_method_on_real_images_only() -> None:
    only_zero_shot, only_real = expected("a", 4, -1, 20), expected("b", 4, 20, -1)
    small, weak_baseline = expected("c", 4, 2, 3), expected("d", 4, 20, 4)
    assert recommend([only_real, small]) is small
    assert recommend([only_real, small, weak_baseline]) is weak_baseline
    assert recommend([only_zero_shot, small, weak_baseline]) is None, "the baseline of the first gains 21 points"
    assert recommend([only_zero_shot]) is None and recommend([only_real]) is None
    assert recommend([]) is None


def test_the_smallest_number_of_images_within_a_point_of_the_maximum_is_enough() -> None:
    gains = [
        expected("a", 16, 5.0),
        expected("a", 1, 2.0),
        expected("a", 4, 4.1),
        expected("b", 1, -2),
        expected("b", 4, -4),
    ]
    assert [(gain.configuration, gain.images_per_class) for gain in enough_images(gains)] == [("a", 4), ("b", 1)]


@pytest.mark.parametrize("name_knowledge", [0.1, 1.2, float("nan")])
def test_name_knowledge_outside_the_map_has_no_prediction(name_knowledge: float) -> None:
    table = synthetic_map(4, numbers=(4,))
    assert predict(table, name_knowledge) == ()
    assert "is outside the gain map, which was measured from 0.3" in reason_without(table, name_knowledge)


def test_each_configuration_is_predicted_within_its_own_range() -> None:
    table = synthetic_map(4, numbers=(4, 16))
    only_some = (table["images_per_class"] == 16) & ~table["level"].isin(["none", "few"])
    assert {gain.images_per_class for gain in predict(table[~only_some], 0.8)} == {4}
    assert {gain.images_per_class for gain in predict(table[~only_some], 0.45)} == {4, 16}


def test_a_package_without_a_map_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gain_prediction, "MAP", tmp_path / "gain_map.csv")
    assert gain_prediction.installed_map() is None
    table = synthetic_map(5)
    table.to_csv(tmp_path / "gain_map.csv", index=False)
    installed = gain_prediction.installed_map()
    assert installed is not None and np.allclose(installed["over_real"], table["over_real"])


def test_combinations_on_few_datasets_have_no_prediction() -> None:
    table = synthetic_map(6)
    few = (table["images_per_class"] == 16) & ~table["dataset"].isin(["devices", "travel"])
    assert {gain.images_per_class for gain in predict(table[~few], 0.6)} == {1, 4}
    two = table[table["dataset"].isin(["devices", "travel"])]
    assert predict(two, 0.6) == () and reason_without(two, 0.6) == "the gain map contains too few datasets"


def test_left_out_datasets_and_levels_are_predicted_without_their_rows() -> None:
    table = synthetic_map(7, numbers=(4,))
    table = table[table["configuration"] == "class-vectors"]
    before = held_out(table)
    assert len(before) == 2 * 2 * len(table), "two targets, two kinds of folds"
    changed = table.copy()
    changed.loc[changed["dataset"] == "travel", ["over_real", "over_zero_shot"]] += 50
    after = held_out(changed)
    own = (before["left_out"] == "dataset") & (before["dataset"] == "travel")
    assert np.allclose(before.loc[own, "predicted"], after.loc[own, "predicted"])
    assert not np.isclose(before.loc[~own, "predicted"], after.loc[~own, "predicted"]).any()
    assert np.allclose(after.loc[own, "observed"] - before.loc[own, "observed"], 50)
    changed = table.copy()
    changed.loc[changed["level"] == "all", ["over_real", "over_zero_shot"]] += 50
    after = held_out(changed)
    own = (before["left_out"] == "level") & (before["level"] == "all")
    assert np.allclose(before.loc[own, "predicted"], after.loc[own, "predicted"])


def test_errors_summarise_held_out_predictions() -> None:
    tables = [errors(held_out(synthetic_map(seed, numbers=(1, 16)))) for seed in (8, 9)]
    for table in tables:
        names = [ALL_CONFIGURATIONS, *CONFIGURATIONS]
        assert list(table["left_out"]) == 2 * len(names) * ["dataset"] + 2 * len(names) * ["level"]
        assert list(table["configuration"]) == 4 * names
        assert table["absolute_error"].max() < 2
        of_class_vectors = table[table["configuration"] == "class-vectors"]
        assert of_class_vectors["least_rank_correlation"].min() > 0.5
        assert (of_class_vectors["absolute_error"] < of_class_vectors["constant_error"]).all()
    assert np.mean([table["coverage"] for table in tables]) >= 93


def predictions(**values: list[float]) -> pd.DataFrame:
    """Held-out predictions of two configurations, `low` and `high`, with these values."""
    configurations = [name for name in ("low", "high") for _ in range(3)]
    table = pd.DataFrame({"configuration": configurations, "images_per_class": 4, "covered": True, "constant": 0.0})
    return table.assign(left_out="dataset", target="over_real", **values)


def test_rank_correlations_do_not_reward_differences_between_configurations() -> None:
    table = errors(predictions(observed=[1, 2, 3, 11, 12, 13], predicted=[3, 2, 1, 12, 11, 13])).set_index(
        "configuration"
    )
    assert table["rank_correlation"].to_dict() == pytest.approx({ALL_CONFIGURATIONS: -0.25, "low": -1, "high": 0.5})
    assert table["least_rank_correlation"].to_dict() == pytest.approx({ALL_CONFIGURATIONS: -1, "low": -1, "high": 0.5})


def test_coverage_and_constant_errors_are_those_of_each_configuration() -> None:
    given = predictions(observed=[1, 2, 3, 4, 5, 6], predicted=[1, 2, 3, 4, 5, 6])
    given["covered"] = [True, False, False, True, True, True]
    table = errors(given).set_index("configuration")
    assert table["coverage"].to_dict() == pytest.approx({ALL_CONFIGURATIONS: 400 / 6, "low": 100 / 3, "high": 100})
    assert table["constant_error"].to_dict() == pytest.approx({ALL_CONFIGURATIONS: 3.5, "low": 2, "high": 5})
    assert (table["absolute_error"] == 0).all()


def test_a_constant_prediction_is_the_mean_gain_of_the_other_datasets() -> None:
    table = synthetic_map(7, numbers=(4,))
    predicted = held_out(table)
    own = predicted[(predicted["left_out"] == "dataset") & (predicted["dataset"] == "travel")]
    own = own[(own["configuration"] == "prompts") & (own["target"] == "over_real")]
    others = table[(table["dataset"] != "travel") & (table["configuration"] == "prompts")]
    assert own["constant"].to_numpy() == pytest.approx(others["over_real"].mean())
