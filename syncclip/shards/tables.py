"""Parquet tables of shards, verified against the checksums in the shards' markers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.shards.markers import table_name

if TYPE_CHECKING:  # slow to import, and many commands do not read tables
    import pyarrow as pa


@cache
def schema() -> pa.Schema:
    """Return the schema of a shard's table (one row per sample); `provenance` is the content of the .json member."""
    import pyarrow as pa

    names = {"key": "string", "index": "int64", "label": "int64", "text": "string"}
    names |= {"jpg_offset": "int64", "jpg_size": "int64", "provenance": "string"}
    return pa.schema(names)


def parse_table(data: bytes, sha256: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Parse a shard's table, or only the given columns.

    Raises:
        ValueError, OSError: the checksum differs from `sha256`, or the table does not have the columns of `schema`.
    """
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError("its checksum does not match (the table is corrupt or from a different shard)")
    names = schema().names if columns is None else columns
    table = storage.read_parquet(data, schema(), list(dict.fromkeys([*names, "key", "index"])))
    if not table["key"].cast("int64").equals(table["index"]):
        raise ValueError("a sample's index does not match its key")
    return table.select(names)


def read_table(url: str, shard: int, sha256: str) -> pa.Table:
    """Read the table of a shard; raise a `UserError` if it is missing or corrupt."""
    table_url = storage.join(url, table_name(shard))
    try:
        return parse_table(storage.read_bytes(table_url, sha256=sha256), sha256)
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{table_url}: unreadable table: {error}; run `syncclip shards verify`") from error
