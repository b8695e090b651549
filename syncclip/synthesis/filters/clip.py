"""The frozen CLIP behind the filters: all that name the same backbone share one, and each image is encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from PIL import Image

from syncclip.clip.backbone import BackboneSettings, load_backbone
from syncclip.core.settings import UserError
from syncclip.runtime.progress import Progress
from syncclip.shards.reader import ImageSet

if TYPE_CHECKING:
    import torch


IMAGES = 64
"""Images of a set that are encoded at once."""
SENTENCES = 256
"""Class prompts that are encoded at once."""
REMEMBERED = 4096
"""Prompts whose features are kept."""


class FrozenClip:
    """Features of length 1 of images and sentences.

    Args:
        settings: which CLIP.
        prompts: the sentence that stands for each class, `template` with the class name.
        device: torch device.
    """

    def __init__(self, settings: BackboneSettings, prompts: Sequence[str], device: str = "cpu") -> None:
        self.backbone = load_backbone(settings)
        self.prompts, self.device = list(prompts), device
        model: Any = self.backbone.model
        self.model = model.to(device)
        self._images: list[Image.Image] = []
        self._features: torch.Tensor | None = None
        self._sentences: dict[str, torch.Tensor] = {}

    def features(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """(N, D) features of images. Of some of the images that were encoded last, nothing is computed again."""
        import torch

        places = {id(image): place for place, image in enumerate(self._images)}  # kept alive here, so ids are theirs
        if self._features is None or not all(id(image) in places for image in images):
            with torch.inference_mode():
                pixels = torch.stack([self.backbone.preprocess(image) for image in images]).to(self.device)
                self._features = torch.nn.functional.normalize(self.model.encode_image(pixels).float(), dim=-1)
            self._images = list(images)
            return self._features
        return self._features[[places[id(image)] for image in images]]

    @cached_property
    def classes(self) -> torch.Tensor:
        """(C, D) features of the sentences that stand for the classes."""
        import torch

        chunks = [self.prompts[start : start + SENTENCES] for start in range(0, len(self.prompts), SENTENCES)]
        return torch.cat([self._encode(chunk) for chunk in chunks])

    def sentences(self, texts: Sequence[str]) -> torch.Tensor:
        """(N, D) features of sentences. Each is encoded alone, so that its last bits don't depend on the others."""
        import torch

        for text in texts:
            if text not in self._sentences:
                if len(self._sentences) >= REMEMBERED:
                    del self._sentences[next(iter(self._sentences))]
                self._sentences[text] = self._encode([text])[0]
        return torch.stack([self._sentences[text] for text in texts])

    def _encode(self, texts: list[str]) -> torch.Tensor:
        import torch

        with torch.inference_mode():
            encoded = self.model.encode_text(self.backbone.tokenizer(texts).to(self.device)).float()
            return torch.nn.functional.normalize(encoded, dim=-1)


def encode_set(images: ImageSet, clip: FrozenClip, rows: Sequence[int], name: str) -> tuple[list[int], torch.Tensor]:
    """The rows of a set whose images can be read, and the (N, D) features of these; `name` labels the progress line."""
    import torch

    kept: list[int] = []
    found: list[torch.Tensor] = []
    with Progress(len(rows), "images", name) as progress:
        for start in range(0, len(rows), IMAGES):
            chunk = rows[start : start + IMAGES]
            readable: dict[int, Image.Image] = {}
            for row in chunk:
                with suppress(UserError):
                    readable[row] = images.image(row)
            if readable:
                found.append(clip.features(list(readable.values())).cpu())
                kept += readable
            progress.update(len(chunk))
    return kept, torch.cat(found) if found else torch.zeros(0, 0)
