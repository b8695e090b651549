"""Class means: the mean image feature of each class, mixed with its prompt feature; no training steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.methods.base import Method, TrainingBatch
from syncclip.methods.frozen import FrozenTexts, feature_length
from syncclip.methods.settings import ClassMeansSettings


class ClassMeans(Method):
    """Training-free classifier based on class means of frozen CLIP features; a baseline for learned methods.

    Let t be a class's unit-length text feature, and m the normalised mean of the unit-length features of its training
    images. The class vector is

        w t + (1 - w) m,   normalised,

    with w = `text_weight`: 1 selects zero-shot CLIP, and 0 the nearest class mean. A class without training images
    keeps the class vector t. Every view of every real and synthetic image has the same weight.

    Source: class prototypes of prototypical networks (arXiv 1703.05175, equation 1), in the feature space of CLIP.
    """

    Settings = ClassMeansSettings
    prepares_all = True

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: ClassMeansSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        self.text_weight, self.prepares = settings.text_weight, settings.views
        self.texts = FrozenTexts(clip, classnames, settings.templates or [template], directions=True)
        self.means = nn.Parameter(torch.zeros(len(classnames), feature_length(clip)))  # zero without images

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        text, means = self.texts()[classes], self.means[classes]
        mixed = normalize(self.text_weight * text + (1 - self.text_weight) * means, dim=-1)
        return torch.where((means != 0).any(dim=-1, keepdim=True), mixed, text)

    @torch.no_grad()
    def prepare(self, views: Iterable[Iterable[TrainingBatch]]) -> None:
        """Compute the class means."""
        sums = torch.zeros_like(self.means, dtype=torch.float64)
        for batch in (batch for view in views for batch in view):
            labels = self.work.whole(batch.labels)
            features = normalize(self.work.whole(self.loss_features(batch.images)), dim=-1)
            sums.index_add_(0, labels[labels >= 0], features[labels >= 0].double())
        self.means.copy_(normalize(sums, dim=-1))
