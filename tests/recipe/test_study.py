"""Section `study` of a recipe."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from syncclip.recipe.study import Configuration, StudySettings

IVLP = Configuration(method="ivlp", data="real")


def test_a_configuration_is_named_after_method_and_data() -> None:
    assert Configuration(method="syncclip", data="both").name == "syncclip-both"
    assert Configuration(method="zeroshot").name == "zeroshot"
    assert Configuration(method="package.module:Mine", data="real").name == "Mine-real"


def test_configurations_with_synthetic_images_depend_on_their_number() -> None:
    synthetic = [configuration.name for configuration in StudySettings().configurations if configuration.synthetic]
    assert synthetic == ["ivlp-synthetic", "ivlp-both", "syncclip-both"]


def test_each_test_domain_adds_a_configuration_to_the_results() -> None:
    configuration = Configuration(method="syncclip", test_domains=["both"])
    settings = StudySettings(configurations=[IVLP, configuration])
    assert [each.name for each in settings.evaluated] == ["ivlp-real", "syncclip-both", "syncclip-both@both"]
    assert settings.evaluated[-1] == Configuration(method="syncclip", name="syncclip-both@both")
    assert "test_domains" not in IVLP.model_dump()


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (
            {
                "configurations": [
                    {"method": "syncclip", "test_domains": ["both"]},
                    {"method": "ivlp", "name": "syncclip-both@both"},
                ]
            },
            "two configurations are named 'syncclip-both@both'",
        ),
        ({"configurations": [IVLP, IVLP]}, "two configurations are named 'ivlp-real'"),
        ({"configurations": [{"method": "ivlp", "name": "a/b"}]}, "is not a valid folder name"),
        ({"images_per_class": [4, 1, 4]}, "contains duplicates"),
        ({"seeds": [4, 1, 4]}, "contains duplicates"),
        ({"compare": [["ivlp-both", "ivlp-reel"]]}, "no configuration is named 'ivlp-reel'; did you mean 'ivlp-real'"),
        ({"compare": [["ivlp-both", "ivlp-both"]]}, "'ivlp-both' is compared with itself"),
        ({"compare": [["ivlp-both"]]}, "compare"),
    ],
)
def test_invalid_values_are_errors(values: dict[str, Any], error: str) -> None:
    with pytest.raises(ValidationError, match=error):
        StudySettings(**values)


def test_comparisons_are_serialised_only_if_there_are_any() -> None:
    pairs = [["ivlp-both", "ivlp-real"]]
    assert StudySettings(compare=pairs).model_dump(mode="json")["compare"] == pairs
    assert "compare" not in StudySettings().model_dump(mode="json")


def test_the_default_reference_is_the_last_configuration() -> None:
    study = StudySettings(reference="missing", configurations=[Configuration(method="zeroshot"), IVLP])
    assert study.reference_configuration.name == "ivlp-real"
