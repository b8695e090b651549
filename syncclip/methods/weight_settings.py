"""What is particular to each method that learns weights, heads, adapters or tokens of a space of its own."""

from __future__ import annotations

from pydantic import Field

from syncclip.methods.settings import MethodSettings


class PromptKdSettings(MethodSettings):
    """Section `methods.promptkd`."""

    data = ("synthetic", "both")
    learning_rate: float = Field(0.005, gt=0)
    """Of SGD, at its peak after the warm-up."""
    visual_tokens: int = Field(4, ge=1)
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
