"""Locks of folders: one process writes into a folder; a second one, on any machine, fails with a one-line error.

The lock is a small hidden file, which its owner renews, and removes at the end. If the owner's process has ended on
this machine, the next process takes the lock over immediately. A process on another machine counts as dead after
`SILENCE` seconds without a renewal, measured by the monotonic clock of the waiting process; clocks are not compared.

The previous owner may only have been suspended during a write, but none of its writes succeeds afterwards. Locally a
file is renamed from the lock's directory to its name, and the new owner has removed that directory. On S3 a write is a
multipart upload: the new owner aborts all earlier ones, and a later one reads the new lock before it is completed.
"""

from __future__ import annotations

import datetime
import os
import random
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pydantic import ValidationError

from syncclip.core.session import current
from syncclip.core.settings import Settings, UserError
from syncclip.runtime.heartbeat import repeating
from syncclip.runtime.processes import Owner
from syncclip.runtime.progress import print_message
from syncclip.runtime.shutdown import interrupt_main
from syncclip.storage.cleanup import abort_uploads, sweep
from syncclip.storage.conditional_writes import SETTLE, UNLISTED, opened, read_current, swap
from syncclip.storage.responses import before_send
from syncclip.storage.retries import UnreachableError, http_status, with_retries
from syncclip.storage.urls import S3, is_local, join, local_path, scheme

LOCK_FILE = ".syncclip.lock"
INTERVAL = 15.0
"""Seconds between two renewals."""
SILENCE = 3 * INTERVAL
"""Seconds without a renewal after which a lock of another machine is taken over."""
GRACE = 30.0
"""Seconds for a process of another machine to end, which this process may replace."""
PROMPT = 2.0
"""Seconds after reading a lock within which a delete must be sent; shorter than a new owner's pause, `SETTLE`."""
READ_ATTEMPTS = 3
"""Number of reads after which a missing or invalid lock counts as lost."""
POLL = 1.0
"""Seconds between two reads of another owner's lock."""


class LostLockError(UserError):
    """A locked folder was removed, or taken over by another process."""


class DelayedError(Exception):
    """A request was not sent, because the lock may have been lost meanwhile; `with_retries` reads it again first."""


class LockFile(Settings):
    """Content of the lock file: the process that writes into the folder."""

    command: str
    owner: Owner
    since: str
    """Start time, for messages."""
    token: str

    def __str__(self) -> str:
        return f"`{self.command}` of {self.owner} writes there since {self.since}"

    def encoded(self) -> bytes:
        """Return the bytes of the file."""
        return self.model_dump_json().encode()


