"""What all methods share: a frozen CLIP, learnable prompts, scores over all classes, a loss of named terms."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import Settings
from syncclip.methods.parallel import WorkSplit

DataUse = Literal["real", "synthetic", "both"]


class MethodSettings(Settings):
    """Settings of a method; each method adds its own in a nested class `Settings`."""

    learning_rate: float = Field(0.0025, gt=0)


class TrainingBatch(Protocol):
    """What a loss is computed from: three groups of images, one behind the other; any may be empty.

    Real ones; synthetic ones of the same classes, row by row; synthetic ones of novel classes.
    """

    @property
    def images(self) -> Tensor:
        """(N, 3, H, W) float32, normalised."""

    @property
    def labels(self) -> Tensor:
        """(N,) class ids, over all classes."""

    @property
    def domains(self) -> Tensor:
        """(N,) 0 for real, 1 for synthetic."""

    @property
    def sizes(self) -> Sequence[int]:
        """(real, seen, novel), of sum N."""


class Method(nn.Module):
    """A frozen CLIP and what is learned around it.

    Parameters and state dict hold only what is learned; the CLIP moves with the method, but is not part of it.

    Attributes:
        data: what the method may be trained on; empty where nothing is learned.
        base: the first so many classes are the ones with real training images.
        weights: what the terms of the loss are weighted with; 1 where not named.
        work: how the work of a training step is divided; the loop sets it while it trains.
    """

    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    data: ClassVar[tuple[DataUse, ...]] = ("real", "synthetic", "both")
    clip: PromptedClip

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: MethodSettings
    ) -> None:
        super().__init__()
        assert 0 < base <= len(classnames), (base, len(classnames))
        object.__setattr__(self, "clip", clip)  # past nn.Module, which would make it a part
        self.classnames = list(classnames)
        self.base = base
        self.template = template
        self.settings = settings
        self.weights: Mapping[str, float] = {}
        self.work = WorkSplit()
        self._evaluated: tuple[tuple[int, ...], Tensor] | None = None

    @abstractmethod
    def text_features(self, classes: slice = slice(None)) -> Tensor:
        """(C, D) features of all classes, or of some, of length 1."""

    def image_features(self, images: Tensor, domains: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """(B, D) features of images, not normalised.

        Args:
            domains: (B,) 0 for real, 1 for synthetic; None: all real, as at test time.
        """
        return self.clip.encode_images(images)

    def candidate_features(self, count: int) -> Tensor:
        """(count, D) `text_features` of the first classes, for a loss: the ranks of a training share the work."""
        return self.work.texts(self.text_features, count)

    def loss_features(self, images: Tensor, domains: Tensor | None = None) -> Tensor:
        """(B, D) `image_features`, for a loss: piece by piece where the training's memory wants it."""
        return self.work.images(self.image_features, images, domains)

    def scores(self, images: Tensor, text: Tensor) -> Tensor:
        """(B, C) scaled cosines of raw image features (B, D) with normalised text features (C, D), or (B, C, D).

        SigLIP's bias is added, and with it these are the logits of its sigmoids. Losses and evaluation take the softmax
        of them nevertheless, as all methods here do, and to a softmax a bias makes no difference.
        """
        images = normalize(images, dim=-1)
        cosines = images @ text.T if text.dim() == 2 else torch.einsum("bd,bcd->bc", images, text)
        scores = self.clip.logit_scale * cosines
        return scores if self.clip.logit_bias is None else scores + self.clip.logit_bias

    def logits(self, images: Tensor, domains: Tensor | None = None) -> Tensor:
        """(B, C) scores over all classes; in evaluation mode and without gradients, texts are encoded only once."""
        return self.scores(self.image_features(images, domains), self._text_features_once())

    def candidates(self, batch: TrainingBatch) -> int:
        """Among so many first classes a batch's images are told apart.

        Real images alone among base classes, as there are no others; with synthetic images, among all.
        """
        return len(self.classnames) if any(batch.sizes[1:]) else self.base

    def terms(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The parts of the loss by name, unweighted; here one cross entropy, whatever an image's origin."""
        text = self.candidate_features(self.candidates(batch))
        return {"classification": cross_entropy(self.scores(self.loss_features(batch.images), text), batch.labels)}

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The terms and their weighted sum, "total"; a term that stands alone is not weighted."""
        terms = self.terms(batch)
        weights = self.weights if len(terms) > 1 else {}
        return {**terms, "total": torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()}

    def epoch_ended(self, done: int, epochs: int) -> None:
        """Told by the training loop after the last step of an epoch, on every rank, when `done` of `epochs` are over.

        What is carried from one epoch to the next belongs into `memory`. The parameters as they are after the last
        call are the training's result.
        """

    def memory(self) -> dict[str, Tensor]:
        """What training carries from epoch to epoch beside the parameters; checkpoints hold it, results do not.

        A resumed training writes into these tensors.
        """
        return {}

    def train(self, mode: bool = True) -> Method:
        self._evaluated = None
        return super().train(mode)

    def _text_features_once(self) -> Tensor:
        if self.training or torch.is_grad_enabled():
            return self.text_features()
        state = tuple(parameter._version for parameter in self.parameters())
        if self._evaluated is None or self._evaluated[0] != state:
            self._evaluated = (state, self.text_features())
        return self._evaluated[1]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self._evaluated = None
        self.clip._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
