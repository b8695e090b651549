"""Other content in a file with a checksum: what its own writer would have written, not damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from syncclip import storage
from syncclip.studies import outputs


def rewrite(place: Path | str, data: bytes) -> None:
    """Replace a file's content; its owner stays."""
    storage.write_with_checksum(str(place), data, owner=storage.read_owner(str(place)))


def rewrite_json(place: Path | str, value: Any) -> None:
    """Replace the value in a JSON file; its owner stays."""
    outputs.write_json(str(place), value, storage.read_owner(str(place)))


def rewrite_table(place: Path | str, table: pd.DataFrame) -> None:
    """Replace a table; its owner stays."""
    storage.write_table(str(place), table, storage.read_owner(str(place)))
