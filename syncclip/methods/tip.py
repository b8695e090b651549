"""Tip-Adapter: zero-shot CLIP with a cache of training image features, optionally fine-tuned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.methods.base import Method, TrainingBatch
from syncclip.methods.frozen import FrozenTexts, feature_length
from syncclip.methods.settings import TipSettings


class Tip(Method):
    """Tip-Adapter and Tip-Adapter-F (arXiv 2207.09519).

    Given an image feature x, a class's text feature w (both of unit length) and cache keys k, the class score is

        s x.w + alpha * sum over the class keys of exp(-beta (1 - x.k))

    (section 3.1 of the paper). A key is the normalised mean of raw features over several views of a training image.
    With `finetune`, the keys are trained with cross entropy, without a constraint on their length (section 3.2).

    Each class has a fixed number of key slots, so a run can be loaded without its training images. Additional images
    share slots: image i uses slot i modulo the number of slots, and a slot's key is the normalised mean over its
    images. Empty slots stay zero and do not contribute to the score, so a novel class without images keeps its
    zero-shot score.

    Source: the paper and its published code, with two differences. The published code selects the epoch with the best
    test accuracy; here, the parameters after the last step are used. The published code tunes alpha and beta on
    validation images after training; here, alpha and beta are settings (see `search`).
    """

    Settings = TipSettings
    prepares_all = True

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: TipSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        self.alpha, self.beta = settings.alpha, settings.beta
        self.prepares = settings.views
        self.texts = FrozenTexts(clip, classnames, settings.templates or [template], directions=True)
        self.keys = nn.Parameter(torch.zeros(len(classnames), settings.cache_size, feature_length(clip)))

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        features: Tensor = self.texts()
        return features[classes]

    def scores(self, images: Tensor, text: Tensor) -> Tensor:
        """Return the scores (B, C) of the first C classes, given raw image features (B, D) and text features (C, D)."""
        return super().scores(images, text) + self.alpha * self.cache_scores(images, len(text), self.beta)

    def cache_scores(self, images: Tensor, count: int, beta: float) -> Tensor:
        """Return the cache scores (B, count) for the first `count` classes, before scaling by alpha."""
        keys = self.keys[:count]
        cosines = normalize(images, dim=-1) @ keys.flatten(0, 1).T
        affinity = torch.exp(beta * (cosines - 1)).view(-1, *keys.shape[:2])
        return torch.where((keys != 0).any(dim=-1), affinity, 0).sum(dim=-1)

    @torch.no_grad()
    def prepare(self, views: Iterable[Iterable[TrainingBatch]]) -> None:
        """Compute the keys and store them in the slots."""
        sums, slots = torch.zeros_like(self.keys), self.keys.shape[1]
        for view in views:
            counts: Counter[int] = Counter()  # images per class, counted per view so that an image keeps its slot
            for batch in view:
                labels = self.work.whole(batch.labels)
                features = self.work.whole(self.loss_features(batch.images))[labels >= 0]
                labels, positions = labels[labels >= 0], []
                for label in labels.tolist():
                    positions.append(counts[label] % slots)
                    counts[label] += 1
                sums.index_put_((labels, torch.tensor(positions).to(labels)), features, accumulate=True)
        self.keys.copy_(normalize(sums, dim=-1))


class Search(NamedTuple):
    """Best alpha and beta, and the accuracy of every pair in per cent as a float64 tensor (betas, alphas)."""

    alpha: float
    beta: float
    accuracy: Tensor


@torch.no_grad()
def search(
    method: Tip,
    features: Tensor,
    labels: Tensor,
    scale: tuple[float, float] = (7.0, 3.0),
    steps: tuple[int, int] = (200, 20),
) -> Search:
    """Find the best alpha and beta by grid search; ties go to the smallest beta, then the smallest alpha.

    Args:
        features: (N, D) features of validation images, from `Method.image_features`.
        labels: (N,) class ids over all classes of the method.
        scale: exclusive upper bounds of the beta and alpha grids, which start at 0.1.
        steps: number of values in the beta grid and in the alpha grid.

    Source: the search in the published code.
    """
    plain = Method.scores(method, features, method.text_features())
    betas, alphas = ([0.1 + i * (end - 0.1) / n for i in range(n)] for end, n in zip(scale, steps, strict=True))
    rows = []
    for beta in betas:
        cached = method.cache_scores(features, plain.shape[1], beta)
        rows.append([((plain + alpha * cached).argmax(dim=1) == labels).sum() for alpha in alphas])
    correct = torch.stack([torch.stack(row) for row in rows]).cpu()
    beta, alpha = divmod(correct.flatten().tolist().index(int(correct.max())), len(alphas))
    return Search(alphas[alpha], betas[beta], 100 * correct.double() / len(labels))
