from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from syncclip.clip.backbone import load_backbone
from tests.interop import published


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the CLIP and the datasets of the reference numbers, each written once."""
    folder = tmp_path_factory.mktemp("published")
    published.write_clip(folder / "clip")
    return folder


@pytest.fixture(autouse=True, scope="session")
def backbones() -> Iterator[None]:
    """Every backbone is loaded once: building a tokenizer takes longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        once = cache(load_backbone)
        for module in ("runs.build", "interop.imports", "interop.nearest"):
            patch.setattr(f"syncclip.{module}.load_backbone", once)
        yield
