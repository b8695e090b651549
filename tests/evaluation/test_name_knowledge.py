"""Name knowledge against values by hand and a loop over images."""

from __future__ import annotations

import numpy as np
import pytest

from syncclip.evaluation.name_knowledge import name_knowledge


def at(*degrees: float) -> np.ndarray:
    """Return unit vectors in the plane at these angles."""
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)


def test_name_knowledge_by_hand() -> None:
    # Class 0 lies around 0 degrees, class 1 around 90; the text of class 1 points to 30 degrees.
    knowledge = name_knowledge(at(0, 10, 20, 80, 90, 100), [0, 0, 0, 1, 1, 1], at(0, 30))
    assert knowledge.zero_shot == pytest.approx(100 * 5 / 6), "the image at 20 degrees is nearer to 30 than to 0"
    assert knowledge.class_means == 100
    assert knowledge.ratio == pytest.approx(5 / 6)
    assert knowledge.images == 6
    assert [(pair.labels, pair.count, pair.share) for pair in knowledge.confused] == [((0, 1), 1, 100 / 6)]


def test_the_mean_of_an_image_s_class_excludes_the_image() -> None:
    # With the image at 80 degrees included, the mean of class 0 would lie at 40 degrees, nearer to 80 than 140 is.
    features, labels = at(0, 80, 140, 145), [0, 0, 1, 1]
    knowledge = name_knowledge(features, labels, at(40, 140))
    assert knowledge.class_means == pytest.approx(75), "the image at 80 degrees is 62.5 from class 1 and 80 from 0"


def test_leave_one_out_equals_a_loop_over_images_of_any_length() -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 5, 60)
    features = generator.normal(size=(60, 8)) + 2 * np.eye(5, 8)[labels]
    texts = np.eye(5, 8) + generator.normal(scale=0.5, size=(5, 8))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    right = 0
    for row in range(60):
        means = [unit[(labels == label) & (np.arange(60) != row)].mean(axis=0) for label in range(5)]
        right += int(np.argmax([unit[row] @ mean / np.linalg.norm(mean) for mean in means]) == labels[row])
    knowledge = name_knowledge(features, labels, texts)
    assert knowledge.class_means == pytest.approx(100 * right / 60)
    scaled = name_knowledge(features * generator.uniform(0.1, 9, (60, 1)), labels, 3 * texts)
    assert scaled == knowledge


def test_images_without_another_image_of_their_class_are_excluded_from_both_accuracies() -> None:
    knowledge = name_knowledge(at(0, 5, 90), [0, 0, 1], at(0, 180))
    assert (knowledge.zero_shot, knowledge.class_means, knowledge.images) == (100, 100, 2)


@pytest.mark.parametrize("labels", [[], [0, 1, 2]])
def test_the_ratio_is_unknown_without_two_images_of_a_class(labels: list[int]) -> None:
    knowledge = name_knowledge(np.ones((len(labels), 2)), labels, np.eye(3, 2))
    assert np.isnan([knowledge.zero_shot, knowledge.class_means, knowledge.ratio]).all()
    assert knowledge.images == 0 and knowledge.confused == ()


def test_classes_without_images_are_no_candidates() -> None:
    # The text of class 2, such as a novel class's, coincides with the images of class 0.
    knowledge = name_knowledge(at(0, 1, 90, 91), [0, 0, 1, 1], at(20, 90, 0))
    assert knowledge.zero_shot == 100
