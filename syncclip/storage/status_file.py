"""Status files: a job's progress and its driver's heartbeat, readable from any machine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict

from syncclip import storage
from syncclip.core.secrets import redacted
from syncclip.core.settings import Settings, UserError
from syncclip.core.text import duration
from syncclip.runtime.heartbeat import repeating
from syncclip.runtime.shutdown import at_once, reason

INTERVAL = 15.0
"""Interval between writes, in seconds."""

SILENCE = 8 * INTERVAL
"""Time without a heartbeat after which a driver is considered dead, in seconds."""

logger = logging.getLogger(__name__)
Status = TypeVar("Status", bound="JobStatus")


class JobStatus(Settings):
    """Common fields of all status files. Times are in seconds since the Unix epoch.

    Replace lists and dictionaries instead of modifying them in place, since another thread may be writing the
    status.
    """

    model_config = ConfigDict(frozen=False)

    state: Literal["running", "complete", "ended", "failed", "interrupted"] = "running"
    reason: str = ""
    """Reason for a failure or interruption."""
    began: float
    """Start time of the current invocation."""
    seen: float
    """Time of the last heartbeat."""

    @classmethod
    def begin(cls: type[Status], **values: Any) -> Status:
        """Return the status of a job that is starting now."""
        now = round(time.time(), 3)
        return cls(began=now, seen=now, **values)

    def end(self, error: BaseException | None) -> None:
        """Record that the job is complete, was interrupted, or failed."""
        if error is None:
            self.state = "complete"
        elif isinstance(error, (KeyboardInterrupt, SystemExit)):
            self.state, self.reason = "interrupted", reason()
        else:
            name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            self.state, self.reason = "failed", redacted(name + " ".join(str(error).split()))

    def why(self) -> list[str]:
        """Return the reason for a failure or interruption as a list with one line, or [] if there is none."""
        return [f"why: {self.reason}"] if self.reason else []

    def last_heartbeat(self, command: str) -> str:
        """Return a line with the time since the last heartbeat and, if the driver is gone, the `command` to resume."""
        silence = time.time() - self.seen
        line = f"last heartbeat: {duration(silence)} ago"
        if self.state == "running" and silence > SILENCE:
            line += f"; the driver is gone or cannot write its status; run the same `{command}` command to resume"
        return line


@contextmanager
def keep_status_file(
    url: str,
    status: JobStatus,
    owner: str = storage.NOBODY,
    interval: float = INTERVAL,
    clock: Callable[[], float] = time.time,
) -> Iterator[None]:
    """Periodically write `status`, which the block updates, to `url`; at the end, record the block's outcome.

    After a crash, the state in the file remains "running", with an old heartbeat. Failed writes are ignored.

    Args:
        owner: owner ID of the job's output; see `storage.checksums`.
        interval: interval between writes, in seconds.
        clock: function that returns the time in seconds since the Unix epoch, used in tests.
    """

    def write() -> None:
        status.seen = round(clock(), 3)
        try:
            storage.write_document(url, status, owner)
        except Exception as error:
            logger.debug("cannot write the status to %s: %s", url, error)

    def end_at_once() -> None:
        status.end(KeyboardInterrupt())
        write()

    write()
    try:
        with at_once(end_at_once), repeating(write, interval):
            yield
        status.end(None)
    except BaseException as error:
        status.end(error)
        raise
    finally:
        write()
