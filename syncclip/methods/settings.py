"""What is particular to each method that learns prompts, and what all methods' settings have in common.

It stands apart from the methods, so that a recipe is read without torch.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field, StringConstraints, model_validator

from syncclip.core.settings import Position, Settings, Template, added

DataUse = Literal["real", "synthetic", "both"]
Negatives = Literal["hardest", "all"]
Phrase = Annotated[str, StringConstraints(strip_whitespace=True)]


class Optimisation(NamedTuple):
    """How a method learns by its paper, where that is not the recipe's SGD with a cosine over the epochs."""

    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    """SGD with the recipe's momentum, or Adam, with the decay in the gradient or apart from it (arXiv 1711.05101)."""
    weight_decay: float = 0.01
    eps: float = 1e-8
    by_step: bool = False
    """The rate follows a cosine from step to step, from the first on, and not from epoch to epoch behind a warm-up."""
    last_rate: float = 0.0
    """What that cosine would reach one step after the last."""
    first_stage: float = 1.0
    """Share of the steps, rounded down, after which that cosine begins once more, for a second stage."""

    def switch(self, steps: int) -> int:
        """The first step of the second stage, of so many in all."""
        return int(steps * self.first_stage)


class MethodSettings(Settings):
    """Settings of a method, which extends them in a class of its own, its attribute `Settings`.

    Attributes:
        data: what the method can learn from; empty if it learns nothing.
    """

    data: ClassVar[tuple[DataUse, ...]] = ("real", "synthetic", "both")
    learning_rate: float = Field(0.0025, gt=0)
    """Of SGD, at its peak after the warm-up."""

    @property
    def optimisation(self) -> Optimisation | None:
        """How the method learns; None: by the recipe's SGD."""
        return None

    @property
    def taught(self) -> bool:
        """Whether the method learns from a teacher's probabilities of the synthetic images."""
        return False

    @property
    def resamples(self) -> bool:
        """Whether a step draws random numbers, which are others where it is split otherwise."""
        return False


class ContextSettings(MethodSettings):
    """Settings of a learned context, which starts as the words of a phrase, one vector a word, or at random."""

    learning_rate: float = Field(0.002, gt=0)
    """Of SGD, at its peak after the warm-up."""
    initial_words: Phrase = ""
    """Words that the vectors start as; empty: random."""
    text_tokens: int | None = Field(None, ge=1, le=1024)
    """Learned vectors; None: one for each word of the phrase; without a phrase 16, or as many as a short context has
    room for."""

    @model_validator(mode="after")
    def _one_vector_a_word(self) -> ContextSettings:
        words = len(self.initial_words.split())
        if words and self.text_tokens not in (None, words):
            raise ValueError(
                f"text_tokens is {self.text_tokens}, but initial_words is {self.initial_words!r}: {words} word(s), "
                f"each of which starts one vector; set text_tokens=null, or give {self.text_tokens} words, or none"
            )
        return self


class ZeroShotSettings(MethodSettings):
    """Section `methods.zeroshot`."""

    data = ()
    templates: tuple[Template, ...] | None = Field(None, min_length=1)
    """Sentences whose features are averaged, with `{}` for the class name; None: the dataset's own one."""


class CoOpSettings(ContextSettings):
    """Section `methods.coop`."""

    position: Position = "end"
    """Where the class name stands among the learned words."""
    class_specific: bool = False
    """Each class has vectors of its own."""


class CoCoOpSettings(ContextSettings):
    """Section `methods.cocoop`."""

    initial_words: Phrase = "a photo of a"
    """Its words are what the learned vectors start as."""
    prompts_at_once: int | None = Field(256, ge=1)
    """Sentences in the text tower at a time; None: all. Larger numbers are encoded in turn, and recomputed for the
    gradient, so that memory depends neither on the batch nor on the number of classes."""


class KgCoOpSettings(CoOpSettings):
    """Section `methods.kgcoop`."""

    initial_words: Phrase = "a photo of a"
    """Its words are what the learned vectors start as."""
    knowledge_weight: float = Field(8.0, ge=0)
    """lambda of the paper: how strongly the texts are kept near the hand-written sentences."""
    template: Template | None = None
    """The hand-written sentences, with `{}` for the class name; None: the dataset's own."""


