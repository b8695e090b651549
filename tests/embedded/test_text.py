"""What the text tower learns from: captions that seldom name a class, and a loss in which several may be right."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scripts.embedded.drawings import CONCEPTS
from scripts.embedded.masks import Masks
from scripts.embedded.text import HYPERNYMS, Bank, Captions, matching_loss

NAMES = ["bus", "car", "wifi"]


@pytest.fixture
def captions() -> Captions:
    """Four drawings of each of three concepts, of which the first two are classes."""
    concept = np.repeat(np.arange(3), 4)
    shapes = np.zeros((12, 2, 2), np.uint8)
    surfaces = [f"a designer's {NAMES[one]}" for one in concept]
    masks = Masks(shapes, concept, np.zeros(12, int), surfaces, NAMES, ["set"], classes=2)
    return Captions(masks, Bank(torch.arange(12.0)[:, None], np.arange(12)), named=0.25)


def test_every_class_has_one_hypernym_and_is_in_one_dataset() -> None:
    classes = sorted(CONCEPTS["classes"])
    assert sorted(HYPERNYMS) == classes
    assert sorted(name for names in CONCEPTS["datasets"].values() for name in names) == classes


def test_a_class_is_named_in_so_many_of_its_captions(captions: Captions) -> None:
    rng, named = np.random.default_rng(0), 0
    for _ in range(400):
        _, texts, subjects = captions.draw(3, rng)
        for text, subject in zip(texts, subjects.tolist(), strict=True):
            assert ("vehicle" in text) == (subject < 0)
            named += subject in (0, 1)
    assert named == pytest.approx(0.25 * 800, abs=3 * math.sqrt(800 * 0.25 * 0.75))


def test_a_caption_is_about_the_drawing_beside_it(captions: Captions) -> None:
    features, texts, subjects = captions.draw(3, np.random.default_rng(1))
    for place, text, subject in zip(features[:, 0].long().tolist(), texts, subjects.tolist(), strict=True):
        concept = place // 4
        assert subject in (concept, -1 - captions.words.index("vehicle"))
        assert NAMES[concept] in text or HYPERNYMS[NAMES[concept]] in text


def test_images_of_one_hypernym_share_their_captions() -> None:
    logits = torch.tensor([[9.0, 9.0, 0.0], [9.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    shared, apart = (matching_loss(logits, torch.tensor(subjects)) for subjects in ([-1, -1, 5], [3, 4, 5]))
    # Both are nearly log 2 for the first two, but apart one of two equal captions is wrong, too.
    assert shared == pytest.approx(float(apart), abs=1e-4)
    swapped = torch.tensor([[0.0, 9.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    assert matching_loss(swapped, torch.tensor([-1, -1, 5])) < matching_loss(swapped, torch.tensor([3, 4, 5])) - 2
