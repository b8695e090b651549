"""Parquet tables from bytes, read by the calling thread alone.

pyarrow's usual way leaves it to threads of its own to let go of the bytes. Where one of them does so while the
interpreter ends, as after a command that reads a table and is refused, the process aborts.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def read(data: bytes, schema: pa.Schema | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """The table that the bytes of a parquet file hold.

    Args:
        data: the whole file.
        schema: types of the columns; None: as they are in the file.
        columns: the ones that are wanted; None: those of the schema, else all.

    Raises:
        pa.ArrowException, OSError: the bytes are no parquet file, a column is missing, or one is of another type.
    """
    file = pq.ParquetFile(io.BytesIO(data), pre_buffer=False)
    wanted = list(columns) if columns is not None else schema.names if schema is not None else None
    if missing := set(wanted or ()) - set(file.schema_arrow.names):
        raise pa.ArrowInvalid(f"there is no column {sorted(missing)[0]!r}")
    table = file.read(wanted, use_threads=False)
    if wanted is not None:
        table = table.select(wanted)  # else they come in the file's order
    return table if schema is None else table.cast(pa.schema([schema.field(name) for name in table.column_names]))
