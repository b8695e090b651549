"""Whole files, whose seals are checked on reading: documents (pydantic models as JSON), parquet tables, others."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from syncclip.core.formats import MOST_JSON, check_size, readable
from syncclip.core.secrets import json_without_secrets
from syncclip.core.settings import UserError, first_complaint
from syncclip.core.text import first_line
from syncclip.storage import files
from syncclip.storage.checksums import KEY, KINDS, NOBODY, DamagedError, blank, content, owner_of, sealed
from syncclip.storage.retries import MissingError

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
    """The bytes [start, end) of a file that may have no seal, fewer where it ends before that.

    Without start and end, the whole file; a seal that it has must be valid, and is removed from a text.

    Args:
        sha256: of the whole file, where it is known: the bytes that S3 returns are compared with it; whether the file
            itself is damaged is for the caller to find.

    Raises:
        MissingError: there is no such file.
        DamagedError: it is read whole, and its seal does not match; see `seals`.
    """
    data = files.read_bytes(url, start, end, sha256)
    return content(url, data, required=False) if start is None and end is None else data


def read_sealed(url: str, owner: str | None = None) -> bytes:
    """The content of a file that syncclip wrote with a seal.

    Args:
        owner: identity that it must have, see `seals`; None: any.

    Raises:
        MissingError: there is no such file.
        DamagedError: it was changed, cut short, or belongs to another owner.
    """
    return content(url, files.read_bytes(url), owner)


def read_many(
    urls: Sequence[str],
    report: Report | None = None,
    owner: str | Mapping[str, str] | None = None,
    sealed: bool = True,
) -> dict[str, bytes]:
    """URL -> content of several small files of one filesystem, fetched at once; missing ones are left out.

    Args:
        report: called with the URL and error of each damaged file, which is left out. None: the error is raised.
        owner: as in `read_sealed`; of all, or URL -> that of each.
        sealed: whether each must have a seal.
    """
    contents = {}
    for url, data in files.read_many(urls).items():
        try:
            contents[url] = content(url, data, owner[url] if isinstance(owner, Mapping) else owner, sealed)
        except DamagedError as error:  # noqa: PERF203  each by itself
            if report is None:
                raise
            report(url, error)
    return contents


def read_owner(url: str) -> str:
    """Identity of what a sealed file belongs to, see `seals`.

    Raises:
        MissingError: there is no such file.
        DamagedError: its seal is missing or does not match.
    """
    data = files.read_bytes(url)
    content(url, data)
    return owner_of(data) or NOBODY


def has_seal(url: str) -> bool:
    """Whether a file has a seal, which must match.

    Raises:
        DamagedError: it does not.
    """
    if url.rpartition(".")[2] not in KINDS:
        return False
    data = files.read_bytes(url)
    content(url, data, required=False)
    return owner_of(data) is not None


def copy(url: str, target: str) -> None:
    """Copy a small sealed file unchanged; a damaged one is not copied (`DamagedError`)."""
    data = files.read_bytes(url)
    content(url, data)
    files.write_bytes(target, data)


def read_document(
    url: str, kind: type[Document], remedy: str, owner: str | None = None, sealed: bool = True
) -> Document | None:
    """The document at `url`; None where there is none.

    Args:
        remedy: what to do, the end of the message where the document can't be read.
        owner: as in `read_sealed`.
        sealed: whether it must have a seal; False for documents that users write themselves.

    Raises:
        UserError: it is damaged, or of another version.
    """
    try:
        data = content(url, files.read_bytes(url), owner, sealed)
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


def write_document(url: str, document: BaseModel, owner: str = NOBODY) -> None:
    """Write a document, whole or not at all, and sealed; its URLs without secrets."""
    write_sealed(url, (json_without_secrets(document.model_dump_json(indent=1)) + "\n").encode(), "json", owner)


def write_sealed(url: str, data: bytes, kind: str | None = None, owner: str = NOBODY) -> None:
    """Write a file that is checked wherever it is read whole; see `seals`.

    Args:
        kind: as `seals.sealed` takes it; by default the file name's extension.
        owner: identity of what it belongs to.
    """
    files.write_bytes(url, sealed(data, kind or url.rpartition(".")[2], owner))


def write_table(url: str, table: pa.Table | pd.DataFrame, owner: str = NOBODY) -> None:
    """Write a sealed parquet table, whole or not at all; of a data frame without its index."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not isinstance(table, pa.Table):
        table = pa.Table.from_pandas(table, preserve_index=False)
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), KEY: blank(owner)}), buffer)
    write_sealed(url, buffer.getvalue(), "parquet", owner)


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


def read_table(
    url: str, columns: Sequence[str], remedy: str, optional: Sequence[str] = (), owner: str | None = None
) -> pa.Table:
    """Columns of a sealed table; the optional ones as far as they are there.

    Raises:
        UserError: it is missing, damaged, or has no such columns; ends with `remedy`, what to do.
    """
    try:
        return read_parquet(read_sealed(url, owner), columns=columns, optional=optional)
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
