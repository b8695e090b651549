from __future__ import annotations

from PIL import Image

from syncclip.synthesis.filters import BlankSettings
from syncclip.synthesis.filters.blank import Blank
from tests.synthesis.filters.conftest import batch, noise


def test_blank_rejects_images_of_one_colour() -> None:
    empty = Image.new("L", (32, 32))
    images = [
        Image.new("RGB", (32, 32), "black"),
        Image.new("RGB", (32, 32), (200, 30, 90)),
        noise(0),
        Image.merge("RGB", [empty, noise(0).getchannel(0), empty]),
    ]
    assert Blank(BlankSettings()).score(batch(images)).keep == [False, False, True, True]
