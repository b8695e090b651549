"""Tables of shards, each verified by the checksum in its shard's marker, and how they are compared with the tar."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import IO, TYPE_CHECKING, Any

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.shards.markers import table_name
from syncclip.shards.tars import open_tar

if TYPE_CHECKING:  # it takes long to import, and many a command reads no table
    import pyarrow as pa

MEMBERS = ("cls", "jpg", "json", "txt")
"""Members of a sample; .json only where there is provenance."""
_MEMBER = re.compile(r"\d{9,}\.(cls|jpg|json|txt)")


@cache
def schema() -> pa.Schema:
    """Columns of a shard's table, one row a sample; `provenance` is JSON, the very bytes of the .json member."""
    import pyarrow as pa

    names = {"key": "string", "index": "int64", "label": "int64", "text": "string"}
    names |= {"jpg_offset": "int64", "jpg_size": "int64", "provenance": "string"}
    return pa.schema(names)


def parse_table(data: bytes, digest: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A shard's table from the bytes of its file.

    Args:
        digest: that the file must have.
        columns: the ones that are wanted, all by default.

    Raises:
        ValueError, OSError: it is none, has another digest, or an index that isn't its key's; the text is a part of a
            sentence.
    """
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError("its bytes are not those that were written with its shard, it was damaged or exchanged")
    wanted = schema().names if columns is None else columns
    table = storage.read_parquet(data, schema(), list(dict.fromkeys([*wanted, "key", "index"])))
    if not table["key"].cast("int64").equals(table["index"]):
        raise ValueError("an index in it is not that of its key")
    return table.select(wanted)


def read_table(url: str, shard: int, digest: str) -> pa.Table:
    """The table of a shard.

    Raises:
        UserError: it is missing or damaged.
    """
    place = storage.join(url, table_name(shard))
    try:
        return parse_table(storage.read_bytes(place, sha256=digest), digest)
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{place}: unreadable table: {error}; see `syncclip shards verify`") from error


def faults(name: str, file: IO[bytes], rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """In what a tar and the rows of its table differ, one sentence each: members, their places, labels and texts."""
    rows = list(rows)
    places: dict[str, tuple[int, int]] = {}
    texts: dict[str, str] = {}
    try:
        with open_tar(file) as tar:
            for member in tar:
                if not member.isfile() or not _MEMBER.fullmatch(member.name):
                    yield f"{name}: foreign member {member.name!r}"
                places[member.name] = (member.offset_data, member.size)
                if member.isfile() and not member.name.endswith(".jpg") and (text := tar.extractfile(member)):
                    texts[member.name] = text.read().decode(errors="replace")
    except (tarfile.TarError, OSError) as error:
        yield f"{name}: corrupt tar: {error}"
        return
    wanted = {f"{row['key']}.{kind}" for row in rows for kind in MEMBERS if kind != "json" or row["provenance"] != "{}"}
    if wanted != set(places):
        yield f"{name}: {len(wanted ^ set(places))} members are missing or not in the table"
    for row in rows:
        described = {"cls": str(row["label"]), "txt": row["text"], "json": row["provenance"]}
        if any(texts.get(f"{row['key']}.{kind}", "{}") != text for kind, text in described.items()):
            yield f"{name}: sample {row['key']} is described otherwise in the table"
        if places.get(f"{row['key']}.jpg") != (row["jpg_offset"], row["jpg_size"]):
            yield f"{name}: the table's offset of {row['key']}.jpg is wrong"
