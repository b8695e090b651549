"""What is particular to each method that learns weights, heads, adapters or tokens of a space of its own.

It stands apart from the methods, so that a recipe is read without torch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from syncclip.core.settings import Template
from syncclip.methods.settings import MethodSettings, Negatives, Optimisation

Towers = Literal["both", "text", "vision"]
Projection = Literal["q", "k", "v", "out"]


class ProbeSettings(MethodSettings):
    """Section `methods.probe`."""

    learning_rate: float = Field(0.1, gt=0)
    """Of SGD without weight decay, at its peak after the warm-up."""
    templates: tuple[Template, ...] | None = Field(None, min_length=1)
    """Sentences whose mean feature a class's vector starts as, with `{}` for its name; None: the dataset's own one."""
    constraint: bool = False
    """Each class's vector is kept near its start, the more the better CLIP knows the class (CLAP)."""

    @property
    def optimisation(self) -> Optimisation:
        """SGD that leaves a class without images where it started."""
        return Optimisation("sgd", weight_decay=0.0)


class TipSettings(MethodSettings):
    """Section `methods.tip`."""

    learning_rate: float = Field(0.001, gt=0)
    """Of AdamW, at the first step."""
    finetune: bool = True
    """The keys are trained (Tip-Adapter-F); otherwise they are the images' features, and nothing is trained."""
    alpha: float = Field(1.17, ge=0)
    """Weight of the cache's scores beside the zero-shot ones."""
    beta: float = Field(1.0, ge=0)
    """How much nearer keys count more."""
    cache_size: int = Field(16, ge=1, le=1024)
    """Keys of a class. Of more images than that, several share one, as their mean."""
    views: int = Field(10, ge=1)
    """Crops and flips of an image whose mean feature is its key."""
    templates: tuple[Template, ...] | None = Field(None, min_length=1)
    """Sentences of every class, with `{}` for its name; None: the dataset's own one."""

    @property
    def optimisation(self) -> Optimisation:
        """AdamW, whose rate falls from step to step."""
        return Optimisation("adamw", weight_decay=0.01, eps=1e-4, by_step=True)


class ClipLoraSettings(MethodSettings):
    """Section `methods.cliplora`."""

    learning_rate: float = Field(2e-4, gt=0)
    """Of AdamW, at the first step."""
    rank: int = Field(2, ge=1)
    """r of the paper: columns of B and rows of A."""
    alpha: float = Field(1.0, gt=0)
    """The update is multiplied by alpha / sqrt(rank)."""
    dropout: float = Field(0.25, ge=0, lt=1)
    """Share of the update's input that is left out at each step of a training."""
    projections: tuple[Projection, ...] = Field(("q", "k", "v"), min_length=1)
    """Matrices of each attention that are updated: of query, key, value and output."""
    towers: Towers = "both"
    """Which of them are updated."""
    domain_rank: int = Field(0, ge=0, le=16384)
    """Rank of an update of its own that each domain has in the vision tower beside the shared one, with the losses of
    SYNC-CLIP; 0: none, and one cross entropy, as published."""
    synthetic_weight: float = Field(0.4, ge=0)
    """With a `domain_rank`: as in `methods.syncclip`."""
    alignment_weight: float = Field(0.1, ge=0)
    """With a `domain_rank`: as in `methods.syncclip`."""
    negatives: Negatives = "hardest"
    """With a `domain_rank`: as in `methods.syncclip`."""

    @model_validator(mode="after")
    def _domains_in_a_tower_that_learns(self) -> ClipLoraSettings:
        if self.domain_rank and self.towers == "text":
            raise ValueError(
                f"domain_rank is {self.domain_rank}, but towers=text leaves the vision tower, in which domains differ, "
                "as it is; set towers=both or domain_rank=0"
            )
        return self

    @property
    def optimisation(self) -> Optimisation:
        return Optimisation("adamw", weight_decay=0.01, by_step=True, last_rate=1e-6)

    @property
    def resamples(self) -> bool:
        return self.dropout > 0


class TwoStageSettings(MethodSettings):
    """Section `methods.twostage`."""

    learning_rate: float = Field(2e-4, gt=0)
    """Of AdamW, at the first step of each stage."""
    first_stage: float = Field(0.6, gt=0, lt=1)
    """Share of the steps in which the norms learn; in the others the class vectors do."""
    towers: Towers = "both"
    """Whose norms learn."""
    first_visual_block: int = Field(1, ge=1)
    """First block of the vision tower whose norms learn, counted from 1."""
    first_text_block: int = Field(1, ge=1)
    """First block of the text tower whose norms learn, counted from 1."""

    @property
    def optimisation(self) -> Optimisation:
        return Optimisation("adamw", weight_decay=0.01, by_step=True, last_rate=1e-6, first_stage=self.first_stage)


