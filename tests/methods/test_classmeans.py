"""Class means: class vectors compared with a direct computation, class by class and image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from syncclip.clip.prompt_text import fill
from syncclip.clip.prompted import PromptedClip
from syncclip.methods import build_method
from syncclip.methods.classmeans import ClassMeans
from tests.methods import parity
from tests.methods.classes import DATASET, batch
from tests.methods.parity import real_batch

LABELS = torch.tensor([1, 0, 1, 4, 1, 0, -1])
TEMPLATES = ("a photo of a {}.", "the {}")


def unit(rows: Tensor) -> np.ndarray:
    array = rows.detach().double().numpy()
    result: np.ndarray = array / np.linalg.norm(array, axis=-1, keepdims=True)
    return result


def build(clip: PromptedClip, **settings: object) -> ClassMeans:
    method = build_method("classmeans", clip, DATASET, ClassMeans.Settings.model_validate(settings))
    assert isinstance(method, ClassMeans)
    return method


def check(clip: PromptedClip, weight: float = 0.3) -> None:
    """Class vectors and logits of a few classes with images in two views and uneven batches."""
    views = torch.randn(2, len(LABELS), 3, 32, 32, generator=torch.Generator().manual_seed(4))
    method = build(clip, text_weight=weight, templates=TEMPLATES, views=len(views))
    assert method.prepares == len(views) and not method.trains
    method.prepare([[real_batch(view[:4], LABELS[:4]), real_batch(view[4:], LABELS[4:])] for view in views])
    features = [unit(clip.encode_images(view)) for view in views]
    sentences = [unit(clip.encode_text(clip.texts(fill(template, DATASET.classnames)))) for template in TEMPLATES]
    expected = []
    for label in range(len(DATASET.classnames)):
        rows = [view[i] for view in features for i, of_image in enumerate(LABELS.tolist()) if of_image == label]
        vector = sum(sentence[label] for sentence in sentences)
        vector = vector / np.linalg.norm(vector)
        if rows:
            mean = sum(rows) / np.linalg.norm(sum(rows))
            vector = weight * vector + (1 - weight) * mean
        expected.append(vector / np.linalg.norm(vector))
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    scores = float(clip.logit_scale) * unit(clip.encode_images(images)) @ np.array(expected).T
    parity.check_close("normalised", "class vectors", method.text_features(), torch.tensor(np.array(expected)))
    parity.check_close("logits", "logits", method.logits(images), torch.tensor(scores))


def test_class_vectors_match_a_direct_computation(clip: PromptedClip) -> None:
    check(clip)


def test_classes_without_images_have_zero_shot_scores(clip: PromptedClip) -> None:
    images, method = batch().images, build(clip)
    zero_shot = build_method("zeroshot", clip, DATASET).logits(images)
    torch.testing.assert_close(method.logits(images), zero_shot)
    method.prepare([[batch(4, 0, 0)]])
    torch.testing.assert_close(method.logits(images)[:, 3:], zero_shot[:, 3:])
    assert bool((method.logits(images)[:, :3] != zero_shot[:, :3]).all())


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_extreme_weights_select_the_means_or_the_sentences(clip: PromptedClip, weight: float) -> None:
    method = build(clip, text_weight=weight)
    method.prepare([[batch(3, 3, 2)]])
    torch.testing.assert_close(method.text_features(), method.texts() if weight else method.means.detach())


def test_both_domains_have_the_same_weight_per_image(clip: PromptedClip) -> None:
    method, mixed = build(clip), batch(3, 3, 2)
    method.prepare([[mixed]])
    features = normalize(clip.encode_images(mixed.images), dim=-1)
    expected = normalize(features[0] + features[3], dim=-1)  # the real and the synthetic image of class 0
    torch.testing.assert_close(method.means[0].detach(), expected)
