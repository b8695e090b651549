"""File access for local folders and any fsspec URL (`s3://`, `gs://`, …).

Shard commit markers rely on the following guarantees:

* Writes are atomic. A local file is written to a hidden temporary file, synced to disk, and then renamed. An object is
  written with a single PUT request, or with a multipart upload that is aborted if an exception occurs. On other remote
  file systems, such as SFTP, an interrupted write may leave a truncated file, which a marker's byte count detects.
* Listings are never cached, since other machines may write to the same folder.
* Requests are retried after transient errors (a busy store, a broken connection); see `retries`.
* User errors (no permission, no space, no credentials, a missing file) have one-line messages.
* A locked folder has a single writer; see `locks`.
* A file whose checksum does not match is reported by name when it is read; see `checksums`.
* Forking is safe: a child process creates its own file system clients and does not affect its parent's clients.
"""

from syncclip.storage.checksums import NOBODY, DamagedError, identity
from syncclip.storage.cleanup import sweep
from syncclip.storage.documents import (
    copy,
    has_checksum,
    parse_tensors,
    read_bytes,
    read_contents,
    read_document,
    read_many,
    read_owner,
    read_parquet,
    read_table,
    read_verified,
    write_contents,
    write_document,
    write_table,
    write_with_checksum,
)
from syncclip.storage.files import (
    exists,
    fetch,
    file_sha256,
    listdir,
    open_read,
    publish,
    remove,
    require,
    sizes,
    write_bytes,
)
from syncclip.storage.kinds import kind_of, require_kind, wrong_folder
from syncclip.storage.locks import Hold, LostLockError, lock, range_name
from syncclip.storage.retries import MissingError, UnreachableError
from syncclip.storage.urls import StorageSettings, configure, is_local, join, local_path

__all__ = [
    "NOBODY",
    "DamagedError",
    "Hold",
    "LostLockError",
    "MissingError",
    "StorageSettings",
    "UnreachableError",
    "configure",
    "copy",
    "exists",
    "fetch",
    "file_sha256",
    "has_checksum",
    "identity",
    "is_local",
    "join",
    "kind_of",
    "listdir",
    "local_path",
    "lock",
    "open_read",
    "parse_tensors",
    "publish",
    "range_name",
    "read_bytes",
    "read_contents",
    "read_document",
    "read_many",
    "read_owner",
    "read_parquet",
    "read_table",
    "read_verified",
    "remove",
    "require",
    "require_kind",
    "sizes",
    "sweep",
    "write_bytes",
    "write_contents",
    "write_document",
    "write_table",
    "write_with_checksum",
    "wrong_folder",
]
