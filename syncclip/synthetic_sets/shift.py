"""How far synthetic images are from real ones, as a CLIP sees them, and a map of both.

Features have length 1 before anything is measured. Numbers are given for the frozen CLIP and for a trained one, whose
feature space is another: so beside the plain distance there is one relative to the distance between classes, which a
space that merely shrank does not make smaller.
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
    """The shift between two domains under one model.

    Attributes:
        centroid_distance: mean over classes of 1 - cosine between the class's real and its synthetic centre.
        relative_distance: the same, divided by the mean of 1 - cosine between centres of different classes, both real.
        overlap: per cent of synthetic images whose nearest real class centre is that of their own class.
        frechet: Fréchet distance of the two clouds, each taken as a normal distribution (as FID, on CLIP features of
            length 1).
        per_class: class id -> its centroid distance.
    """

    centroid_distance: float
    relative_distance: Number
    overlap: float
    frechet: float
    per_class: dict[int, float]


def measure(real: Floats, real_labels: Labels, synthetic: Floats, synthetic_labels: Labels) -> Shift:
    """Measure the shift.

    Args:
        real, synthetic: (N, D), (M, D) features, of any length but zero.
        real_labels, synthetic_labels: (N,), (M,) class ids; classes seen in one domain alone are left out of the means.
    """
    real, synthetic = normalise(real), normalise(synthetic)
    shared = np.intersect1d(real_labels, synthetic_labels)
    assert len(shared), "the domains have a class in common"
    real_centres = centres(real, real_labels, shared)
    synthetic_centres = centres(synthetic, synthetic_labels, shared)
    distances = 1 - (real_centres * synthetic_centres).sum(axis=1)
    between = 1 - real_centres @ real_centres.T
    others = ~np.eye(len(shared), dtype=bool)
    apart = float(between[others].mean()) if others.any() else np.nan
    known = np.isin(synthetic_labels, shared)
    nearest = shared[(synthetic[known] @ real_centres.T).argmax(axis=1)]
    return Shift(
        centroid_distance=float(distances.mean()),
        relative_distance=float(distances.mean() / apart) if apart else np.nan,
        overlap=float(100 * (nearest == synthetic_labels[known]).mean()),
        frechet=frechet(real, synthetic),
        per_class={int(label): float(value) for label, value in zip(shared, distances, strict=True)},
    )


def normalise(features: Floats) -> Floats:
    """Features of length 1."""
    unit: Floats = features / np.linalg.norm(features, axis=-1, keepdims=True)
    return unit


def centres(features: Floats, labels: Labels, classes: Labels) -> Floats:
    """The mean feature of each class, length 1: (len(classes), D)."""
    return normalise(np.stack([features[labels == label].mean(axis=0) for label in classes]))


def frechet(first: Floats, second: Floats) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of the normal distributions with the samples' means and covariances.

    The trace of the root is the sum of the singular values of C1^(1/2) C2^(1/2), which exists for any number of
    samples. Few samples make it too large: compare numbers only between clouds of equal sizes.
    """
    scaled = [(cloud - cloud.mean(axis=0)) / np.sqrt(max(1, len(cloud) - 1)) for cloud in (first, second)]
    # The eigenvalues of C1 C2 are the squared singular values of X1 X2', where Ci = Xi' Xi.
    root = np.linalg.svd(scaled[0] @ scaled[1].T, compute_uv=False).sum()
    means = ((first.mean(axis=0) - second.mean(axis=0)) ** 2).sum()
    return float(max(0.0, means + (scaled[0] ** 2).sum() + (scaled[1] ** 2).sum() - 2 * root))


def project(real: Floats, synthetic: Floats) -> tuple[Floats, Floats]:
    """Both clouds on the first two principal axes of the union, in which each domain weighs the same: (N, 2), (M, 2).

    The sign of an axis is fixed by its largest entry, so that the same features give the same map.
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
