"""Zero-shot classification by ensembles of templates."""

from __future__ import annotations

import pytest
import torch

from syncclip.clip.prompted import PromptedClip
from syncclip.methods import build_method
from syncclip.methods.zeroshot import ZeroShot
from tests.methods.classes import DATASET


def test_zero_shot_of_one_template_twice_is_that_template(clip: PromptedClip) -> None:
    once = build_method("zeroshot", clip, DATASET)
    twice = build_method("zeroshot", clip, DATASET, ZeroShot.Settings(templates=(DATASET.template,) * 2))
    torch.testing.assert_close(once.text_features(), twice.text_features())


@pytest.mark.parametrize("template", ["a photo.", "a {thing}.", "a {} and a {}."])
def test_a_template_of_an_ensemble_without_one_place_for_the_name_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="exactly once"):
        ZeroShot.Settings(templates=("a photo of a {}.", template))
