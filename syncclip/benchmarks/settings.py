"""Settings of a benchmark."""

from __future__ import annotations

from pydantic import Field

from syncclip.settings import Settings


class BenchmarkSettings(Settings):
    """Which real pictures, and how many of them may be learnt from."""

    name: str = "icons"
    """A shipped benchmark, or a folder: of class folders, or of packed shards with a `benchmark.json`."""
    root: str | None = None
    """Folder in which `name` is looked up."""
    shots: int = Field(default=16, ge=1)
    """Real training pictures of each base class."""
    seed: int | None = None
    """Decides which pictures are the shots; the training's seed where it is not given."""
    template: str | None = None
    """Prompt template with `{}` for the class name; the benchmark's own where it is not given."""
    split_seed: int = 0
    """Decides the split of a folder that has no `train`, `val` and `test` of its own."""
