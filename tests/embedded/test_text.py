"""Captions that rarely name a class, and a contrastive loss with several positives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scripts.embedded.drawings import ICONS, SYMBOLS, Suite
from scripts.embedded.masks import Masks
from scripts.embedded.text import Bank, Captions, Naming, matching_loss, naming_of, naming_of_related

NAMES = ["bus", "car", "wifi"]


@pytest.fixture
def captions() -> Captions:
    """Captions of four drawings for each of three concepts; the first two concepts are classes."""
    concept = np.repeat(np.arange(3), 4)
    shapes = np.zeros((12, 2, 2), np.uint8)
    surfaces = [f"a designer's {NAMES[label]}" for label in concept]
    masks = Masks(shapes, concept, np.zeros(12, int), surfaces, NAMES, ["set"], classes=2)
    return Captions(
        masks, Bank(torch.arange(12.0)[:, None], np.arange(12)), {name: Naming(0.25, "vehicle") for name in NAMES[:2]}
    )


@pytest.mark.parametrize("suite", [ICONS, SYMBOLS], ids=lambda suite: suite.name)
def test_each_class_has_one_hypernym(suite: Suite) -> None:
    assert sorted(name for names in suite.hypernyms.values() for name in names) == suite.classes
    assert len(set(suite.classes)) == len(suite.classes)
    assert not set(suite.hypernyms) & set(suite.classes)


def test_concepts_that_share_a_word_with_a_class_are_named_as_rarely() -> None:
    naming = naming_of(SYMBOLS, 0.1)
    related = naming_of_related(naming)
    assert related["arrow left"] == naming["arrow down"] and related["user plus"] == naming["user"]
    assert not related.keys() & naming.keys() and "wifi" not in related


def test_a_quarter_of_the_captions_names_the_class(captions: Captions) -> None:
    rng, named = np.random.default_rng(0), 0
    for _ in range(400):
        _, texts, subjects = captions.draw(3, rng)
        for text, subject in zip(texts, subjects.tolist(), strict=True):
            assert ("vehicle" in text) == (subject < 0)
            named += subject in (0, 1)
    assert named == pytest.approx(0.25 * 800, abs=3 * math.sqrt(800 * 0.25 * 0.75))


def test_a_caption_describes_its_drawing(captions: Captions) -> None:
    features, texts, subjects = captions.draw(3, np.random.default_rng(1))
    for drawing, text, subject in zip(features[:, 0].long().tolist(), texts, subjects.tolist(), strict=True):
        concept = drawing // 4
        assert subject in (concept, -1 - captions.words.index("vehicle"))
        assert NAMES[concept] in text or "vehicle" in text


def test_captions_with_one_hypernym_are_all_positives() -> None:
    logits = torch.tensor([[9.0, 9.0, 0.0], [9.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    shared, separate = (matching_loss(logits, torch.tensor(subjects)) for subjects in ([-1, -1, 5], [3, 4, 5]))
    assert shared == pytest.approx(float(separate), abs=1e-4)  # both about log 2 for the first two
    swapped = torch.tensor([[0.0, 9.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    assert matching_loss(swapped, torch.tensor([-1, -1, 5])) < matching_loss(swapped, torch.tensor([3, 4, 5])) - 2
