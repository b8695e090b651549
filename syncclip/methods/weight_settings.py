"""What is particular to each method that learns weights, heads, adapters or tokens of a space of its own.

It stands apart from the methods, so that a recipe is read without torch.
"""

from __future__ import annotations

from pydantic import Field

from syncclip.core.settings import Template
from syncclip.methods.settings import MethodSettings, Optimisation


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
    slots: int = Field(16, ge=1)
    """Keys of a class. Of more images than that, several share one, as their mean."""
    views: int = Field(10, ge=1)
    """Crops and flips of an image whose mean feature is its key."""
    templates: tuple[Template, ...] | None = Field(None, min_length=1)
    """Sentences of every class, with `{}` for its name; None: the dataset's own one."""

    @property
    def optimisation(self) -> Optimisation:
        """AdamW, whose rate falls from step to step."""
        return Optimisation("adamw", weight_decay=0.01, eps=1e-4, by_step=True)