class Hold:
    """A lock of this process or, without `content`, of the driver for which it works."""

    def __init__(self, url: str, lock_url: str, token: str, content: bytes | None = None, until: float = 0.0) -> None:
        self.url, self.lock_url, self.token, self._content = url, lock_url, token, content
        self.thread = None if content is None else threading.current_thread()
        """Thread that acquired the lock."""
        self._loss, self._lock = "", threading.Lock()
        self._until = until
        """Time before which no other process can have taken over."""
        self.reported = False
        """Whether the loss was reported to `thread`."""

    def beat(self) -> None:
        """Renew the lock, and interrupt the main thread if it is lost; an unreachable store is retried later."""
        with suppress(UserError, OSError):
            self.renew()
        if self._loss and not self.reported and self.thread is threading.main_thread():
            self.reported = True
            interrupt_main(self._loss)

    def renew(self) -> None:
        """Renew the lock, or in a worker check that the driver still has it.

        Raises:
            UserError: the store is unreachable.
        """
        with self._lock:
            began = _now()
            renewed = None if self._content is None else self._content + b"\n"
            if renewed is not None and swap(self.lock_url, self._content, renewed):
                self._content, self._until, self._loss = renewed, began + 2 * INTERVAL, ""
                return
            content = self._own_content()
            if content is None:
                self._loss = self._describe_loss()
                return
            self._loss = ""
            self._content = self._content and content  # a renewal that seemed to fail may have succeeded
            self._until = max(self._until, began + PROMPT)

    def check(self) -> None:
        """Raise LostLockError if the lock is known to be lost; sends no request to a store."""
        if is_local(self.lock_url) and not local_path(self.lock_url).exists():
            self.renew()
        if self._loss:
            self.reported = self.reported or threading.current_thread() is self.thread
            raise LostLockError(self._loss)

    def confirm(self) -> None:
        """Raise unless the lock is held now; sends no request if its owner has just renewed it.

        Raises:
            LostLockError: the lock is lost.
            UserError: the store is unreachable.
        """
        if self._content is None or _now() >= self._until:
            self.renew()
        self.check()

    @contextmanager
    def staged(self) -> Iterator[int]:
        """Open the local lock's directory; renaming a file from it fails once the lock is lost.

        Raises:
            LostLockError: the lock was lost before the end of the block.
        """
        try:
            with opened(local_path(self.lock_url)) as folder:
                if self._own_content() is None:
                    raise FileNotFoundError
                yield folder
        except FileNotFoundError:
            self.renew()
            self.check()
            raise

    @contextmanager
    def promptly(self) -> Iterator[None]:
        """Let requests to S3 fail unless the lock was confirmed just before: deletes have no fence."""

        def check() -> None:
            if _now() >= self._until:
                raise DelayedError(f"{self.url}: the request was delayed for too long")

        token = before_send.set(check)
        try:
            yield
        finally:
            before_send.reset(token)

    def release(self) -> LostLockError | None:
        """Remove the lock; if it was lost before, return the error."""
        for attempts_left in reversed(range(READ_ATTEMPTS)):
            if _now() >= self._until:
                self.renew()
            with self._lock:
                if (content := self._own_content()) is None:
                    break
                try:
                    with self.promptly():
                        if swap(self.lock_url, content, None):
                            return None
                except UnreachableError:  # or the request was delayed for too long
                    if not attempts_left:
                        raise
        return LostLockError(self._describe_loss())

    def _own_content(self) -> bytes | None:
        """Return the file's content if it is still this lock's; a corrupt response is requested again."""
        for _ in range(READ_ATTEMPTS):
            content = read_current(self.lock_url)
            lock = _read(content)
            if lock is not None:
                return content if lock.token == self.token else None
        return None

    def _describe_loss(self) -> str:
        content = read_current(self.lock_url)
        if content is None:
            return (
                f"{self.url}: the folder, or its {self.lock_url.rpartition('/')[2]}, was removed during this command; "
                "the rest may be incomplete, so remove it and run the same command again"
            )
        return f"{self.url}: {_describe(content)}, after this command stopped renewing its lock; this command ends"


@contextmanager
def lock(url: str, command: str, *, file: bool = False, patience: float = 0.0) -> Iterator[Hold]:
    """Lock a folder for the block; a lock that the calling thread already has is used.

    Folders that are created for the lock and stay empty are removed at the end.

    Args:
        url: URL of the folder, which need not exist.
        command: command that writes there, for messages.
        file: whether `url` is a file; only that file is locked.
        patience: seconds to wait for another owner that is alive.

    Raises:
        UserError: another process has the lock, or the location is not writable.
        LostLockError: at the end, if the folder was removed or taken over; replaces an unexpected error in the block.
    """
    url = _normalised(url)
    folder, _, name = url.rpartition("/")
    lock_url = f"{folder}/.{name}.lock" if file else join(url, LOCK_FILE)
    for hold in _holds():
        if hold.lock_url == lock_url and hold.thread in (None, threading.current_thread()):
            yield hold
            return
    parents = local_path(lock_url).parents if is_local(lock_url) else ()
    created = [parent for parent in parents if not parent.exists()]
    try:
        hold = _acquire(url, lock_url, command, patience)
        holds = current().holds
        holds.append(hold)
        try:
            _fence(url, folder if file else url)
            with repeating(hold.beat, INTERVAL):
                yield hold
        except BaseException as error:
            with suppress(UserError, OSError):  # the first error takes precedence
                loss = hold.release()
                unexpected = isinstance(error, Exception) and not isinstance(error, UserError)
                if loss is not None and (hold.reported or unexpected):
                    error = loss
            raise error
        finally:
            holds.remove(hold)
        if (loss := hold.release()) is not None:
            raise loss
    finally:
        for parent in created:
            with suppress(OSError):
                parent.rmdir()


