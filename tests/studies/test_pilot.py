"""Pilots: extrapolation by hand, verdicts, and studies that are not pilots."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.datasets.dataset import Dataset, DatasetSettings
from syncclip.recipe.recipe import Recipe
from syncclip.recipe.study import Configuration
from syncclip.studies import outputs, pilot
from syncclip.studies.analysis import Evidence
from syncclip.studies.pilot import extrapolate, no_extrapolation, read_pilot, verdict
from syncclip.studies.run import Study
from syncclip.studies.statistics.bootstrap import Interval
from syncclip.studies.statistics.metrics import Outcomes
from tests.worlds.rewritten import rewrite_json, rewrite_table
from tests.worlds.study import study_recipe


@pytest.fixture
def copy(suite_study: Study, tmp_path: Path) -> Path:
    """A copy of the files of a study of one dataset with 1, 2 and 4 images per class, as if on validation images."""
    for file in (Path(suite_study.url) / "second").iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    set_split(tmp_path, "val")
    return tmp_path


def set_split(folder: Path, split: str) -> None:
    rewrite_json(folder / outputs.STATE, outputs.read_json(str(folder / outputs.STATE)) | {"split": split})


def resamples(gain: float, spread: float = 0.0) -> np.ndarray:
    return gain + spread * np.linspace(-1, 1, 201)[None]


def test_the_remaining_gain_halves_when_one_plus_n_doubles() -> None:
    # 3 points with 1 image are half of the gain; with 3 images, a quarter remains.
    more = extrapolate([1], np.array([3.0]), resamples(3.0), 3)
    assert more.estimate == pytest.approx(1.5)
    slow, fast = (3 * (1 - 4**-c) / (1 - 2**-c) - 3 for c in (0.5, 2))
    assert (more.low, more.high) == pytest.approx((fast, slow)), "the interval contains both exponents"


def test_all_numbers_of_images_contribute_to_the_extrapolation() -> None:
    exact = np.array([4.0, 6.4])  # 8 points eventually
    assert extrapolate([1, 4], exact, exact[:, None], 16).estimate == pytest.approx(8 / 5 - 8 / 17)


def test_the_estimate_continues_the_last_increment() -> None:
    # With c = 1, half of the gain is reached with 1 image, 3/4 with 3 images and 7/8 with 7 images.
    gains = np.array([8.0, 10.0])
    more = extrapolate([1, 3], gains, gains[:, None], 7)
    assert more.estimate == pytest.approx((7 / 8 - 3 / 4) / (3 / 4 - 1 / 2) * 2)
    slow, fast = ((4**-c - 8**-c) / (2**-c - 4**-c) * 2 for c in (0.5, 2))
    assert more.low <= fast < slow <= more.high, "the interval contains both exponents"


def test_a_flat_curve_does_not_show_that_more_images_help() -> None:
    gains = np.array([8.0, 8.0])
    more = extrapolate([1, 4], gains, gains[:, None] + np.linspace(-0.5, 0.5, 201), 16)
    assert more.estimate == 0 and more.low <= 0
    assert verdict(more, 2) == "undecided"


def test_the_interval_contains_the_variation_of_the_increment() -> None:
    gains, noise = np.array([8.0, 9.0]), np.stack([np.zeros(201), np.linspace(-4, 4, 201)])
    assert extrapolate([1, 4], gains, gains[:, None] + noise, 16).low < -1


def test_a_single_number_of_images_never_shows_that_more_images_help() -> None:
    assert verdict(Interval(2.0, 1.5, 4.0), 2) == "more images help"
    assert verdict(Interval(2.0, 1.5, 4.0), 1) == "undecided"
    assert verdict(Interval(0.3, -0.5, 0.9), 1) == "more images do not help"
    assert verdict(None, 2) == "undecided"


def test_the_baseline_is_the_same_method_or_else_the_first_one_on_real_images() -> None:
    configurations = [
        Configuration(method="zeroshot"),
        Configuration(method="ivlp", data="real"),
        Configuration(method="tip", data="real"),
        *(Configuration(method=method, data="synthetic") for method in ("tip", "probe", "syncclip")),
    ]
    outcomes = Outcomes(*(np.zeros((1, 2), bool),) * 2, np.zeros((1, 2)), np.array([0, 1]), 1)
    evidence = Evidence(configurations, {(each.name, None, None): (outcomes,) for each in configurations})
    names = [pilot.real_only_baseline(evidence, each) for each in configurations[3:]]
    assert [each and each.name for each in names] == ["tip-real", "ivlp-real", "ivlp-real"]
    assert pilot.real_only_baseline(Evidence(configurations, {}), configurations[3]) is None


@pytest.mark.parametrize(
    ("method", "data", "reason"),
    [
        ("syncclip", "both", None),
        ("ivlp", "both", None),
        ("tip", "both", "no configuration with data: real for the method and shots of tip-both"),
        ("ivlp", "synthetic", "ivlp-synthetic is trained on synthetic images only"),
    ],
)
def test_only_the_gain_over_the_own_counterpart_is_extrapolated(method: str, data: str, reason: str | None) -> None:
    reference = Configuration.model_validate({"method": method, "data": data})
    others = [Configuration(method="zeroshot"), Configuration(method="ivlp", data="real")]
    one = Outcomes(*(np.zeros((1, 2), bool),) * 2, np.zeros((1, 2)), np.array([0, 1]), 1)
    evidence = Evidence([*others, reference], {(each.name, None, None): (one,) for each in others})
    given = no_extrapolation(evidence, reference)
    assert given is None if reason is None else reason in (given or "")


def test_a_pilot_without_counterpart_has_no_extrapolation(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pilot, "origin", lambda *_: None)
    measured = read_pilot(str(copy))
    assert (measured.additional, measured.verdict) == (None, "undecided") and measured.reason is not None


def test_the_interval_contains_the_measured_interval() -> None:
    more = extrapolate([1], np.array([3.0]), resamples(3.0, spread=4.0), 3)
    assert more.low < 0 < 3.5 < more.high


def test_a_loss_becomes_larger_with_more_images() -> None:
    assert extrapolate([4], np.array([-3.0]), resamples(-3.0, 1.0), 16).high < 0


@pytest.mark.parametrize(
    ("estimate", "low", "high", "expected"),
    [
        (2.0, 0.5, 4.0, "more images help"),
        (2.0, -0.5, 4.0, "undecided"),
        (0.8, 0.1, 1.5, "undecided"),
        (0.3, -0.5, 0.9, "more images do not help"),
        (-4.0, -8.0, -1.0, "more images do not help"),
    ],
)
def test_verdicts(estimate: float, low: float, high: float, expected: str) -> None:
    assert verdict(Interval(estimate, low, high), 2) == expected


def test_a_pilot_is_measured_on_the_reference_configuration(copy: Path) -> None:
    path = copy / outputs.PREDICTIONS
    table = storage.read_parquet(storage.read_bytes(str(path))).to_pandas()
    generator = np.random.default_rng(1)
    share = np.where(table["configuration"] == "syncclip-both", 0.7, 0.4)
    table["all_classes"] = generator.random(len(table)) < share
    rewrite_table(path, table)
    measured = read_pilot(str(copy))
    runs = table.groupby(["configuration", table["images_per_class"].fillna(0), "seed", "novel"])["all_classes"].mean()
    base, novel = runs.xs(False, level="novel"), runs.xs(True, level="novel")
    hm = (200 * base * novel / (base + novel)).groupby(level=[0, 1]).mean()
    assert measured.measured.estimate == pytest.approx(hm["syncclip-both", 4] - hm["ivlp-real", 0])
    assert measured.measured.low < measured.measured.estimate < measured.measured.high
    assert (measured.configuration, measured.real_only) == ("syncclip-both", "ivlp-real")
    assert (measured.seeds, measured.images_per_class, measured.limit) == (2, 4, 16)
    assert measured.additional is not None
    assert measured.additional.low < measured.additional.estimate < measured.additional.high
    assert measured.verdict == verdict(measured.additional, 3)
    assert (measured.measured_at, measured.reason) == ((1, 2, 4), None)


def test_a_folder_without_a_study_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no study found"):
        read_pilot(str(tmp_path))


def test_an_unfinished_study_is_an_error(copy: Path) -> None:
    state = outputs.read_json(str(copy / outputs.STATE))
    state["cells"][0]["status"] = "waiting"
    rewrite_json(copy / outputs.STATE, state)
    with pytest.raises(UserError, match=r"1 of \d+ training runs are not finished"):
        read_pilot(str(copy))


def test_a_study_on_test_images_is_an_error(copy: Path) -> None:
    set_split(copy, "test")
    command = r"`syncclip study RECIPE 'study.images_per_class=\[1,4\]' evaluation.split=val --out runs/pilot`"
    with pytest.raises(UserError, match=f"evaluated on the test split.* with {command}"):
        read_pilot(str(copy))


def test_test_images_are_accepted_if_the_dataset_has_no_validation_split(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_pilot(str(copy)).split == "val"
    set_split(copy, "test")
    load = pilot.load_dataset

    def without_validation(settings: DatasetSettings) -> Dataset:
        dataset = load(settings)
        return replace(dataset, splits={name: dataset.split(name) for name in ("train", "test")})

    monkeypatch.setattr(pilot, "load_dataset", without_validation)
    assert read_pilot(str(copy)).split == "test"


def test_a_study_with_more_images_is_not_a_pilot(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pilot, "MOST_IMAGES", 2)
    with pytest.raises(UserError, match="up to 4 images per class, but a pilot has at most 2"):
        read_pilot(str(copy))


def test_a_pilot_must_have_the_classes_and_the_clip_model_of_the_recipe(copy: Path, suite_world: Path) -> None:
    own = Recipe.load(str(copy / outputs.RECIPE), own=False)
    assert read_pilot(str(copy), own).seeds == 2
    with pytest.raises(UserError, match="classes differ from those of dataset 'icons/travel'"):
        read_pilot(str(copy), own.with_values({"dataset.name": "icons/travel"}))
    with pytest.raises(UserError, match="the pilot uses the CLIP model .*, not 'icons'"):
        read_pilot(str(copy), study_recipe(suite_world, "backbone.name=icons"))
