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

    @property
    def optimisation(self) -> Optimisation:
        """SGD that leaves a class without images where it started."""
        return Optimisation("sgd", weight_decay=0.0)
