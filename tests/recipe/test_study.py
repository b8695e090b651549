"""The study's section of a recipe."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from syncclip.recipe.study import Configuration, StudySettings


def test_an_configuration_is_named_after_method_and_data() -> None:
    assert Configuration(method="syncclip", data="both").name == "syncclip-both"
    assert Configuration(method="zeroshot").name == "zeroshot"
    assert Configuration(method="package.module:Mine", data="real").name == "Mine-real"


def test_only_configurations_that_learn_from_synthetic_images_have_amounts() -> None:
    configurations = StudySettings().configurations
    assert [configuration.name for configuration in configurations if configuration.synthetic] == [
        "ivlp-synthetic",
        "ivlp-both",
        "syncclip-both",
    ]


def test_configurations_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="two configurations are named 'ivlp-real'"):
        StudySettings(
            configurations=[Configuration(method="ivlp", data="real"), Configuration(method="ivlp", data="real")]
        )


def test_a_name_that_is_no_folder_name_is_refused() -> None:
    with pytest.raises(ValidationError, match="is not a folder name"):
        Configuration(method="ivlp", name="a/b")


@pytest.mark.parametrize("key", ["images_per_class", "seeds"])
def test_values_given_twice_are_refused(key: str) -> None:
    with pytest.raises(ValidationError, match="contains duplicates"):
        StudySettings(**{key: [4, 1, 4]})


def test_the_focus_falls_back_to_the_last_configuration() -> None:
    assert (
        StudySettings(
            reference="nothing", configurations=[Configuration(method="zeroshot"), Configuration(method="ivlp")]
        ).reference_configuration.method
        == "ivlp"
    )
