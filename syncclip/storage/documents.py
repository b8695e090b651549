"""Reading and writing files with checksums: documents (pydantic models as JSON), parquet tables, and other files.

`contents.json` lists the files of a folder.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from syncclip.core.formats import MOST_JSON, check_size, readable
from syncclip.core.secrets import json_without_secrets
from syncclip.core.settings import Settings, UserError
from syncclip.core.text import first_line
from syncclip.core.validation_errors import first_error
from syncclip.storage import files
from syncclip.storage.checksums import (
    KEY,
    KINDS,
    NOBODY,
    DamagedError,
    blank,
    owner_of,
    verified_content,
    with_checksum,
)
from syncclip.storage.retries import MissingError
from syncclip.storage.urls import join

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from torch import Tensor

CONTENTS = "contents.json"
"""List of a folder's files at the end of a command, used to detect deleted files."""
_SHARD = re.compile(r"\d{5,}(\.tar|\.parquet|\.safetensors|_stats\.json)")
"""Names of shard files, which are listed in the plan and the markers instead of `contents.json`."""

Report = Callable[[str, DamagedError], None]
Document = TypeVar("Document", bound=BaseModel)

MOST_HEADER = 4 << 20
"""Maximum size of a safetensors header in bytes; each tensor takes about 100 bytes."""

MOST_ROWS = 1 << 28
"""Maximum number of rows in a table; a corrupt header may declare any number."""


def read_bytes(url: str, start: int | None = None, end: int | None = None, sha256: str | None = None) -> bytes:
    """Return the bytes [start, end) of a file, or fewer if the file ends earlier.

    If the whole file is read and contains a checksum, the checksum is verified, and removed from text formats.

    Args:
        sha256: expected checksum of the whole file; see `files.fetch`.

    Raises:
        MissingError: the file does not exist.
        DamagedError: the checksum does not match.
    """
    data = files.read_bytes(url, start, end, sha256)
    return verified_content(url, data, required=False) if start is None and end is None else data


def read_verified(url: str, owner: str | None = None) -> bytes:
    """Return the content of a file that syncclip wrote with a checksum.

    Args:
        owner: expected owner ID (see `checksums`); None accepts any owner.

    Raises:
        MissingError: the file does not exist.
        DamagedError: the checksum is missing, does not match, or contains a different owner ID.
    """
    return verified_content(url, files.read_bytes(url), owner)


def read_many(
    urls: Sequence[str],
    report: Report | None = None,
    owner: str | Mapping[str, str] | None = None,
    checksum_required: bool = True,
) -> dict[str, bytes]:
    """Concurrently read small files from one file system into a URL -> content mapping; missing files are omitted.

    Args:
        report: called with the URL and error of each corrupt file, which is omitted; if None, the error is raised.
        owner: expected owner of all files, as in `read_verified`, or a URL -> owner mapping.
        checksum_required: whether to treat a file without a checksum as corrupt.
    """
    contents = {}
    for url, data in files.read_many(urls).items():
        try:
            file_owner = owner[url] if isinstance(owner, Mapping) else owner
            contents[url] = verified_content(url, data, file_owner, checksum_required)
        except DamagedError as error:  # noqa: PERF203
            if report is None:
                raise
            report(url, error)
    return contents


def read_owner(url: str) -> str:
    """Verify a file as in `read_verified`, and return its owner ID (see `checksums`)."""
    data = files.read_bytes(url)
    verified_content(url, data)
    return owner_of(data) or NOBODY


def has_checksum(url: str) -> bool:
    """Return whether a file has a checksum; raise a DamagedError if the checksum does not match."""
    if url.rpartition(".")[2] not in KINDS:
        return False
    data = files.read_bytes(url)
    verified_content(url, data, required=False)
    return owner_of(data) is not None


def copy(url: str, target: str) -> None:
    """Copy a small file with a checksum; raise a DamagedError if the checksum does not match."""
    data = files.read_bytes(url)
    verified_content(url, data)
    files.write_bytes(target, data)


def read_document(
    url: str, kind: type[Document], remedy: str, owner: str | None = None, checksum_required: bool = True
) -> Document | None:
    """Return the document at `url`, or None if it does not exist.

    Args:
        remedy: suggested fix for error messages.
        owner: expected owner, as in `read_verified`.
        checksum_required: whether a missing checksum is an error (False for documents that users may write).

    Raises:
        UserError: the document is corrupt or was written by an incompatible version.
    """
    try:
        data = verified_content(url, files.read_bytes(url), owner, checksum_required)
        with readable(url, "JSON", remedy):
            check_size(data, MOST_JSON)
    except MissingError:
        return None
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise UserError(f"{url} cannot be read by this version of syncclip ({first_error(error)}); {remedy}") from error


