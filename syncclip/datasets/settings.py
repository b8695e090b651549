"""Settings of a dataset."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from syncclip.core.settings import Settings


class DatasetSettings(Settings):
    """Which real images, and how many of them may be learnt from."""

    name: str = "icons"
    """A shipped dataset; one of the literature, found below `root`; or a user's own data: a folder of class folders,
    a table of paths and labels, an image folder with metadata, WebDataset shards."""
    root: str | None = None
    """Folder in which `name` is looked up; for the literature's, the folder that holds them as CoOp lays them out."""
    shots: int = Field(default=16, ge=1)
    """Real training images of each base class."""
    seed: int | None = None
    """Decides which images are the shots; the training's seed where it is not given."""
    template: str | None = None
    """Prompt template with `{}` for the class name; the dataset's own where it is not given."""
    classnames: list[str] | None = None
    """Names of the classes by id; the dataset's own where they are not given."""
    base: Literal["first", "drawn", "all"] | list[int | str] = "first"
    """Which classes are base: the first half of the ids, one drawn by `base_seed`, all, or a list of ids or names."""
    base_seed: int = 0
    """Decides the half that is drawn."""
    split_seed: int = 0
    """Decides the split of data that has no `train`, `val` and `test` of its own."""
    resize: int | None = Field(default=None, ge=1)
    """Shorter side, in pixels, to which `shards pack` scales images down; None keeps the files as they are."""
