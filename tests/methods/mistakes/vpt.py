"""Mistakes in VPT."""

from __future__ import annotations

import pytest

from syncclip.methods import frozen
from syncclip.methods.base import Method
from syncclip.methods.frozen import FrozenTexts
from syncclip.methods.vpt import Vpt
from tests.methods import parity, vision_methods


def shallow(patch: pytest.MonkeyPatch) -> None:
    """Deeper blocks get no prompts of their own."""
    patch.setattr(Vpt, "image_features", lambda s, images, *_: s.clip.encode_images(images, [s.vision_prompts[0]]))


def order_of_blocks(patch: pytest.MonkeyPatch) -> None:
    """The first block gets the last block's prompt."""
    patch.setattr(Vpt, "image_features", lambda s, x, *_: s.clip.encode_images(x, list(s.vision_prompts)[::-1]))


def names_as_they_are(patch: pytest.MonkeyPatch) -> None:
    """Underscores stay in the class names."""
    patch.setattr(frozen, "readable_name", lambda name: name)


def sentence_without_full_stop(patch: pytest.MonkeyPatch) -> None:
    right = FrozenTexts._encode
    patch.setattr(FrozenTexts, "_encode", lambda s, template: right(s, template.rstrip(".")))


def missing_normalisation(patch: pytest.MonkeyPatch) -> None:
    """Image features enter the scores at their own length."""
    patch.setattr(Method, "scores", lambda s, images, text: s.clip.logit_scale * images @ text.T)


def check(_: pytest.MonkeyPatch) -> None:
    vision_methods.check(parity.load("vpt"))
