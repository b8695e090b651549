"""Whole files, whose seals are checked on reading: documents (pydantic models as JSON), parquet tables, others."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from syncclip.core.formats import MOST_JSON, check_size, readable
from syncclip.core.secrets import json_without_secrets
from syncclip.core.settings import UserError, first_complaint
from syncclip.core.text import first_line
from syncclip.storage import files
from syncclip.storage.faults import MissingError
from syncclip.storage.seals import BLANK, KEY, MARK, DamagedError, content, is_sealed, sealed

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from torch import Tensor

Report = Callable[[str, DamagedError], None]
Document = TypeVar("Document", bound=BaseModel)

MOST_HEADER = 4 << 20
"""Bytes of what names the tensors of a safetensors file, some 100 for each."""

MOST_ROWS = 1 << 28
"""More than any table of ours has; a few bytes can tell of far more."""


def read_bytes(url: str, start: int | None = None, end: int | None = None, sha256: str | None = None) -> bytes:
    """The bytes [start, end) of a file, fewer where it ends before that; without either all, but for a text's seal.

    Args:
        sha256: of the whole file, where it is known: what S3 answers is proved by it at once; whether the file itself
            is damaged is for the caller to find.

    Raises:
        MissingError: there is no such file.
        DamagedError: it is read whole, and its seal is another's; see `seals`.
    """
    data = files.read_bytes(url, start, end, sha256)
    return content(url, data) if start is None and end is None else data


def read_many(urls: Sequence[str], report: Report | None = None) -> dict[str, bytes]:
    """URL -> what `read_bytes` gives, of several small files of one filesystem, fetched at once.

    Those that are gone are left out.

    Args:
        report: takes the URL of a file with a wrong seal, and its error; it is left out. None: the error is raised.
    """
    found = {}
    for url, data in files.read_many(urls).items():
        try:
            found[url] = content(url, data)
        except DamagedError as error:  # noqa: PERF203  each by itself
            if report is None:
                raise
            report(url, error)
    return found


def has_seal(url: str) -> bool:
    """Read a file whole, and tell whether it has a seal.

    Raises:
        DamagedError: it is another's.
    """
    data = files.read_bytes(url)
    content(url, data)
    return is_sealed(data)


def copy(url: str, target: str) -> None:
    """Write a small file again elsewhere, as it is; a damaged one is not copied (`DamagedError`)."""
    data = files.read_bytes(url)
    content(url, data)
    files.write_bytes(target, data)


def read_document(url: str, kind: type[Document], remedy: str) -> Document | None:
    """The document at `url`; None where there is none.

    Raises:
        UserError: it is damaged, or of another version; ends with `remedy`, what to do.
    """
    try:
        data = read_bytes(url)
        with readable(url, "JSON", remedy):
            check_size(data, MOST_JSON)
    except MissingError:
        return None
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise UserError(
            f"{url} can't be read by this version of syncclip ({first_complaint(error)}); {remedy}"
        ) from error


def write_document(url: str, document: BaseModel) -> None:
    """Write a document, whole or not at all, and sealed; its URLs without secrets."""
    write_sealed(url, (json_without_secrets(document.model_dump_json(indent=1)) + "\n").encode(), "json")


def write_sealed(url: str, data: bytes, kind: str | None = None) -> None:
    """Write a file that is checked wherever it is read whole; see `seals`.

    Args:
        kind: as `seals.sealed` takes it; by default the ending of the file's name.
    """
    files.write_bytes(url, sealed(data, kind or url.rpartition(".")[2]))


def write_table(url: str, table: pa.Table | pd.DataFrame) -> None:
    """Write a sealed parquet table, whole or not at all; of a data frame without its index."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not isinstance(table, pa.Table):
        table = pa.Table.from_pandas(table, preserve_index=False)
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), KEY: MARK + BLANK}), buffer)
    write_sealed(url, buffer.getvalue(), "parquet")


def parse_tensors(data: bytes, source: str, remedy: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file by their names.

    Raises:
        UserError: it is none, or tells of tensors that can't be; begins with `source`, ends with `remedy`.
    """
    import safetensors.torch

    try:
        check_size(data[8 : 8 + int.from_bytes(data[:8], "little")], MOST_HEADER)
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
        return tensors
    except (safetensors.SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{source} is not a safetensors file ({first_line(error)}); {remedy}") from error


def read_table(url: str, columns: Sequence[str], remedy: str, optional: Sequence[str] = ()) -> pa.Table:
    """Columns of a table in a file; the optional ones as far as they are there.

    Raises:
        UserError: it is missing, damaged, or has no such columns; ends with `remedy`, what to do.
    """
    try:
        return read_parquet(read_bytes(url), columns=columns, optional=optional)
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{url}: unreadable table ({first_line(error)}); {remedy}") from error


def read_parquet(
    data: bytes,
    schema: pa.Schema | None = None,
    columns: Sequence[str] | None = None,
    optional: Sequence[str] = (),
) -> pa.Table:
    """The table that the bytes of a parquet file hold, read by the calling thread alone.

    By default pyarrow leaves it to threads of its own to free the bytes. Where one of them does so while the
    interpreter ends, as after a command that reads a table and is refused, the process aborts.

    Args:
        data: the whole file.
        schema: types of the columns; None: as they are in the file.
        columns: the ones that are wanted; None: those of the schema, else all.
        optional: further ones that are wanted where they are there.

    Raises:
        ValueError, OSError: the bytes are no parquet file, a column is missing, or one is of another type.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
        wanted = list(columns) if columns is not None else schema.names if schema is not None else None
        if wanted is not None:
            wanted += [name for name in optional if name in file.schema_arrow.names]
        if missing := set(wanted or ()) - set(file.schema_arrow.names):
            raise ValueError(f"there is no column {sorted(missing)[0]!r}")
        if file.metadata.num_rows > MOST_ROWS:
            raise ValueError(f"it tells of {file.metadata.num_rows:,} rows")
        table = file.read(wanted, use_threads=False)
        table.validate(full=True)  # also that all text is text, which otherwise shows where a row of it is used
        if wanted is not None:
            table = table.select(wanted)  # else they come in the file's order
        typed = table.schema if schema is None else pa.schema([schema.field(name) for name in table.column_names])
        return table if table.schema.equals(typed) else table.cast(typed)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
