"""PromptSRC: prompts in both towers, regularised towards the frozen CLIP model and averaged over the epochs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, l1_loss, log_softmax, normalize
from torch.nn.utils import parameters_to_vector

from syncclip.clip.prompted import PromptedClip
from syncclip.methods.base import TrainingBatch
from syncclip.methods.frozen import FrozenTexts
from syncclip.methods.ivlp import Ivlp
from syncclip.methods.settings import PromptSrcSettings


class PromptSrc(Ivlp):
    """Self-regulating prompts (arXiv 2307.06948).

    Let t and v be the prompted text and image features, of unit length, and l their scores. Let t0, v0 and l0 be the
    frozen CLIP model's features and scores, where t0 averages an ensemble of templates (textual diversity, section
    3.2.3 of the paper). The loss is

        CE(l) + w_t mean |t - t0| + w_v mean |v - v0| + w_l mean (p0 (log p0 - log p)),    p = softmax(l)

    with means over all entries, as in the published code (section 3.2.1). The final prompts are a Gaussian-weighted
    average of the prompts after each epoch (section 3.2.2).
    """

    average: Tensor

    Settings = PromptSrcSettings

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: PromptSrcSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        self.weights = {
            "text": settings.text_weight,
            "image": settings.image_weight,
            "logits": settings.logits_weight,
        }
        self._aggregation = settings.aggregation_mean, settings.aggregation_std
        templates = settings.templates or published_templates()
        self.frozen_texts = FrozenTexts(clip, classnames, templates, leave_out_long=settings.templates is None)
        self.register_buffer("average", torch.zeros_like(parameters_to_vector(self.parameters())), persistent=False)

    def terms(self, batch: TrainingBatch) -> dict[str, Tensor]:
        candidates = self.candidates(batch)
        text, frozen_text = self.candidate_features(candidates), self.frozen_texts()[:candidates]
        image = self.loss_features(batch.images)
        with torch.no_grad():
            frozen_image = self.clip.encode_images(batch.images)
        scores, frozen_scores = self.scores(image, text), self.scores(frozen_image, frozen_text)
        return {
            "classification": cross_entropy(scores, batch.labels),
            "text": l1_loss(text, frozen_text),
            "image": l1_loss(normalize(image, dim=-1), normalize(frozen_image, dim=-1)),
            "logits": divergence(frozen_scores, scores),
        }

    @torch.no_grad()
    def epoch_ended(self, done: int, epochs: int) -> None:
        """Update the prompts' weighted average; after the last epoch, replace the prompts with the average."""
        weight = gaussian_weights(epochs, *self._aggregation)[done - 1]
        self.average += weight * parameters_to_vector(self.parameters())
        if done == epochs:
            prompts = list(self.parameters())
            means = torch.split(self.average, [prompt.numel() for prompt in prompts])
            for prompt, mean in zip(prompts, means, strict=True):
                prompt.copy_(mean.view_as(prompt))

    def memory(self) -> dict[str, Tensor]:
        return {"average": self.average}


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Return KL(teacher || student), averaged over all entries of the scores (B, C).

    Source: section 3.2.1 of arXiv 2307.06948, with the published code's normalisation.
    """
    teacher, student = log_softmax(teacher, dim=-1), log_softmax(student, dim=-1)
    return kl_div(student, teacher, reduction="none", log_target=True).mean()


def gaussian_weights(epochs: int, mean: float, std: float) -> list[float]:
    """Return weights for epochs 1 to `epochs`: a normal density, normalised to sum to 1.

    Source: section 3.2.2 of arXiv 2307.06948 (Gaussian prompt aggregation).
    """
    distances = (torch.arange(1, epochs + 1, dtype=torch.float64) - mean) / std
    weights: list[float] = torch.softmax(-distances.square() / 2, dim=0).tolist()
    return weights


def published_templates() -> list[str]:
    """Return the published ensemble: the first 60 of CLIP's 80 ImageNet templates, starting with the plain template."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES  # slow to import

    templates = [write("{}") for write in OPENAI_IMAGENET_TEMPLATES[:60]]
    plain = "a photo of a {}."
    return [plain, *(template for template in templates if template != plain)]
