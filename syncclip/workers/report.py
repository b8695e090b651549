"""The report that an actor returns for a shard: a row of numbers, or an error."""

from __future__ import annotations

import traceback
from typing import NamedTuple

from syncclip import storage
from syncclip.core.custom_code import custom_code_error
from syncclip.core.secrets import redacted
from syncclip.core.settings import UserError
from syncclip.core.text import first_line


class Report(NamedTuple):
    """The result of one shard. The fields are plain values, since Ray Data requires a single type per column."""

    shard: int
    images: int = 0
    rejects: str = "{}"  # JSON: reason -> number of images
    generate: float = 0.0  # seconds per stage
    filter: float = 0.0
    encode: float = 0.0
    write: float = 0.0
    computed: float = 0.0  # seconds of `generate` during which the device was busy; see `Generator`
    started: float = 0.0  # seconds since the epoch
    ended: float = 0.0
    worker: str = ""  # host and process
    deaths: int = 0  # processes that died during this shard, 0 or 1 per report
    error: str = ""
    classes_without_accepted: str = "{}"  # JSON: id of a class in which no image passed -> main rejection reason
    fatal: bool = False  # a retry can't succeed
    trace: str = ""
    cold_start: float = 0.0  # seconds from the actor's start until its models were loaded; in its first report only
    downloaded: int = 0  # bytes of model weights that the actor downloaded from storage; in its first report only
    billed: float = 0.0  # seconds of all actors since the previous report; see `ShardQueue`


def failed(report: Report, error: Exception) -> Report:
    """Return the report of a shard that raised `error`; the report is fatal if a retry can't succeed."""
    error = custom_code_error(error) or error
    fatal = isinstance(error, (UserError, FileNotFoundError, PermissionError))
    fatal = fatal and not isinstance(error, storage.UnreachableError)  # a retry may reach the store
    name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    message, trace = redacted(name + first_line(error)), redacted(traceback.format_exc())
    return report._replace(images=0, error=message, fatal=fatal, trace=trace)
