"""A status file shows from anywhere how a job is doing, and that its driver is alive."""

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
"""Seconds between two writes; each waits for a disk, or is a request to an object store."""

SILENCE = 8 * INTERVAL
"""Seconds without a sign of life after which a driver counts as dead."""

logger = logging.getLogger(__name__)
Status = TypeVar("Status", bound="JobStatus")


class JobStatus(Settings):
    """What every status file holds. Times are seconds since the epoch.

    A status changes while another thread writes it: replace its lists and dictionaries, never change them in place.
    """

    model_config = ConfigDict(frozen=False)

    state: Literal["running", "complete", "ended", "failed", "interrupted", "stopped"] = "running"
    """"stopped" is what earlier versions called an interrupted job."""
    reason: str = ""
    """Why it failed or was interrupted."""
    began: float
    """When this call began."""
    seen: float
    """The last sign of life."""

    @classmethod
    def begin(cls: type[Status], **values: Any) -> Status:
        """The status of a job that begins now."""
        now = round(time.time(), 3)
        return cls(began=now, seen=now, **values)

    def end(self, error: BaseException | None) -> None:
        """Record how the job ended: complete, interrupted, or failed for a reason."""
        if error is None:
            self.state = "complete"
        elif isinstance(error, (KeyboardInterrupt, SystemExit)):
            self.state, self.reason = "interrupted", reason()
        else:
            name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            self.state, self.reason = "failed", redacted(name + " ".join(str(error).split()))

    def why(self) -> list[str]:
        """Why the job failed or was interrupted, as a line for people; none where there is no reason."""
        return [f"why: {self.reason}"] if self.reason else []

    def last_sign_of_life(self, command: str) -> str:
        """When the driver was last seen, as a line for people; `command` restarts a job whose driver is gone."""
        silence = time.time() - self.seen
        line = f"last sign of life: {duration(silence)} ago"
        if self.state == "running" and silence > SILENCE:
            line += (
                f"; the driver is gone or can't write here: the same `{command}` command continues from what is there"
            )
        return line


@contextmanager
def keep_status_file(
    url: str,
    status: JobStatus,
    owner: str = storage.NOBODY,
    interval: float = INTERVAL,
    clock: Callable[[], float] = time.time,
) -> Iterator[None]:
    """Keep the file at `url` up to date while the block runs, and record there how the block ended.

    Whoever runs the job changes `status`; the file follows within its interval. After a crash of the process the file
    says "running", and its last sign of life grows old. The job goes on where the file can't be written.

    Args:
        owner: identity of what the job works on, see `storage.seals`.
        interval: seconds between two writes.
        clock: seconds since the epoch; tests pass their own.
    """

    def write() -> None:
        status.seen = round(clock(), 3)
        try:
            storage.write_document(url, status, owner)
        except Exception as error:  # what matters is the job
            logger.debug("no status at %s: %s", url, error)

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
