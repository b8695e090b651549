from __future__ import annotations

import pytest
from PIL import Image

from syncclip.synthesis.filters import BlankSettings
from syncclip.synthesis.filters.blank import Blank
from tests.synthesis.filters.conftest import batch, noise


@pytest.mark.parametrize(
    ("image", "kept"),
    [
        (Image.new("RGB", (32, 32), "black"), False),
        (Image.new("RGB", (32, 32), (200, 30, 90)), False),
        (noise(0), True),
        (Image.merge("RGB", [Image.new("L", (32, 32)), noise(0).getchannel(0), Image.new("L", (32, 32))]), True),
    ],
)
def test_blank_rejects_constant_images_of_any_colour(image: Image.Image, kept: bool) -> None:
    assert Blank(BlankSettings()).score(batch([image])).keep == [kept]
