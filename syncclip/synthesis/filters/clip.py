"""A frozen CLIP model, shared by filters with the same backbone so that each image is encoded only once."""

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


IMAGE_BATCH = 64
"""Number of dataset images per forward pass."""
PROMPT_BATCH = 256
"""Number of class prompts per forward pass."""
MAX_CACHED_PROMPTS = 4096


class FrozenClip:
    """Frozen CLIP model that computes normalised features of images and prompts.

    Args:
        prompts: one prompt per class.
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
        """Return image features with shape (N, D); the last batch is cached, so its subsets are not encoded again."""
        import torch

        rows = {id(image): row for row, image in enumerate(self._images)}  # `_images` keeps the ids valid
        if self._features is None or not all(id(image) in rows for image in images):
            with torch.inference_mode():
                pixels = torch.stack([self.backbone.preprocess(image) for image in images]).to(self.device)
                self._features = torch.nn.functional.normalize(self.model.encode_image(pixels).float(), dim=-1)
            self._images = list(images)
            return self._features
        return self._features[[rows[id(image)] for image in images]]

    @cached_property
    def classes(self) -> torch.Tensor:
        """Class prompt features with shape (C, D), computed once."""
        import torch

        starts = range(0, len(self.prompts), PROMPT_BATCH)
        return torch.cat([self._encode(self.prompts[start : start + PROMPT_BATCH]) for start in starts])

    def sentences(self, texts: Sequence[str]) -> torch.Tensor:
        """Encode prompts one at a time, since batching affects the least significant bits; return features (N, D)."""
        import torch

        for text in texts:
            if text not in self._sentences:
                if len(self._sentences) >= MAX_CACHED_PROMPTS:
                    del self._sentences[next(iter(self._sentences))]
                self._sentences[text] = self._encode([text])[0]
        return torch.stack([self._sentences[text] for text in texts])

    def _encode(self, texts: list[str]) -> torch.Tensor:
        import torch

        with torch.inference_mode():
            encoded = self.model.encode_text(self.backbone.tokenizer(texts).to(self.device)).float()
            return torch.nn.functional.normalize(encoded, dim=-1)


def encode_set(images: ImageSet, clip: FrozenClip, rows: Sequence[int], name: str) -> tuple[list[int], torch.Tensor]:
    """Return the row numbers of the readable images, and their (N, D) features; `name` labels the progress line."""
    import torch

    kept: list[int] = []
    features: list[torch.Tensor] = []
    with Progress(len(rows), "images", name) as progress:
        for start in range(0, len(rows), IMAGE_BATCH):
            chunk = rows[start : start + IMAGE_BATCH]
            readable: dict[int, Image.Image] = {}
            for row in chunk:
                with suppress(UserError):
                    readable[row] = images.image(row)
            if readable:
                features.append(clip.features(list(readable.values())).cpu())
                kept += readable
            progress.update(len(chunk))
    return kept, torch.cat(features) if features else torch.zeros(0, 0)
