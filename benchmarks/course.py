"""Inputs of the comparison in `methods.py`: CLIP model, classes, images and both formulations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import open_clip
import torch
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from benchmarks.plain import Plain
from benchmarks.plain_weights import ALL
from syncclip.clip.backbone import Backbone
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.methods import METHODS, Method, MethodSettings, build_method
from syncclip.methods.frozen import FrozenTexts
from syncclip.methods.promptsrc import PromptSrc

MODEL = "ViT-B-16-quickgelu"  # as in the published settings
TEMPLATE = "a photo of a {}."


class Batch(NamedTuple):
    """A training batch of noise; see `syncclip.methods.TrainingBatch`."""

    images: Tensor
    labels: Tensor
    domains: Tensor
    sizes: tuple[int, int, int]
    teacher: Tensor | None = None


@dataclass(frozen=True)
class Classes:
    """Dataset properties that a method requires: class names, base classes and template."""

    classnames: Sequence[str]
    base: Sequence[int]
    template: str = TEMPLATE


@dataclass(frozen=True)
class Entrants:
    """Both formulations of a method with the same weights.

    Attributes:
        batch: training batch with the authors' batch size and domains.
        tests: images (B, 3, H, W) of an evaluation batch.
    """

    name: str
    ours: Method
    plain: Plain
    batch: Batch
    tests: Tensor


@dataclass(frozen=True)
class Course:
    """Conditions of a comparison.

    Args:
        classes: number of classes, evenly spaced among ImageNet's 1,000; SYNC-CLIP has real images of the first half.
        batch: real images per step; SYNC-CLIP adds twice as many synthetic images.
        tests: images per evaluation batch.
        model: name of an open_clip model.
    """

    classes: int = 100
    batch: int = 8
    tests: int = 100
    precision: Literal["fp32", "bf16"] = "fp32"
    device: str = "cpu"
    model: str = MODEL

    def __post_init__(self) -> None:
        if not 2 <= self.classes <= len(IMAGENET_CLASSNAMES):
            raise UserError(f"--classes: {self.classes} is not between 2 and {len(IMAGENET_CLASSNAMES)}")

    @cached_property
    def clip(self) -> PromptedClip:
        """CLIP model with random weights, since speed and memory do not depend on the weights."""
        torch.manual_seed(0)
        model = open_clip.create_model(self.model, pretrained=None)
        backbone = Backbone(
            name=self.model,
            model=model,
            tokenizer=open_clip.get_tokenizer(self.model),
            preprocess=pil_to_tensor,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            image_size=model.visual.image_size[0],
            precision=self.precision,
        )
        return PromptedClip(backbone).to(self.device)

    @cached_property
    def classnames(self) -> list[str]:
        total = len(IMAGENET_CLASSNAMES)
        return [IMAGENET_CLASSNAMES[i * total // self.classes] for i in range(self.classes)]

    def entrants(self, name: str) -> Entrants:
        """Return both formulations of a method in `METHODS`, with its frozen texts already encoded."""
        domains = 3 if name == "syncclip" else 1
        uses_teacher = METHODS[name].Settings().uses_teacher  # trains only on synthetic images
        base = (self.classes + 1) // 2 if domains > 1 else self.classes
        ours = build_method(name, self.clip, Classes(self.classnames, range(base)), _settings(name), seed=0)
        ours = ours.to(self.device)
        ours.step_begins(0, 2)
        for module in ours.modules():
            if isinstance(module, FrozenTexts):
                module()
        chance = torch.Generator().manual_seed(0)
        labels = torch.randint(base, (self.batch,), generator=chance)
        novel = torch.randint(min(base, self.classes - 1), self.classes, (self.batch,), generator=chance)
        size = self.clip.backbone.image_size
        batch = Batch(
            images=torch.randn(domains * self.batch, 3, size, size, generator=chance).to(self.device),
            labels=torch.cat([labels, labels, novel][:domains]).to(self.device),
            domains=torch.tensor([0, 1, 1][:domains]).repeat_interleave(self.batch).to(self.device),
            sizes=(self.batch, self.batch, self.batch) if domains > 1 else (self.batch, 0, 0),
        )
        if uses_teacher:
            teacher = torch.rand(self.batch, self.classes, generator=chance).softmax(dim=1).to(self.device)
            batch = batch._replace(domains=torch.ones_like(batch.domains), sizes=(0, self.batch, 0), teacher=teacher)
            ours.meet_teacher(torch.nn.functional.normalize(torch.randn(ours.text_features().shape), dim=-1))
        tests = torch.randn(self.tests, 3, size, size, generator=chance).to(self.device)
        return Entrants(name, ours, ALL[name](ours), batch, tests)


def _settings(name: str) -> MethodSettings:
    """Return the method's default settings, with one template for PromptSRC's frozen texts, which no step encodes."""
    return PromptSrc.Settings(templates=(TEMPLATE,)) if name == "promptsrc" else METHODS[name].Settings()
