"""VPT: learned tokens in the vision tower, with frozen text features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from syncclip.clip.prompted import PromptedClip
from syncclip.methods.base import Method
from syncclip.methods.frozen import FrozenTexts
from syncclip.methods.prompts import checked_depth, deep_prompts
from syncclip.methods.settings import VptSettings


class Vpt(Method):
    """Visual prompt tuning (arXiv 2203.12119) of CLIP's vision tower.

    Shallow VPT inserts learned tokens at the input; these tokens pass through all blocks (equations 4 and 5 of
    the paper). Deep VPT has separate tokens for each prompted block (equation 7). Instead of learned weights, the
    classifier uses the text features of one frozen prompt per class.

    Source: the paper, and the VPT implementation in MaPLe's published code, which inserts the tokens after the patches
    and uses the same template for every dataset.
    """

    Settings = VptSettings

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: VptSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        depth = checked_depth("visual_depth", settings.visual_depth, clip.vision.layers, default=clip.vision.layers)
        self.texts = FrozenTexts(clip, classnames, [settings.template or template])
        self.vision_prompts = deep_prompts(depth, settings.visual_tokens, clip.vision.width)

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        features: Tensor = self.texts()
        return features[classes]

    def image_features(self, images: Tensor, domains: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.clip.encode_images(images, list(self.vision_prompts))
