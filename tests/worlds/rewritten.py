"""Replaced content of files with checksums, as their own writer would have written it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from syncclip import storage
from syncclip.studies import outputs


def rewrite(path: Path | str, data: bytes) -> None:
    """Replace a file's content and keep its owner."""
    storage.write_with_checksum(str(path), data, owner=storage.read_owner(str(path)))


def rewrite_json(path: Path | str, value: Any) -> None:
    """Replace the value of a JSON file and keep its owner."""
    outputs.write_json(str(path), value, storage.read_owner(str(path)))


def rewrite_table(path: Path | str, table: pd.DataFrame) -> None:
    """Replace a table and keep its owner."""
    storage.write_table(str(path), table, storage.read_owner(str(path)))