class TcpSettings(ContextSettings):
    """Section `methods.tcp`."""

    learning_rate: float = Field(0.002, gt=0)
    """Of Adam, at its peak after the warm-up."""
    text_tokens: int = Field(4, ge=1, le=1024)
    """Learned vectors at the input, which all classes share."""
    class_tokens: int = Field(4, ge=1, le=1024)
    """Vectors that each class has of its own further up; four in the published code, whatever the number above is."""
    block: int | None = Field(None, ge=2)
    """Before which block these take their places, a tower's first being 1; None: the ninth, or the last of a tower that
    has fewer."""
    suffix: Template | None = None
    """What stands behind the learned vectors, with `{}` for the class name; None: the name and what follows it in the
    dataset's template."""
    knowledge_weight: float = Field(8.0, ge=0)
    """How strongly the texts are kept near the hand-written sentences."""
    template: Template | None = None
    """The hand-written sentences, with `{}` for the class name; None: the dataset's own."""

    @property
    def optimisation(self) -> Optimisation:
        """The eps of the published code, which is there for half precision."""
        return Optimisation("adam", weight_decay=5e-4, eps=1e-3)


class VptSettings(MethodSettings):
    """Section `methods.vpt`."""

    visual_tokens: int = Field(8, ge=1, le=1024)
    """Learned vectors among the image tokens of each prompted block."""
    visual_depth: int | None = Field(None, ge=1)
    """Prompted blocks; 1: shallow; None: all."""
    template: Template | None = "a photo of a {}."
    """The frozen texts, with `{}` for the class name; None: the dataset's own."""


class IvlpSettings(MethodSettings):
    """Section `methods.ivlp`."""

    visual_tokens: int = Field(4, ge=1, le=1024)
    """Learned vectors among the image tokens of each prompted block."""
    text_tokens: int = Field(4, ge=1, le=1024)
    """Learned vectors among the text tokens of each prompted block."""
    visual_depth: int | None = Field(None, ge=1)
    """Prompted blocks; None: 9, or all of a tower that has fewer."""
    text_depth: int | None = Field(None, ge=1)
    """Prompted blocks of the text tower; None: 9, or all of a tower that has fewer."""
    initial_words: str = "a photo of a"
    """The text prompt starts as its first words, if it has at most four tokens."""


class MapleSettings(MethodSettings):
    """Section `methods.maple`."""

    learning_rate: float = Field(0.0035, gt=0)
    """Of SGD, at its peak after the warm-up."""
    text_tokens: int = Field(2, ge=1, le=1024)
    """Learned vectors in each prompted block, of either tower."""
    depth: int | None = Field(None, ge=1)
    """Prompted blocks of each tower; None: 9, or all of one that has fewer."""
    initial_words: str = "a photo of a"
    """The text prompt starts as its first words, if it has at most four tokens."""


class PromptSrcSettings(IvlpSettings):
    """Section `methods.promptsrc`."""

    text_weight: float = Field(25.0, ge=0)
    """w_t of the paper: how strongly text features are kept near the frozen ones."""
    image_weight: float = Field(10.0, ge=0)
    """w_v of the paper: how strongly image features are kept near the frozen ones."""
    logits_weight: float = Field(1.0, ge=0)
    """w_l of the paper: how strongly logits are kept near the frozen ones."""
    templates: tuple[Template, ...] | None = Field(None, min_length=1)
    """Of the frozen texts; None: the published ones that are not too long for this CLIP."""
    aggregation_mean: float = 15.0
    """Epoch with the largest weight in the final prompts; the first epoch is 1."""
    aggregation_std: float = Field(1.0, gt=0)
    """Spread of those weights, in epochs."""


class SyncClipSettings(IvlpSettings):
    """Section `methods.syncclip`."""

    domain_tokens: int = Field(2, ge=0, le=1024)
    """k of the paper: how many of the visual tokens each domain has of its own; 0: none."""
    synthetic_weight: float = Field(0.4, ge=0)
    """Of both cross entropies on synthetic images (L_SCE); 0 leaves them out."""
    alignment_weight: float = Field(0.1, ge=0)
    """Of the loss that aligns the features of both domains (L_FS); 0 leaves it out."""
    negatives: Negatives = "hardest"
    """Real features of other classes that a synthetic one is pushed away from."""
    distillation_weight: float = added(0.0, ge=0)
    """Of the divergence from a teacher on synthetic images, whose probabilities are in `training.teacher`; 0 leaves it
    out."""
    temperature: float = added(1.0, gt=0)
    """By which, in that divergence, the logits of both are divided before the softmax."""

    @property
    def taught(self) -> bool:
        return self.distillation_weight > 0

    @model_validator(mode="after")
    def _domain_within_visual(self) -> SyncClipSettings:
        if self.domain_tokens > self.visual_tokens:
            raise ValueError(
                f"domain_tokens is {self.domain_tokens}, but they are part of the visual_tokens, of which there "
                f"are only {self.visual_tokens}; lower domain_tokens or raise visual_tokens"
            )
        return self
