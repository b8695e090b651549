"""CLIPs of each family of backbones, built once per session."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from syncclip.clip.backbone import Backbone, BackboneSettings, load_backbone
from syncclip.clip.prompted import PromptedClip
from tests.worlds.clip import make_clip_folder
from tests.worlds.families import families, make_family_folder

TINY = "tiny"
"""Name of the tiny CLIP of most tests, which is none of the families."""


@pytest.fixture(scope="session")
def load_family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Backbone]:
    """Return the tiny backbone of a family."""
    loaded: dict[str, Backbone] = {}

    def load(name: str) -> Backbone:
        if name not in loaded:
            folder = tmp_path_factory.mktemp(name)
            make_clip_folder(folder) if name == TINY else make_family_folder(folder, families()[name])
            loaded[name] = load_backbone(BackboneSettings(name=str(folder)))
        return loaded[name]

    return load


@pytest.fixture
def name() -> str:
    """Family of the test's backbone; tests override it by a parameter of this name."""
    return TINY


@pytest.fixture
def backbone(name: str, load_family: Callable[[str], Backbone]) -> Backbone:
    return load_family(name)


@pytest.fixture
def clip(backbone: Backbone) -> PromptedClip:
    torch.manual_seed(0)
    return PromptedClip(backbone)
