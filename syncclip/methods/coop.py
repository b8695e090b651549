"""CoOp: a learned context around the class name instead of a hand-written context."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.methods.base import Method
from syncclip.methods.prompts import INITIAL_STD, context_tokens
from syncclip.methods.settings import CoOpSettings


class CoOp(Method):
    """Context optimisation (arXiv 2109.01134).

    A class prompt is [V1]...[Vn][name] with learned vectors V (equation 2 of the paper). The name can also be in the
    middle (equation 4) or at the front. The vectors are either shared by all classes or class-specific (section 3.2).
    The loss is cross entropy.

    Class-specific vectors are learned only for candidate classes. Without synthetic images, novel classes are not
    candidates, and only weight decay changes their vectors.

    Source: the paper and its published code. In the published code, setting initial words disables class-specific
    vectors; here, the words initialise the vectors of every class.
    """

    Settings = CoOpSettings

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: CoOpSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        self.tokens = context_tokens(clip, classnames, settings, settings.position)
        shape = *self.tokens.slots.shape, clip.text.width  # (C, n, width)
        if not settings.class_specific:
            shape = shape[1:]
        start, words = INITIAL_STD * torch.randn(shape), self.tokens.initial
        if words is not None:
            start = words.expand(shape).to(start, copy=True)
        self.text_prompts = nn.ParameterList([nn.Parameter(start)])

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        (context,) = self.text_prompts
        prompt = context[classes] if context.dim() == 3 else context
        return normalize(self.clip.encode_text(self.tokens[classes], [prompt]), dim=-1)
