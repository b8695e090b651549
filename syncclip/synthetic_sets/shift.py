"""Domain shift between real and synthetic images in CLIP's feature space, and a 2-D projection of both domains.

Features are normalised. Relative distances do not depend on the scale of the feature space, and are comparable between
frozen and trained CLIP models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from syncclip.evaluation.metrics import Number

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shift:
    """Shift between two domains in a model's feature space.

    Attributes:
        centroid_distance: 1 - cosine similarity between the real and the synthetic centroid, averaged over classes.
        relative_distance: `centroid_distance` divided by the mean distance between real centroids of different classes.
        overlap: percentage of synthetic images whose nearest real centroid is that of their own class.
        frechet: Fréchet distance between the two distributions, assumed to be normal (FID on unit-length CLIP
            features).
        per_class: centroid distance by class id.
    """

    centroid_distance: float
    relative_distance: Number
    overlap: float
    frechet: float
    per_class: dict[int, float]


def measure(real: Floats, real_labels: Labels, synthetic: Floats, synthetic_labels: Labels) -> Shift:
    """Measure the shift between two domains.

    Args:
        real, synthetic: non-zero features, with shapes (N, D) and (M, D).
        real_labels, synthetic_labels: class ids, with shapes (N,) and (M,). Means over classes exclude classes that
            occur in only one domain.
    """
    real, synthetic = normalise(real), normalise(synthetic)
    shared = np.intersect1d(real_labels, synthetic_labels)
    assert len(shared), "the domains must share at least one class"
    real_centres = centres(real, real_labels, shared)
    synthetic_centres = centres(synthetic, synthetic_labels, shared)
    distances = 1 - (real_centres * synthetic_centres).sum(axis=1)
    between = 1 - real_centres @ real_centres.T
    others = ~np.eye(len(shared), dtype=bool)
    apart = float(between[others].mean()) if others.any() else np.nan
    comparable = np.isin(synthetic_labels, shared)
    nearest = shared[(synthetic[comparable] @ real_centres.T).argmax(axis=1)]
    return Shift(
        centroid_distance=float(distances.mean()),
        relative_distance=float(distances.mean() / apart) if apart else np.nan,
        overlap=float(100 * (nearest == synthetic_labels[comparable]).mean()),
        frechet=frechet(real, synthetic),
        per_class={int(label): float(value) for label, value in zip(shared, distances, strict=True)},
    )


def normalise(features: Floats) -> Floats:
    """Normalise features to unit length."""
    unit: Floats = features / np.linalg.norm(features, axis=-1, keepdims=True)
    return unit


def centres(features: Floats, labels: Labels, classes: Labels) -> Floats:
    """Return the normalised mean feature of each class, with shape (len(classes), D)."""
    return normalise(np.stack([features[labels == label].mean(axis=0) for label in classes]))


def frechet(first: Floats, second: Floats) -> float:
    """Return the Fréchet distance |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) between two samples, assuming normality.

    The trace of the matrix square root is the sum of the singular values of C1^(1/2) C2^(1/2). Since the distance
    is biased upwards for small samples, compare only samples of equal size.
    """
    scaled = [(cloud - cloud.mean(axis=0)) / np.sqrt(max(1, len(cloud) - 1)) for cloud in (first, second)]
    # The eigenvalues of C1 C2 are the squared singular values of X1 X2', where Ci = Xi' Xi.
    root = np.linalg.svd(scaled[0] @ scaled[1].T, compute_uv=False).sum()
    means = ((first.mean(axis=0) - second.mean(axis=0)) ** 2).sum()
    return float(max(0.0, means + (scaled[0] ** 2).sum() + (scaled[1] ** 2).sum() - 2 * root))


def project(real: Floats, synthetic: Floats) -> tuple[Floats, Floats]:
    """Project both domains, weighted equally, onto the first two principal axes; return (N, 2) and (M, 2) arrays.

    To make the projection deterministic, the largest-magnitude entry of each axis is made positive.
    """
    real, synthetic = normalise(real), normalise(synthetic)
    middle = (real.mean(axis=0) + synthetic.mean(axis=0)) / 2
    weighted = [(cloud - middle) / np.sqrt(len(cloud)) for cloud in (real, synthetic)]
    _, _, axes = np.linalg.svd(np.concatenate(weighted), full_matrices=False)
    plane = np.zeros((2, real.shape[1]))
    plane[: min(2, len(axes))] = axes[:2]
    largest = np.abs(plane).argmax(axis=1)
    plane *= np.where(np.take_along_axis(plane, largest[:, None], axis=1) < 0, -1, 1)
    return (real - middle) @ plane.T, (synthetic - middle) @ plane.T
