from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from syncclip.core.settings import UserError
from syncclip.synthesis.filters import Filter, FrozenClip
from syncclip.synthesis.filters.duplicates import (
    ClipDuplicate,
    ClipDuplicateSettings,
    Duplicate,
    DuplicateSettings,
    difference_hash,
)
from syncclip.synthesis.plan import draft
from syncclip.synthesis.settings import SynthesisSettings
from tests.synthesis.filters.conftest import batch, noise


def near(image: Image.Image) -> Image.Image:
    """Hardly to be told from it."""
    return ImageEnhance.Brightness(image).enhance(0.98)


@pytest.fixture(params=["hash", "clip"])
def duplicate(request: pytest.FixtureRequest, clip: FrozenClip) -> Filter:
    found: Filter = (
        Duplicate(DuplicateSettings())
        if request.param == "hash"
        else ClipDuplicate(ClipDuplicateSettings(similarity=0.998), clip)
    )
    found.begin()
    return found


def test_the_second_of_two_near_duplicates_is_rejected(duplicate: Filter) -> None:
    assert duplicate.score(batch([noise(0), noise(1), near(noise(0))])).keep == [True, True, False]


def test_what_was_accepted_in_an_earlier_batch_counts_and_what_was_not_does_not(duplicate: Filter) -> None:
    first = batch([noise(0), noise(1)], indices=[0, 1])
    duplicate.score(first)
    duplicate.accept(first.at([0]))
    assert duplicate.score(batch([near(noise(0)), near(noise(1))], indices=[2, 3])).keep == [False, True]


def test_other_classes_may_look_alike(duplicate: Filter) -> None:
    assert duplicate.score(batch([noise(0), near(noise(0))], [0, 1])).keep == [True, True]


def test_another_attempt_at_the_same_image_is_no_duplicate_of_it(duplicate: Filter) -> None:
    duplicate.accept(batch([noise(0)], indices=[7]))
    assert duplicate.score(batch([near(noise(0))], indices=[7])).keep == [True]
    duplicate.accept(batch([noise(2)], indices=[7]))  # a better attempt takes its place
    assert duplicate.score(batch([near(noise(0)), near(noise(2))], indices=[8, 9])).keep == [True, False]


def test_each_shard_begins_with_nothing(duplicate: Filter) -> None:
    duplicate.accept(batch([noise(0)]))
    duplicate.begin()
    assert duplicate.score(batch([near(noise(0))], indices=[5])).keep == [True]


def test_the_hash_says_where_it_gets_darker_to_the_right() -> None:
    fading = Image.linear_gradient("L").rotate(90)  # black on the right, or on the left
    falls, rises = difference_hash(fading), difference_hash(fading.rotate(180))
    assert sorted({int(falls.sum()), int(rises.sum())}) == [-64, 64]


@pytest.mark.parametrize(("bits", "kept"), [(3, True), (4, False)])
def test_so_many_bits_of_the_hash_may_differ(bits: int, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, other = Image.new("L", (1, 1)), Image.new("L", (2, 1))
    hashes = {1: np.ones(64), 2: np.where(np.arange(64) < 4, -1, 1)}
    monkeypatch.setattr("syncclip.synthesis.filters.duplicates.difference_hash", lambda image: hashes[image.width])
    assert Duplicate(DuplicateSettings(bits=bits)).score(batch([plain, other])).keep == [True, kept]


@pytest.mark.parametrize("name", ["duplicate", "clip_duplicate"])
def test_shards_without_two_images_of_a_class_are_errors(name: str) -> None:
    classes = [f"class {label}" for label in range(88)]

    def planned(**settings: object) -> int:
        asked = SynthesisSettings.model_validate({"filters": [{"name": name}], **settings})
        return draft(asked, dataset="many", classnames=classes, template="a {}").shard_size

    with pytest.raises(UserError, match=rf"filter '{name}' compares .* set synthesis.shard_size, .* to 704 for eight"):
        planned(images_per_class=16)
    assert planned(images_per_class=1) == 88
    assert planned(images_per_class=16, shard_size=176) == 176
