"""VPT, MaPLe and PromptSRC have the numbers of their published code."""

from __future__ import annotations

import pytest

from tests.methods import parity, vision_methods


@pytest.mark.parametrize("name", parity.names("vpt"))
def test_vpt_parity(name: str) -> None:
    vision_methods.check_vpt(parity.load(name))


@pytest.mark.parametrize("name", parity.names("maple"))
def test_maple_parity(name: str) -> None:
    vision_methods.check_maple(parity.load(name))


@pytest.mark.parametrize("name", parity.names("promptsrc"))
def test_promptsrc_parity(name: str) -> None:
    vision_methods.check_promptsrc(parity.load(name))


@pytest.mark.parametrize("name", parity.names("vpt", "maple", "promptsrc"))
def test_five_steps_on_visual_prompts_parity(name: str) -> None:
    parity.check_steps(parity.load(name))