def write_document(url: str, document: BaseModel, owner: str = NOBODY) -> None:
    """Write a document atomically with a checksum; secrets are removed from all URLs in the document."""
    write_with_checksum(url, (json_without_secrets(document.model_dump_json(indent=1)) + "\n").encode(), "json", owner)


def write_with_checksum(url: str, data: bytes, kind: str | None = None, owner: str = NOBODY) -> None:
    """Write a file atomically with a checksum (see `checksums`).

    Args:
        kind: file type, as in `checksums.with_checksum`; by default, the file name's extension.
        owner: ID of the file's owner.
    """
    files.write_bytes(url, with_checksum(data, kind or url.rpartition(".")[2], owner))


def write_table(url: str, table: pa.Table | pd.DataFrame, owner: str = NOBODY) -> None:
    """Atomically write a table, or a data frame without its index, to a parquet file with a checksum."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not isinstance(table, pa.Table):
        table = pa.Table.from_pandas(table, preserve_index=False)
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), KEY: blank(owner)}), buffer)
    write_with_checksum(url, buffer.getvalue(), "parquet", owner)


def parse_tensors(data: bytes, source: str, remedy: str) -> dict[str, Tensor]:
    """Parse a safetensors file, and return its tensors by name.

    Raises:
        UserError: the file is invalid; the message begins with `source` and ends with `remedy`.
    """
    import safetensors.torch

    try:
        check_size(data[8 : 8 + int.from_bytes(data[:8], "little")], MOST_HEADER)
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
        return tensors
    except (safetensors.SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{source} is not a safetensors file ({first_line(error)}); {remedy}") from error


def read_table(url: str, columns: Sequence[str], remedy: str, owner: str | None = None) -> pa.Table:
    """Verify a table's checksum, and return the given columns.

    Raises:
        UserError: the table is missing or corrupt, or lacks a column; the message ends with `remedy`.
    """
    try:
        return read_parquet(read_verified(url, owner), columns=columns)
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{url}: unreadable table ({first_line(error)}); {remedy}") from error


def read_parquet(data: bytes, schema: pa.Schema | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """Parse a parquet file in the calling thread.

    By default, pyarrow frees the data in its own threads, which aborts the process if the interpreter is exiting.

    Args:
        data: content of the file.
        schema: column types; None keeps the types in the file.
        columns: columns to read; None reads the schema's columns, or all columns if `schema` is None.

    Raises:
        ValueError, OSError: the data is not a parquet file, or a column is missing or has a different type.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
        names = list(columns) if columns is not None else None if schema is None else schema.names
        if missing := set(names or ()) - set(file.schema_arrow.names):
            raise ValueError(f"there is no column {sorted(missing)[0]!r}")
        if file.metadata.num_rows > MOST_ROWS:
            raise ValueError(f"{file.metadata.num_rows:,} rows exceed the limit of {MOST_ROWS:,}")
        table = file.read(names, use_threads=False)
        table.validate(full=True)  # including text encoding, which would otherwise fail at the first use of a row
        if names is not None:
            table = table.select(names)  # `read` keeps the order in the file
        typed = table.schema if schema is None else pa.schema([schema.field(name) for name in table.column_names])
        return table if table.schema.equals(typed) else table.cast(typed)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


class Contents(Settings):
    """Content of `contents.json`."""

    files: tuple[str, ...]
    """Sorted names of the folder's files, excluding hidden files and shard files."""


def write_contents(url: str, owner: str = NOBODY) -> None:
    """Record a folder's file names at the end of a command; raise a MissingError if a file was removed in the meantime.

    Args:
        url: URL of the folder.
        owner: ID of the folder's owner; see `checksums`.
    """
    names = tuple(
        name for name in files.sizes(url) if not (name.startswith(".") or name == CONTENTS or _SHARD.fullmatch(name))
    )
    try:
        recorded = read_contents(url, owner)
    except DamagedError:  # or it belongs to a synthetic dataset in the same folder
        recorded = None
    if recorded != names:
        write_document(join(url, CONTENTS), Contents(files=names), owner)
        files.require(url, (CONTENTS, *names))


def read_contents(url: str, owner: str | None = None) -> tuple[str, ...] | None:
    """Return the recorded file names, or None if there is no record; raise a DamagedError if the record is corrupt."""
    remedy = "remove the file and rerun the command that wrote it"
    document = read_document(join(url, CONTENTS), Contents, remedy, owner)
    return None if document is None else document.files