class MmaSettings(MethodSettings):
    """Section `methods.mma`."""

    learning_rate: float = Field(0.0015, gt=0)
    """Of SGD, at its peak after the warm-up."""
    width: int = Field(32, ge=1, le=16384)
    """Of the adapters' inner layers."""
    scale: float = Field(0.001, gt=0)
    """Of what an adapter adds to its block's output."""
    first_block: int | None = Field(None, ge=1)
    """First block that has an adapter, counted from 1; None: 5, or 1 where a tower has fewer than five blocks."""
    last_block: int | None = Field(None, ge=1)
    """Last block that has one; None: the last that both towers have."""
    template: Template | None = "a photo of a {}."
    """The texts, with `{}` for the class name; None: the dataset's own."""


class MmrlSettings(MethodSettings):
    """Section `methods.mmrl`."""

    learning_rate: float = Field(0.001, gt=0)
    """Of AdamW, at its peak after the warm-up."""
    layers: tuple[int, ...] | None = Field(None, min_length=1)
    """Blocks that the tokens enter, a tower's first being 1; None: the sixth to the last of the shorter tower, or only
    its last if it has fewer than six."""
    tokens: int = Field(5, ge=1, le=1024)
    """K of the paper: learned tokens, shared by all layers and both towers."""
    dim: int = Field(512, ge=1, le=16384)
    """Length of a token in the shared space, from which each layer maps it to a tower's width."""
    class_weight: float = Field(0.7, ge=0, le=1)
    """alpha of the paper: the class token's share in the loss, and in the scores of base classes; the learned tokens
    have the rest."""
    regularisation_weight: float = Field(0.5, ge=0)
    """lambda of the paper: how strongly class-token and text features are kept near the frozen ones. Published are 0.01
    to 7 by dataset, 0.5 on ImageNet."""
    domain_tokens: int = Field(0, ge=0, le=1024)
    """How many of the tokens each domain has of its own in the vision tower, with the losses of SYNC-CLIP; 0: none, as
    published."""
    synthetic_weight: float = Field(0.4, ge=0)
    """With `domain_tokens`: as in `methods.syncclip`."""
    alignment_weight: float = Field(0.1, ge=0)
    """With `domain_tokens`: as in `methods.syncclip`."""
    negatives: Negatives = "hardest"
    """With `domain_tokens`: as in `methods.syncclip`."""

    @model_validator(mode="after")
    def _domain_within_tokens(self) -> MmrlSettings:
        if self.domain_tokens > self.tokens:
            raise ValueError(
                f"domain_tokens is {self.domain_tokens}, but they are part of the tokens, of which there are only "
                f"{self.tokens}; lower domain_tokens or raise tokens"
            )
        return self

    @field_validator("layers")
    @classmethod
    def _in_order(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if layers is not None and (layers[0] < 1 or list(layers) != sorted({*layers})):
            raise ValueError(f"{list(layers)} are no blocks in ascending order, of which the first is 1")
        return layers

    @property
    def optimisation(self) -> Optimisation:
        """The authors' framework decays as its SGD does, though by AdamW."""
        return Optimisation("adamw", weight_decay=5e-4)


class PromptKdSettings(MethodSettings):
    """Section `methods.promptkd`."""

    data = ("synthetic", "both")
    learning_rate: float = Field(0.005, gt=0)
    """Of SGD, at its peak after the warm-up."""
    visual_tokens: int = Field(4, ge=1, le=1024)
    """Learned vectors among the image tokens of each prompted block."""
    visual_depth: int | None = Field(None, ge=1)
    """Prompted blocks; None: 9, or all of a tower that has fewer."""
    temperature: float = Field(1.0, gt=0)
    """By which the logits of teacher and student are divided before the softmax."""
    distillation_weight: float = Field(1000.0, gt=0)
    """Of the divergence from the teacher; the paper has 200 for datasets of few classes or fine differences."""
    teacher_dim: int | None = Field(None, ge=1)
    """Length of the teacher's class vectors; None: as the files of `training.teacher` have them."""

    @property
    def taught(self) -> bool:
        return True
