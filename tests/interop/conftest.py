from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from syncclip.clip.backbone import load_backbone
from tests.interop import published


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the CLIP of the reference values, and their datasets, which are written on first use."""
    folder = tmp_path_factory.mktemp("published")
    published.write_clip(folder / "clip")
    return folder


@pytest.fixture(autouse=True, scope="session")
def backbones() -> Iterator[None]:
    """Load each backbone once, since building its tokenizer dominates the time of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        cached = cache(load_backbone)
        for module in ("runs.build", "interop.imports", "interop.nearest"):
            patch.setattr(f"syncclip.{module}.load_backbone", cached)
        yield
