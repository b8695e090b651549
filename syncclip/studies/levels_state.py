"""State of a study that is repeated with several pretrained tags (`levels.json`)."""

from __future__ import annotations

import json

from syncclip import storage
from syncclip.core.settings import Settings
from syncclip.studies.outputs import LEVELS


class LevelsState(Settings):
    """Content of levels.json."""

    name: str
    dataset: str
    split: str
    datasets: tuple[str, ...]
    """Names of a suite's datasets; empty for a single dataset."""
    pretrained: tuple[str, ...]
    """Tags in the order in which they were added; synthesis filters use the CLIP model of the first tag."""
    configurations: dict[str, str]
    """Hash of each configuration's settings without the tag, keyed by configuration name."""
    synthetic: tuple[str, ...] = ()
    """Owner IDs of the synthetic datasets."""

    @property
    def owner(self) -> str:
        """Owner ID of the parent folder's files, independent of the levels and configurations."""
        return storage.identity(json.dumps([self.name, self.dataset, self.split, self.datasets]))


def read_state(url: str) -> LevelsState | None:
    """Read levels.json; return None if the folder is not the parent folder of levels."""
    return storage.read_document(storage.join(url, LEVELS), LevelsState, "run the study again")
