"""IVLP: independent prompts in both towers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.methods.base import Method
from syncclip.methods.prompts import checked_depth, deep_prompts
from syncclip.methods.settings import IvlpSettings


class Ivlp(Method):
    """Independent vision-language prompting (the baseline in arXiv 2210.03117), without domain-specific prompts."""

    Settings = IvlpSettings

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: IvlpSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        visual_depth = checked_depth("visual_depth", settings.visual_depth, clip.vision.layers)
        text_depth = checked_depth("text_depth", settings.text_depth, clip.text.layers)
        self.tokens = clip.text_context(classnames, settings.initial_words, settings.text_tokens)
        self.text_prompts = deep_prompts(text_depth, settings.text_tokens, clip.text.width, self.tokens.initial)
        self.vision_prompts = deep_prompts(visual_depth, settings.visual_tokens, clip.vision.width)

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return normalize(self.clip.encode_text(self.tokens[classes], list(self.text_prompts)), dim=-1)

    def image_features(self, images: Tensor, domains: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.clip.encode_images(images, list(self.vision_prompts))
