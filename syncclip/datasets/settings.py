"""Settings of a dataset."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from syncclip.core.settings import Settings


class DatasetSettings(Settings):
    """Which real images there are, and how many of them are trained on."""

    name: str = "icons"
    """A shipped dataset; one of the literature, found below `root`; or a user's own data: a folder of class folders,
    a table of paths and labels, an image folder with metadata, or WebDataset shards."""
    root: str | None = None
    """Folder in which `name` is looked up; for the literature's, the folder of all of them in CoOp's layout."""
    shots: int = Field(default=16, ge=1)
    """Real training images of each base class."""
    seed: int | None = None
    """Of the few-shot choice; None: the training's seed."""
    template: str | None = None
    """Prompt template with `{}` for the class name; None: the dataset's own."""
    classnames: list[str] | None = None
    """Class names by id; None: the dataset's own."""
    base: Literal["first", "drawn", "all"] | list[int | str] = "first"
    """Which classes are base: the first half of the ids, half of them drawn by `base_seed`, all, or these ids or
    names."""
    base_seed: int = 0
    """Of the half that is drawn."""
    split_seed: int = 0
    """Of the random split where data has no `train`, `val` and `test` of its own."""
    resize: int | None = Field(default=None, ge=1)
    """Shorter side, in pixels, to which `shards pack` scales images down; None keeps the files as they are."""
