"""Learned class vectors in place of text features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from syncclip.core.settings import Template
from syncclip.methods.base import Method
from syncclip.methods.frozen import FrozenTexts, feature_length


class ClassVectors(Method):
    """Mixin for methods with a learned vector for each class, initialised with the class's prompt feature.

    Attributes:
        start: initial values of the vectors.
        vectors: (C, D) learned vectors, which are normalised in the scores; zero until the first step.
    """

    start: FrozenTexts
    vectors: nn.Parameter
    begun: bool

    def add_vectors(self, templates: Sequence[Template], raw: bool) -> None:
        """Add the vectors, which `begin_vectors` initialises.

        Args:
            templates: prompt templates, whose mean feature is the initial value.
            raw: whether to keep the length of the mean instead of normalising it.
        """
        self.start = FrozenTexts(self.clip, self.classnames, templates, raw=raw)
        self.vectors = nn.Parameter(torch.zeros(len(self.classnames), feature_length(self.clip)))
        self.begun = False

    def begin_vectors(self, step: int) -> None:
        """Initialise the vectors in the first step; called from `step_begins`."""
        self.begun = True
        if step == 0:
            with torch.no_grad():
                self.vectors.copy_(self.start())

    def vector_features(self, classes: slice) -> Tensor:
        """Return the unit-length vectors (C, D) for a slice of the classes; before training, the initial values."""
        vectors = self.vectors if self.begun or self.vectors.any() else self.start()
        return normalize(vectors[classes], dim=-1)