def check(url: str) -> Hold | None:
    """Return the innermost lock under which `url` is written; None if it is not locked.

    Raises:
        LostLockError: a lock of a folder that contains `url` was lost.
    """
    holds = _holds()
    path, outer = _normalised(url) if holds else "", list[Hold]()
    for hold in holds:
        if path == hold.url or path.startswith(f"{hold.url}/"):
            hold.check()
            outer.append(hold)
    return max(reversed(outer), key=lambda hold: len(hold.url), default=None)


def _holds() -> list[Hold]:
    """Return the locks of the session, including the driver's lock in a worker."""
    session = current()
    holds: list[Hold] = session.holds
    if session.lock is not None:
        url, token = session.lock
        if all(hold.token != token for hold in holds):
            holds.append(Hold(_normalised(url), join(_normalised(url), LOCK_FILE), token))
    return holds


def _fence(url: str, folder: str) -> None:
    """Make the unfinished writes of a previous owner fail, and remove leftovers of killed writers."""
    if scheme(url) in S3:
        try:
            with_retries(url, lambda *_: abort_uploads(url))
        except OSError as error:
            if http_status(error) not in UNLISTED:
                raise
    with suppress(Exception):  # leftovers are harmless
        sweep(folder)


def _acquire(url: str, lock_url: str, command: str, patience: float) -> Hold:
    """Write a lock, after waiting for a previous owner if necessary."""
    since = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    lock = LockFile(command=command, owner=Owner.here(), since=since, token=secrets.token_hex(8))
    began = seen = _now()
    previous: bytes | None = None
    reported = False
    while True:
        content = read_current(lock_url)
        existing = _read(content)
        alive = existing.owner.alive() if existing is not None else None
        renewed = previous is not None and content != previous
        if content != previous:
            previous, seen = content, _now()
        if content is None or alive is False or (alive is None and not renewed and _now() - seen >= SILENCE):
            now = _now()
            if swap(lock_url, content, lock.encoded()):
                if content is not None and not is_local(lock_url):
                    time.sleep(SETTLE)  # for requests that the previous owner has just sent, see `promptly`
                return Hold(url, lock_url, lock.token, lock.encoded(), now + 2 * INTERVAL)
            time.sleep(random.uniform(0, POLL))  # another process tries at the same time
            continue
        if (alive or renewed) and _now() - began >= (patience if alive else max(patience, GRACE)):
            raise UserError(f"{url}: {_describe(content)}; wait for its end, or choose another folder")
        if not reported:
            seconds = patience if alive else max(patience, SILENCE)
            print_message(
                f"{url}: {_describe(content)}; waiting for up to {seconds:.0f} s, in case that command has ended"
            )
            reported = True
        time.sleep(POLL)


def _read(content: bytes | None) -> LockFile | None:
    """Parse a lock file; None if it is invalid or incomplete."""
    with suppress(ValidationError):
        return LockFile.model_validate_json(content or b"")
    return None


def _describe(content: bytes) -> str:
    return str(_read(content) or "another command writes there")


def _normalised(url: str) -> str:
    """Return the same name for all paths of a folder."""
    return os.path.realpath(local_path(url)) if is_local(url) else url.rstrip("/")


def _now() -> float:
    """Return seconds that also pass while the machine sleeps, whatever its clock is set to."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
