"""Documents (pydantic models as JSON) and parquet tables."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from syncclip.core.secrets import without_secrets
from syncclip.core.settings import UserError, first_complaint
from syncclip.storage.faults import MissingError
from syncclip.storage.files import read_bytes, write_bytes

if TYPE_CHECKING:
    import pyarrow as pa

Document = TypeVar("Document", bound=BaseModel)

MOST_ROWS = 1 << 28
"""More than any table of ours has; a few bytes can tell of far more."""


def read_document(url: str, kind: type[Document], remedy: str) -> Document | None:
    """The document at `url`; None where there is none.

    Raises:
        UserError: it is damaged, or of another version; ends with `remedy`, what to do.
    """
    try:
        return kind.model_validate_json(read_bytes(url))
    except MissingError:
        return None
    except ValidationError as error:
        raise UserError(
            f"{url} can't be read by this version of syncclip ({first_complaint(error)}); {remedy}"
        ) from error


def write_document(url: str, document: BaseModel) -> None:
    """Write a document, whole or not at all; its URLs without secrets."""
    write_bytes(url, (without_secrets(document.model_dump_json(indent=1)) + "\n").encode())


def read_parquet(data: bytes, schema: pa.Schema | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """The table that the bytes of a parquet file hold, read by the calling thread alone.

    By default pyarrow leaves it to threads of its own to free the bytes. Where one of them does so while the
    interpreter ends, as after a command that reads a table and is refused, the process aborts.

    Args:
        data: the whole file.
        schema: types of the columns; None: as they are in the file.
        columns: the ones that are wanted; None: those of the schema, else all.

    Raises:
        pa.ArrowException, OSError: the bytes are no parquet file, a column is missing, or one is of another type.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(io.BytesIO(data), pre_buffer=False)
    wanted = list(columns) if columns is not None else schema.names if schema is not None else None
    if missing := set(wanted or ()) - set(file.schema_arrow.names):
        raise pa.ArrowInvalid(f"there is no column {sorted(missing)[0]!r}")
    if file.metadata.num_rows > MOST_ROWS:
        raise pa.ArrowInvalid(f"it tells of {file.metadata.num_rows:,} rows")
    table = file.read(wanted, use_threads=False)
    table.validate(full=True)  # also that all text is text, which otherwise shows where a row of it is used
    if wanted is not None:
        table = table.select(wanted)  # else they come in the file's order
    return table if schema is None else table.cast(pa.schema([schema.field(name) for name in table.column_names]))
