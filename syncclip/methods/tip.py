"""Tip-Adapter: zero-shot CLIP beside a cache of the training images' features, which may be trained further."""

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
from syncclip.methods.weight_settings import TipSettings


class Tip(Method):
    """Tip-Adapter and Tip-Adapter-F (arXiv 2207.09519).

    With x an image's feature and w those of the classes' sentences, all of length 1, and the keys k of a class, the
    class's score is

        s x.w + alpha * sum over its keys of exp(-beta (1 - x.k))

    (section 3.1 of the paper). A key is the mean feature of several views of a training image, these not normalised,
    at length 1. Tip-Adapter takes them as they are; with `finetune` they are learned from there, free of that length,
    by the cross entropy (section 3.2).

    A class has a fixed number of slots for keys, so that its run can be read without its images. Of more images than
    slots, those with the same number modulo the slots share one, whose key is the direction of their mean. An empty
    slot is zero, adds nothing to a score, and stays zero. So a novel class without images has its zero-shot score.

    Source: the paper and its published code. There, the epoch with the best accuracy on the test images is kept, which
    is not copied: here the last step counts. There, alpha and beta are searched on validation images after the
    training; here they are settings, for which `search` finds values.
    """

    Settings = TipSettings

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: TipSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        self.alpha, self.beta = settings.alpha, settings.beta
        self.prepares, self.trains = settings.views, settings.finetune
        self.texts = FrozenTexts(clip, classnames, settings.templates or [template], directions=True)
        self.keys = nn.Parameter(torch.zeros(len(classnames), settings.cache_size, feature_length(clip)))

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        features: Tensor = self.texts()
        return features[classes]

    def scores(self, images: Tensor, text: Tensor) -> Tensor:
        """(B, C) scores of raw image features (B, D) for the first classes, whose text features (C, D) are given."""
        return super().scores(images, text) + self.alpha * self.cache_scores(images, len(text), self.beta)

    def cache_scores(self, images: Tensor, count: int, beta: float) -> Tensor:
        """(B, count) what the keys of the first classes add, before alpha, for raw image features (B, D)."""
        keys = self.keys[:count]
        likeness = normalize(images, dim=-1) @ keys.flatten(0, 1).T
        near = torch.exp(beta * (likeness - 1)).view(-1, *keys.shape[:2])
        return torch.where((keys != 0).any(dim=-1), near, 0).sum(dim=-1)

    @torch.no_grad()
    def prepare(self, views: Iterable[Iterable[TrainingBatch]]) -> None:
        """Fill the slots."""
        sums, slots = torch.zeros_like(self.keys), self.keys.shape[1]
        for view in views:
            shown: Counter[int] = Counter()  # images of each class; a view begins anew, so that it meets the same slots
            for batch in view:
                labels = self.work.whole(batch.labels)
                features = self.work.whole(self.loss_features(batch.images))[labels >= 0]
                labels, places = labels[labels >= 0], []
                for label in labels.tolist():
                    places.append(shown[label] % slots)
                    shown[label] += 1
                sums.index_put_((labels, torch.tensor(places).to(labels)), features, accumulate=True)
        self.keys.copy_(normalize(sums, dim=-1))


class Search(NamedTuple):
    """What `search` found: the best values, and the accuracy of each pair in percent, (betas, alphas) in float64."""

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
    """Alpha and beta with the best accuracy on some images; of equals, the smallest beta, then the smallest alpha.

    Args:
        features: (N, D) of validation images, as `Method.image_features` has them.
        labels: (N,) among all classes of the method.
        scale: where the grids of beta and of alpha end, an end that they don't reach; both begin at 0.1.
        steps: numbers of betas and of alphas.

    Source: the search of the published code.
    """
    plain = Method.scores(method, features, method.text_features())
    betas, alphas = ([0.1 + i * (end - 0.1) / n for i in range(n)] for end, n in zip(scale, steps, strict=True))
    rows = []
    for beta in betas:
        cached = method.cache_scores(features, plain.shape[1], beta)
        rows.append([((plain + alpha * cached).argmax(dim=1) == labels).sum() for alpha in alphas])
    right = torch.stack([torch.stack(row) for row in rows]).cpu()
    beta, alpha = divmod(right.flatten().tolist().index(int(right.max())), len(alphas))
    return Search(alphas[alpha], betas[beta], 100 * right.double() / len(labels))
