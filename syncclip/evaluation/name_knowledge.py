"""Name knowledge of a CLIP model: how well its text features classify images compared with their class means."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from syncclip.evaluation.metrics import percentage
from syncclip.evaluation.predict import ConfusedPair, confused_pairs

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NameKnowledge:
    """Accuracies in per cent of two classifiers on the same frozen image features; NaN if undefined.

    Attributes:
        zero_shot: accuracy of the nearest text feature.
        class_means: leave-one-out accuracy of the nearest class mean, which uses no text.
        ratio: name knowledge, `zero_shot / class_means`: about 1 if text features classify images as well as class
            means do.
        images: number of classified images.
        confused: pairs of classes that the text features confuse most often, in descending order.
    """

    zero_shot: float
    class_means: float
    ratio: float
    images: int
    confused: tuple[ConfusedPair, ...]


def name_knowledge(features: npt.ArrayLike, labels: npt.ArrayLike, text_features: npt.ArrayLike) -> NameKnowledge:
    """Compare zero-shot classification with leave-one-out class means, without test images.

    The mean of an image's own class excludes the image. Classes with a single image do not count towards either
    accuracy. Both classifiers use cosine similarity and the same candidate classes: those with images.

    Args:
        features: (N, D) image features, such as those of the base classes' few-shot sample; of any norm.
        labels: (N,) class ids in 0 .. C - 1.
        text_features: (C, D) text features of the classes; of any norm.
    """
    images, texts, ids = _unit(features), _unit(text_features), np.asarray(labels, np.int64)
    assert images.shape[:1] == ids.shape and images.shape[1:] == texts.shape[1:], "one label per feature, one dimension"
    classes, own, counts = np.unique(ids, return_inverse=True, return_counts=True)
    means = np.zeros((len(classes), images.shape[1]))
    np.add.at(means, own, images)
    similarity = images @ _unit(means).T
    similarity[np.arange(len(ids)), own] = (images * _unit(means[own] - images)).sum(axis=1)
    kept = counts[own] > 1
    by_text = classes[(images @ texts[classes].T).argmax(axis=1)[kept]] if len(classes) else ids[kept]
    by_mean = classes[similarity.argmax(axis=1)[kept]] if len(classes) else ids[kept]
    zero_shot, class_means = (float(percentage((each == ids[kept]).sum(), kept.sum())) for each in (by_text, by_mean))
    ratio = zero_shot / class_means if class_means else np.nan
    pairs = confused_pairs(ids[kept], by_text, len(texts))
    return NameKnowledge(zero_shot, class_means, ratio, int(kept.sum()), tuple(pairs))


def _unit(vectors: npt.ArrayLike) -> Floats:
    """Scale vectors (n, D) to unit length; zero vectors stay zero."""
    rows = np.asarray(vectors, np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Floats = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    return unit
