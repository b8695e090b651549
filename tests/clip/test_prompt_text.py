"""Class names and articles in prompts."""

from __future__ import annotations

import pytest

from syncclip.clip.prompt_text import fill, filled, with_article


@pytest.mark.parametrize(
    ("classname", "expected"),
    [
        ("dog", "a dog"),
        ("airplane", "an airplane"),
        ("hot_air balloon", "a hot_air balloon"),
        ("umbrella", "an umbrella"),
        ("unicorn", "a unicorn"),
        ("uninhabited island", "an uninhabited island"),
        ("USB stick", "a USB stick"),
        ("UMBRELLA", "an UMBRELLA"),
        ("hourglass", "an hourglass"),
        ("house", "a house"),
        ("European robin", "a European robin"),
        ("one-way street", "a one-way street"),
        ("F-16A/B", "an F-16A/B"),
        ("BMW 3 Series", "a BMW 3 Series"),
        ("SUV", "an SUV"),
        ("A380", "an A380"),
        ("747-400", "a 747-400"),
        ("8-ball", "an 8-ball"),
        ("11th hour", "an 11th hour"),
        ("118 bus", "a 118 bus"),
        ("X-ray", "an X-ray"),
    ],
)
def test_the_article_follows_the_pronunciation(classname: str, expected: str) -> None:
    assert with_article(classname) == expected


def test_templates_take_the_name_or_the_name_with_its_article() -> None:
    assert fill("a photo of a {}.", ["owl", "cat"]) == ["a photo of a owl.", "a photo of a cat."]
    assert fill("a photo of {a}.", ["owl", "cat"]) == ["a photo of an owl.", "a photo of a cat."]
    assert filled("a sentence", "owl") == "a sentence"
