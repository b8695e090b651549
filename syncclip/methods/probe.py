"""Linear probe: a learned vector for each class, which starts as the feature of its sentence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.core.text import fill, spoken
from syncclip.methods.base import Method
from syncclip.methods.weight_settings import ProbeSettings


class Probe(Method):
    """The linear probe of CLAP (arXiv 2312.12730), which starts as the zero-shot classifier.

    The vector w of a class starts as the mean feature of its sentences, these not normalised, and enters the scores at
    length 1. Images see the frozen vision tower. The loss is the cross entropy.

    A class's vector is learned only where it is a candidate. Without weight decay, those of novel classes without
    images keep their start to the bit, and so their zero-shot scores.

    Source: the paper and its published code, from which two things differ. Underscores in class names are spaces here,
    as for all methods; there they stay. The images are cropped and encoded anew in each step; there, the features of 20
    crops of each are computed once.
    """

    Settings = ProbeSettings

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: ProbeSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        names = [spoken(name) for name in classnames]
        with torch.no_grad():
            each = [clip.encode_text(clip.texts(fill(one, names))) for one in settings.templates or (template,)]
        self.vectors = nn.Parameter(torch.stack(each).mean(dim=0))

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return normalize(self.vectors[classes], dim=-1)
