"""Learning from a teacher's probabilities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax


def distillation(teacher: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """(B,) T^2 times the Kullback-Leibler divergence of the student from the teacher, summed over the classes.

    With student's scores l and teacher's probabilities p, at the temperature T both become softmax(l / T) and
    softmax(log p / T), which is the teacher's scores divided by T as well: a softmax doesn't change with what is added
    to all scores. T^2 keeps the gradient's size.

    Args:
        teacher: (B, C) probabilities, without gradient; an image with zeros only has no teacher, and 0 comes of it.
        scores: (B, C) of the student.

    Source: arXiv 1503.02531, section 2.
    """
    known = teacher.sum(dim=-1, keepdim=True) > 0
    target = torch.softmax(teacher.clamp_min(torch.finfo(teacher.dtype).tiny).log() / temperature, dim=-1) * known
    student = log_softmax(scores / temperature, dim=-1)
    return temperature**2 * kl_div(student, target.to(student.dtype), reduction="none").sum(dim=-1)
