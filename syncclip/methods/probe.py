"""Linear probe: a learned vector for each class, initialised with the class's prompt feature."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.methods.base import TrainingBatch
from syncclip.methods.class_vectors import ClassVectors
from syncclip.methods.settings import ProbeSettings


class Probe(ClassVectors):
    """Linear probe initialised from the zero-shot classifier, optionally with the CLAP constraint (arXiv 2312.12730).

    Each class vector w is initialised with t, the mean of the class's raw prompt features, and normalised in the
    scores. The loss is cross entropy. The class-adaptive constraint (section 4 of the paper) adds the term

        mean over candidate classes of m ||w - t||^2

    where the multiplier m is the mean zero-shot probability of a class for its own images. Multipliers are computed
    before the first step and are 0 for classes without images.

    Only the vectors of candidate classes are learned. Without weight decay, vectors of novel classes without images
    stay bitwise unchanged, so these classes keep their zero-shot scores.

    Source: the paper and its published code, with two differences. Images are augmented and encoded in each step,
    whereas the published code encodes 20 crops of each image once. The multiplier m is computed from one crop per
    image. As in all methods, underscores in class names are replaced with spaces.
    """

    multipliers: Tensor

    Settings = ProbeSettings

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: ProbeSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        self.add_vectors(settings.templates or (template,), raw=True)
        self.constrained, self.prepares = settings.constraint, int(settings.constraint)
        if self.constrained:
            self.register_buffer("multipliers", torch.zeros(len(classnames)), persistent=False)

    def step_begins(self, step: int, steps: int) -> None:  # noqa: ARG002
        self.begin_vectors(step)

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return self.vector_features(classes)

    def terms(self, batch: TrainingBatch) -> dict[str, Tensor]:
        terms = super().terms(batch)
        if self.constrained:
            candidates = slice(self.candidates(batch))
            moved = (self.vectors[candidates] - self.start()[candidates]).square().sum(dim=1)
            terms["constraint"] = (self.multipliers[candidates] * moved).mean()
        return terms

    @torch.no_grad()
    def prepare(self, views: Iterable[Iterable[TrainingBatch]]) -> None:
        """Compute the constraint's multipliers m."""
        start = self.start()
        text, totals = normalize(start, dim=-1), start.new_zeros(2, len(self.classnames))
        for batch in (batch for view in views for batch in view):
            counted, labels = batch.labels >= 0, batch.labels.clamp(min=0)
            scores = self.scores(self.loss_features(batch.images), text[: self.candidates(batch)])
            probability = scores.softmax(dim=1).gather(1, labels[:, None])[:, 0]
            totals.index_add_(1, labels, torch.stack([probability, torch.ones_like(probability)]) * counted)
        sums, images = self.work.gather(totals).sum(dim=0)
        self.multipliers.copy_(sums / images.clamp(min=1))

    def memory(self) -> dict[str, Tensor]:
        return {"multipliers": self.multipliers} if self.constrained else {}
