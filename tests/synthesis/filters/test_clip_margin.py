from __future__ import annotations

import pytest

from syncclip.synthesis.filters import ClipMargin, ClipMarginSettings, FrozenClip
from tests.synthesis.filters.conftest import batch, noise


def test_a_image_that_is_nearer_to_another_class_is_rejected(clip: FrozenClip) -> None:
    image = noise(3)
    cosines = (clip.features([image]) @ clip.classes.T)[0].tolist()
    first, second = sorted(cosines, reverse=True)[:2]
    expected = [one - (second if one == first else first) for one in cosines]
    verdict = ClipMargin(ClipMarginSettings(), clip).score(batch([image] * 5, range(5)))
    assert verdict.scores == pytest.approx(expected, abs=1e-6)
    assert verdict.keep == [one == first for one in cosines]


def test_a_small_lead_can_be_too_small(clip: FrozenClip) -> None:
    image = noise(3)
    cosines = (clip.features([image]) @ clip.classes.T)[0]
    best, lead = int(cosines.argmax()), float(cosines.sort().values[-2:].diff())
    for minimum, kept in ((lead - 1e-4, True), (lead + 1e-4, False)):
        assert ClipMargin(ClipMarginSettings(minimum=minimum), clip).score(batch([image], [best])).keep == [kept]
