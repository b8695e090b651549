"""Base class for all methods: frozen CLIP model, learnable prompts, scores over all classes and named loss terms."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.methods.parallel import WorkSplit
from syncclip.methods.settings import MethodSettings, TestDomain


class TrainingBatch(Protocol):
    """Input to a loss: real images, then synthetic images of the same classes in the same order, then synthetic images
    of novel classes. Each group of images may be empty."""

    @property
    def images(self) -> Tensor:
        """Normalised images (N, 3, H, W), in float32."""

    @property
    def labels(self) -> Tensor:
        """Class ids (N,) in the list of all classes."""

    @property
    def domains(self) -> Tensor:
        """Domain (N,) of each image: 0 for real, 1 for synthetic."""

    @property
    def sizes(self) -> Sequence[int]:
        """Group sizes (real, seen, novel), which sum to N."""

    @property
    def teacher(self) -> Tensor | None:
        """Soft labels (N, C) over all classes, in float32, or None without a teacher. Rows for images without soft
        labels, such as real images, are zero."""


class Method(nn.Module):
    """Base class for methods: a frozen CLIP model with learned parameters.

    The state dict contains only the learned parameters. `to()` also moves the CLIP model, which is not registered as a
    submodule.

    Attributes:
        Settings: the method's settings class, which also declares the supported training data.
        text_depends_on_image: whether text features depend on the image (`logits` is overridden).
        has_extra_scores: whether scores include more than cosine similarities (`scores` is overridden).
        has_several_image_features: whether scores use several features per image (`logits_given` is overridden).
        base: number of base classes, which have real training images and come first.
        known: number of leading classes with real training images; 0 if the classes are not the training classes.
        weights: loss weights, keyed by the name of the loss term; a missing term has weight 1.
        work: how a training step is split across ranks and chunks; set by the training loop.
        prepares: number of augmented views of the training images required by `prepare`.
        prepares_all: whether each view contains every selected synthetic image, not only those of the first epoch.
        trains: whether to run training steps after `prepare`.
    """

    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    text_depends_on_image: ClassVar[bool] = False
    has_extra_scores: ClassVar[bool] = False
    has_several_image_features: bool = False
    clip: PromptedClip
    prepares: int = 0
    prepares_all: ClassVar[bool] = False
    trains: bool = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.text_depends_on_image = cls.logits is not Method.logits
        cls.has_extra_scores = cls.scores is not Method.scores
        cls.has_several_image_features = cls.logits_given is not Method.logits_given

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: MethodSettings
    ) -> None:
        super().__init__()
        assert 0 < base <= len(classnames), (base, len(classnames))
        object.__setattr__(self, "clip", clip)  # bypasses nn.Module, which would register it
        self.classnames = list(classnames)
        self.base = self.known = base
        self.template = template
        self.settings, self.trains = settings, self.trains and settings.trains
        self.weights: Mapping[str, float] = {}
        self.work = WorkSplit()
        self._cached_text: tuple[tuple[int, ...], Tensor] | None = None

    @abstractmethod
    def text_features(self, classes: slice = slice(None)) -> Tensor:
        """Return the unit-length text features (C, D) for a slice of the classes, by default for all classes."""

    def image_features(self, images: Tensor, domains: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Return the unnormalised image features (B, D).

        Args:
            domains: domain (B,) of each image, 0 for real and 1 for synthetic. By default, all images are treated as
                real, as in evaluation.
        """
        return self.clip.encode_images(images)

    def candidate_features(self, count: int) -> Tensor:
        """Return the `text_features` (count, D) of the first `count` classes for use in a loss; each rank encodes a
        subset of the classes."""
        return self.work.texts(self.text_features, count)

    def loss_features(self, images: Tensor, domains: Tensor | None = None) -> Tensor:
        """Return the `image_features` (B, D) for use in a loss, encoded in chunks with gradient checkpointing."""
        return self.work.images(self.image_features, images, domains)

    def scores(self, images: Tensor, text: Tensor) -> Tensor:
        """Return the scores (B, C): scaled cosine similarities of image and text features.

        SigLIP's bias is added, but does not change the softmax in losses and evaluation.

        Args:
            images: (B, D) raw image features.
            text: (C, D) or (B, C, D) unit-length text features.
        """
        images = normalize(images, dim=-1)
        cosines = images @ text.T if text.dim() == 2 else torch.einsum("bd,bcd->bc", images, text)
        scores = self.clip.logit_scale * cosines
        return scores if self.clip.logit_bias is None else scores + self.clip.logit_bias

    def logits(self, images: Tensor, domains: Tensor | None = None) -> Tensor:
        """Return scores (B, C) over all classes. In evaluation mode without gradients, text features are cached."""
        return self.logits_given(self._text_features_once(), images, domains)

    def logits_given(self, text: Tensor, images: Tensor, domains: Tensor | None = None) -> Tensor:
        """Return the `logits` (B, C), given precomputed text features (C, D) of all classes."""
        return self.scores(self.image_features(images, domains), text)

    def logits_by_domain(self, images: Tensor, domains: Sequence[TestDomain | None]) -> list[Tensor]:
        """Return the `logits` (B, C) of test images encoded with the prompts of each domain (None: the default).

        Overridden by methods whose settings list several `test_domains`.
        """
        assert {*domains} <= {None}, domains
        return [self.logits(images)]

    def candidates(self, batch: TrainingBatch) -> int:
        """Return the number of candidate classes: all classes if the batch contains synthetic images, otherwise the
        base classes."""
        return len(self.classnames) if any(batch.sizes[1:]) else self.base

    def terms(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Return the unweighted loss terms by name; by default, the cross entropy over all images in the batch."""
        text = self.candidate_features(self.candidates(batch))
        return {"classification": cross_entropy(self.scores(self.loss_features(batch.images), text), batch.labels)}

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Return the loss terms and their weighted sum, "total". If there is only one term, its weight is 1."""
        terms = self.terms(batch)
        weights = self.weights if len(terms) > 1 else {}
        return {**terms, "total": torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()}

    def prepare(self, views: Iterable[Iterable[TrainingBatch]]) -> None:
        """Hook called on every rank before the first step, if `prepares` > 0.

        Store results in parameters or `memory`. A resumed run reads the results from its checkpoint or recomputes them,
        so results must be deterministic and identical on all ranks.

        Args:
            views: passes over this rank's batches in the first epoch or, with `prepares_all`, over all of its real and
                then all of its synthetic images. All passes contain the same images in the same order, with different
                augmentations. Images that pad the last batch of a pass have label -1; without `prepares_all`, this
                applies to real images only.
        """

    def meet_teacher(self, class_vectors: Tensor) -> None:
        """Hook called with the teacher's unit-length class vectors (C, D_t) whenever training with a teacher starts."""

    def step_begins(self, step: int, steps: int) -> None:
        """Hook called on every rank before each step (0 to `steps` - 1); a resumed run skips completed steps."""

    def epoch_ended(self, done: int, epochs: int) -> None:
        """Hook called on every rank after each epoch, when `done` of `epochs` epochs are complete.

        Keep state that must persist across epochs in `memory`. The run's result is the parameters after the last call.
        """

    def memory(self) -> dict[str, Tensor]:
        """Return tensors that are saved in checkpoints but not in results; resuming restores them in place."""
        return {}

    def train(self, mode: bool = True) -> Method:
        self._cached_text = None
        return super().train(mode)

    def _text_features_once(self) -> Tensor:
        if self.training or torch.is_grad_enabled():
            return self.text_features()
        versions = tuple(parameter._version for parameter in self.parameters())
        if self._cached_text is None or self._cached_text[0] != versions:
            self._cached_text = (versions, self.text_features())
        return self._cached_text[1]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self._cached_text = None
        self.clip._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
