"""Filters judge drawn pictures: each a small class with its settings beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from syncclip.clip.backbone import BackboneSettings, load_backbone
from syncclip.settings import Settings


class Verdict(NamedTuple):
    """One score (higher is better) and one decision for each picture of a batch."""

    scores: list[float]
    keep: list[bool]


class Filter(Protocol):
    """Judges a batch of pictures; its name is the reason under which its rejects are counted."""

    name: str

    def judge(self, images: Sequence[Image.Image], labels: Sequence[int]) -> Verdict: ...


class BlankSettings(Settings):
    """Rejects constant or nearly constant pictures, such as a safety checker's black ones."""

    name: Literal["blank"] = "blank"
    minimum: float = Field(4.0, ge=0, le=127.5)
    """Least standard deviation of a colour channel, over the pixels, of 255 (the largest of the three counts)."""


class Blank:
    """See `BlankSettings`; the score is that standard deviation."""

    name = "blank"

    def __init__(self, settings: BlankSettings) -> None:
        self.settings = settings

    def judge(self, images: Sequence[Image.Image], labels: Sequence[int]) -> Verdict:
        assert len(images) == len(labels)
        scores = [float(np.asarray(image, np.float64).std(axis=(0, 1)).max()) for image in images]
        return Verdict(scores, [score >= self.settings.minimum for score in scores])


class ClipScoreSettings(Settings):
    """Rejects pictures that a frozen CLIP doesn't read, zero-shot, as their own class among the set's classes."""

    name: Literal["clip_score"] = "clip_score"
    backbone: BackboneSettings | None = None
    """The judge; the recipe's backbone where it is not given."""
    probability: float = Field(0.0, ge=0, le=1)
    """Least zero-shot probability of the own class."""
    top: int | None = Field(None, ge=1)
    """The own class must be among the `top` most probable ones."""

    @model_validator(mode="after")
    def _judges_something(self) -> ClipScoreSettings:
        if self.probability == 0 and self.top is None:
            raise ValueError(
                "a clip_score filter needs 'probability' above 0, 'top', or both; it would keep everything"
            )
        return self


class ClipScore:
    """See `ClipScoreSettings`; the score is the zero-shot probability of the own class.

    Args:
        settings: backbone and thresholds.
        prompts: the sentence that stands for each class, `template` with the class name.
        device: torch device of the judge.
    """

    name = "clip_score"

    def __init__(self, settings: ClipScoreSettings, prompts: Sequence[str], device: str = "cpu") -> None:
        import torch

        self.settings = settings
        self.device = device
        self.backbone = load_backbone(settings.backbone or BackboneSettings())
        model: Any = self.backbone.model
        self.model = model.to(device)
        tokenize = self.backbone.tokenizer
        with torch.inference_mode():
            chunks = [list(prompts[start : start + 256]) for start in range(0, len(prompts), 256)]
            encoded = [self.model.encode_text(tokenize(chunk).to(device)).float() for chunk in chunks]
            self.text = torch.nn.functional.normalize(torch.cat(encoded), dim=-1)  # (C, D)

    def judge(self, images: Sequence[Image.Image], labels: Sequence[int]) -> Verdict:
        import torch

        with torch.inference_mode():
            pixels = torch.stack([self.backbone.preprocess(image) for image in images]).to(self.device)
            features = torch.nn.functional.normalize(self.model.encode_image(pixels).float(), dim=-1)
            logits = self.backbone.logit_scale * features @ self.text.T  # (N, C)
            own = logits.gather(1, torch.tensor(list(labels), device=logits.device)[:, None])  # (N, 1)
            scores = [float(p) for p in (own - logits.logsumexp(dim=1, keepdim=True)).exp()[:, 0]]
            ranks = [int(better) for better in (logits > own).sum(dim=1)]
        top = self.settings.top
        return Verdict(
            scores,
            [
                score >= self.settings.probability and (top is None or rank < top)
                for score, rank in zip(scores, ranks, strict=True)
            ],
        )


FilterSettings = Annotated[BlankSettings | ClipScoreSettings, Field(discriminator="name")]


def build_filters(
    settings: Sequence[BlankSettings | ClipScoreSettings], prompts: Sequence[str], device: str = "cpu"
) -> list[Filter]:
    """The filters in the order in which they judge; `prompts` holds one sentence for each class."""
    filters: list[Filter] = []
    for one in settings:
        match one:
            case BlankSettings():
                filters.append(Blank(one))
            case ClipScoreSettings():
                filters.append(ClipScore(one, prompts, device))
    return filters
