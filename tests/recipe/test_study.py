"""The study's section of a recipe."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from syncclip.recipe.study import Arm, StudySettings


def test_an_arm_is_named_after_method_and_data() -> None:
    assert Arm(method="syncclip", data="both").name == "syncclip-both"
    assert Arm(method="zeroshot").name == "zeroshot"
    assert Arm(method="package.module:Mine", data="real").name == "Mine-real"


def test_only_arms_that_learn_from_synthetic_images_have_amounts() -> None:
    arms = StudySettings().arms
    assert [arm.name for arm in arms if arm.synthetic] == ["ivlp-synthetic", "ivlp-both", "syncclip-both"]


def test_arms_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="two arms are called 'ivlp-real'"):
        StudySettings(arms=[Arm(method="ivlp", data="real"), Arm(method="ivlp", data="real")])


def test_a_name_that_is_no_folder_name_is_refused() -> None:
    with pytest.raises(ValidationError, match="becomes a folder's name"):
        Arm(method="ivlp", name="a/b")


@pytest.mark.parametrize("key", ["images_per_class", "seeds"])
def test_values_given_twice_are_refused(key: str) -> None:
    with pytest.raises(ValidationError, match="holds a value twice"):
        StudySettings(**{key: [4, 1, 4]})


def test_the_focus_falls_back_to_the_last_arm() -> None:
    assert StudySettings(focus="nothing", arms=[Arm(method="zeroshot"), Arm(method="ivlp")]).focus_arm.method == "ivlp"
