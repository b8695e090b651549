"""What is particular to each method that learns weights, heads, adapters or tokens of a space of its own."""

from __future__ import annotations

from pydantic import Field, field_validator

from syncclip.methods.settings import MethodSettings, Optimisation


class MmrlSettings(MethodSettings):
    """Section `methods.mmrl`."""

    learning_rate: float = Field(0.001, gt=0)
    """Of AdamW, at its peak after the warm-up."""
    layers: tuple[int, ...] | None = Field(None, min_length=1)
    """Blocks that the tokens enter, a tower's first being 1; None: the sixth to the last of the shorter tower, or only
    its last if it has fewer than six."""
    tokens: int = Field(5, ge=1)
    """K of the paper: learned tokens, shared by all layers and both towers."""
    dim: int = Field(512, ge=1)
    """Length of a token in the shared space, from which each layer maps it to a tower's width."""
    class_weight: float = Field(0.7, ge=0, le=1)
    """alpha of the paper: the class token's share in the loss, and in the scores of base classes; the learned tokens
    have the rest."""
    regularisation_weight: float = Field(0.5, ge=0)
    """lambda of the paper: how strongly class-token and text features are kept near the frozen ones. Published are 0.01
    to 7 by dataset, 0.5 on ImageNet."""

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
