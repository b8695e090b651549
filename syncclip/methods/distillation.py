"""Learning from a teacher's probabilities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax


def distillation(teacher: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """(B,) T^2 times the Kullback-Leibler divergence of the student from the teacher, summed over the classes.

    At temperature T, the student's scores l become softmax(l / T) and the teacher's probabilities p softmax(log p / T),
    the softmax of the teacher's scores divided by T. The factor T^2 preserves the gradient's magnitude.

    Args:
        teacher: (B, C) probabilities, without gradient; a row of zeros (no teacher) results in 0.
        scores: (B, C) scores of the student.

    Source: arXiv 1503.02531, section 2.
    """
    valid = teacher.sum(dim=-1, keepdim=True) > 0
    target = torch.softmax(teacher.clamp_min(torch.finfo(teacher.dtype).tiny).log() / temperature, dim=-1) * valid
    student = log_softmax(scores / temperature, dim=-1)
    return temperature**2 * kl_div(student, target.to(student.dtype), reduction="none").sum(dim=-1)
