from __future__ import annotations

from pathlib import Path

import pytest

from syncclip.clip.backbone import BackboneSettings, load_backbone
from syncclip.clip.prompted import PromptedClip
from tests.worlds.clip import make_clip_folder


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def clip(folder: Path) -> PromptedClip:
    """A tiny CLIP, loaded for each test, which may modify it."""
    return PromptedClip(load_backbone(BackboneSettings(name=str(folder))))
