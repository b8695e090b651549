"""The base of all methods: a frozen CLIP, learnable prompts, scores over all classes, and a loss of named terms."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.methods.parallel import WorkSplit
from syncclip.methods.settings import MethodSettings


class TrainingBatch(Protocol):
    """The input of a loss: three consecutive groups of images, each of which may be empty.

    Real images; synthetic images of the same classes, row by row; synthetic images of novel classes.
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

    @property
    def teacher(self) -> Tensor | None:
        """(N, C) float32, a teacher's probabilities of all classes; zeros for images it was not asked about, as real
        ones. None without a teacher."""


class Method(nn.Module):
    """A frozen CLIP and what is learned around it.

    Parameters and state dict have only what is learned; the CLIP moves with the method, but is not part of it.

    Attributes:
        Settings: the class of its settings, which also tells what it can learn from.
        base: number of classes that have real training images, which come first.
        known: number of classes, from the first, that have been learned from real images; 0 among others than those of
            the training.
        weights: of the loss terms; 1 where not given.
        work: how a training step is split; set by the training loop.
        prepares: how many views of its training images the method has to see before the first step, see `prepare`.
        trains: whether steps follow; otherwise what `prepare` made is all that is learned.
    """

    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    clip: PromptedClip
    prepares: int = 0
    trains: bool = True

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: MethodSettings
    ) -> None:
        super().__init__()
        assert 0 < base <= len(classnames), (base, len(classnames))
        object.__setattr__(self, "clip", clip)  # bypasses nn.Module, which would register it
        self.classnames = list(classnames)
        self.base = self.known = base
        self.template = template
        self.settings = settings
        self.weights: Mapping[str, float] = {}
        self.work = WorkSplit()
        self._evaluated: tuple[tuple[int, ...], Tensor] | None = None

    @abstractmethod
    def text_features(self, classes: slice = slice(None)) -> Tensor:
        """(C, D) features of all classes, or of a slice of them, of length 1."""

    def image_features(self, images: Tensor, domains: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """(B, D) features of images, not normalised.

        Args:
            domains: (B,) 0 for real, 1 for synthetic; None: all real, as in evaluation.
        """
        return self.clip.encode_images(images)

    def candidate_features(self, count: int) -> Tensor:
        """(count, D) `text_features` of the first classes, for a loss; the ranks of a training share the work."""
        return self.work.texts(self.text_features, count)

    def loss_features(self, images: Tensor, domains: Tensor | None = None) -> Tensor:
        """(B, D) `image_features`, for a loss; in pieces if the training accumulates gradients."""
        return self.work.images(self.image_features, images, domains)

    def scores(self, images: Tensor, text: Tensor) -> Tensor:
        """(B, C) scaled cosines of raw image features (B, D) with normalised text features (C, D), or (B, C, D).

        SigLIP's bias is added, so that these are the logits of its sigmoids. Losses and evaluation of all methods here
        use their softmax nevertheless, which a bias does not change.
        """
        images = normalize(images, dim=-1)
        cosines = images @ text.T if text.dim() == 2 else torch.einsum("bd,bcd->bc", images, text)
        scores = self.clip.logit_scale * cosines
        return scores if self.clip.logit_bias is None else scores + self.clip.logit_bias

    def logits(self, images: Tensor, domains: Tensor | None = None) -> Tensor:
        """(B, C) scores over all classes; in evaluation mode without gradients, texts are encoded only once."""
        return self.logits_given(self._text_features_once(), images, domains)

    def logits_given(self, text: Tensor, images: Tensor, domains: Tensor | None = None) -> Tensor:
        """`logits`, where the text features (C, D) of all classes are known already."""
        return self.scores(self.image_features(images, domains), text)

    def candidates(self, batch: TrainingBatch) -> int:
        """Number of classes, from the first, among which a batch's images are classified.

        The base classes for real images only, as there are no others; all classes with synthetic images.
        """
        return len(self.classnames) if any(batch.sizes[1:]) else self.base

    def terms(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The unweighted terms of the loss by name; here one cross entropy over real and synthetic images."""
        text = self.candidate_features(self.candidates(batch))
        return {"classification": cross_entropy(self.scores(self.loss_features(batch.images), text), batch.labels)}

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The terms and their weighted sum, "total"; a single term is not weighted."""
        terms = self.terms(batch)
        weights = self.weights if len(terms) > 1 else {}
        return {**terms, "total": torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()}

    def prepare(self, views: Iterable[Iterable[TrainingBatch]]) -> None:
        """Called by the training loop on every rank before the first step, if the method asks for views.

        What it makes of the images belongs in parameters or in `memory`, is the same on every rank, and takes no random
        numbers: a resumed training finds it in its checkpoint, or makes it again.

        Args:
            views: passes over this rank's batches of the first epoch. All have the same images in the same order, each
                with crops and flips of its own. Real images that a pass shows again, to fill its last batch, have the
                label -1.
        """

    def meet_teacher(self, class_vectors: Tensor) -> None:
        """Called before a training with a teacher, also before one that is resumed.

        Args:
            class_vectors: (C, D_t) the teacher's, of length 1.
        """

    def step_begins(self, step: int, steps: int) -> None:
        """Called by the training loop on every rank before each step, counted from 0, of so many in all.

        For a method that learns in stages. A resumed training begins at a step in the middle.
        """

    def epoch_ended(self, done: int, epochs: int) -> None:
        """Called by the training loop on every rank after the last step of an epoch, when `done` of `epochs` are over.

        State that is carried from epoch to epoch belongs in `memory`. The parameters after the last call are the
        training's result.
        """

    def memory(self) -> dict[str, Tensor]:
        """State besides the parameters that is carried from epoch to epoch; saved in checkpoints, but not in results.

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
