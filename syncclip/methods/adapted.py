"""Base class for methods that adapt the towers' blocks and use one hand-written prompt per class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn
from torch.nn.functional import normalize

from syncclip.clip.parts import BlockPart
from syncclip.clip.prompt_text import fill
from syncclip.clip.prompted import PromptedClip
from syncclip.core.text import readable_name
from syncclip.methods.base import Method
from syncclip.methods.settings import MethodSettings


class Adapted(Method):
    """Base class for methods with learned modules in the towers' blocks and one hand-written prompt per class.

    Attributes:
        text_parts, vision_parts: one module per block, in order; empty for a frozen tower.
    """

    text_parts: nn.ModuleList
    vision_parts: nn.ModuleList

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: MethodSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        self.texts = clip.texts(fill(template, [*map(readable_name, classnames)]))

    def install(self, text: Iterable[BlockPart], vision: Iterable[BlockPart]) -> None:
        """Register each tower's learned modules: one per block, or none for a frozen tower.

        Raises:
            UserError: a tower does not support per-block modules.
        """
        self.text_parts, self.vision_parts = nn.ModuleList(text), nn.ModuleList(vision)
        if len(self.vision_parts):
            self.clip.vision.blocks(0, self.vision_parts)  # raises an error for unsupported towers

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return normalize(self.clip.encode_text(self.texts[classes], parts=self.text_parts), dim=-1)

    def image_features(self, images: Tensor, domains: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.clip.encode_images(images, parts=self.vision_parts)
