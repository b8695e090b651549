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
    """A near-duplicate."""
    return ImageEnhance.Brightness(image).enhance(0.98)


@pytest.fixture(params=["hash", "clip"])
def duplicate(request: pytest.FixtureRequest, clip: FrozenClip) -> Filter:
    if request.param == "hash":
        return Duplicate(DuplicateSettings())
    return ClipDuplicate(ClipDuplicateSettings(similarity=0.998), clip)


def test_near_duplicates_within_a_class_are_rejected(duplicate: Filter) -> None:
    assert duplicate.score(batch([noise(0), noise(1), near(noise(0))])).keep == [True, True, False]
    assert duplicate.score(batch([noise(0), near(noise(0))], [0, 1])).keep == [True, True]


def test_only_accepted_images_of_earlier_batches_count(duplicate: Filter) -> None:
    first = batch([noise(0), noise(1)], indices=[0, 1])
    duplicate.score(first)
    duplicate.accept(first.at([0]))
    second = batch([near(noise(0)), near(noise(1))], indices=[2, 3])
    assert duplicate.score(second).keep == [False, True]
    duplicate.begin()
    assert duplicate.score(second).keep == [True, True]


def test_attempts_at_the_same_image_are_no_duplicates(duplicate: Filter) -> None:
    duplicate.accept(batch([noise(0)], indices=[7]))
    assert duplicate.score(batch([near(noise(0))], indices=[7])).keep == [True]
    duplicate.accept(batch([noise(2)], indices=[7]))  # replaces the earlier attempt
    assert duplicate.score(batch([near(noise(0)), near(noise(2))], indices=[8, 9])).keep == [True, False]


def test_the_hash_compares_neighbouring_cells() -> None:
    gradient = Image.linear_gradient("L").rotate(90)
    hashes = difference_hash(gradient), difference_hash(gradient.rotate(180))
    assert sorted(int(bits.sum()) for bits in hashes) == [-64, 64]


@pytest.mark.parametrize(("bits", "kept"), [(3, True), (4, False)])
def test_near_duplicates_differ_in_at_most_some_bits(bits: int, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {1: np.ones(64), 2: np.where(np.arange(64) < 4, -1, 1)}
    monkeypatch.setattr("syncclip.synthesis.filters.duplicates.difference_hash", lambda image: hashes[image.width])
    images = [Image.new("L", (width, 1)) for width in hashes]
    assert Duplicate(DuplicateSettings(bits=bits)).score(batch(images)).keep == [True, kept]


@pytest.mark.parametrize("name", ["duplicate", "clip_duplicate"])
def test_shards_with_one_image_per_class_are_errors(name: str) -> None:
    classes = [f"class {label}" for label in range(88)]

    def shard_size(**settings: object) -> int:
        synthesis = SynthesisSettings.model_validate({"filters": [{"name": name}], **settings})
        return draft(synthesis, dataset="many", classnames=classes, template="a {}").shard_size

    with pytest.raises(UserError, match=rf"filter '{name}' compares .* to 704"):
        shard_size(images_per_class=16)
    assert shard_size(images_per_class=1) == 88
    assert shard_size(images_per_class=16, shard_size=176) == 176
