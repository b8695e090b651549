"""Locks of folders: one process writes into a folder; a second one, on any machine, is rejected with one message.

The lock is a small hidden file. Its owner renews it, and removes it at the end. If the owner's process has ended on
this machine, the lock is taken over immediately. Whether a process of another machine is alive shows only in renewals:
after `SILENCE` seconds without one, by the observer's own monotonic clock, the lock is taken over; clocks are not
compared.

The previous owner may only have been suspended, at any point of a write, yet none of its writes succeeds afterwards.
Locally a file is renamed to its name from the lock's directory, which the new owner has removed. On S3 a write is a
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
"""Seconds that a process of another machine may take to end: this process may be its replacement."""
PROMPT = 2.0
"""Seconds after reading a lock within which a delete must be sent; less than a new owner waits (`SETTLE`)."""
LOOKS = 3
"""Reads of a lock that is missing or invalid before it counts as lost."""
POLL = 1.0
"""Seconds between two reads of another owner's lock."""


class LostLockError(UserError):
    """A locked folder was removed, or taken over by another process."""


class DelayedError(Exception):
    """A request was not sent, because the lock may have been lost meanwhile; `with_retries` reads it again first."""


class LockFile(Settings):
    """Content of the lock file: who writes into the folder."""

    command: str
    owner: Owner
    since: str
    """Start time, for messages only."""
    token: str

    def __str__(self) -> str:
        return f"`{self.command}` of {self.owner} writes there since {self.since}"

    def encoded(self) -> bytes:
        """Return the bytes of the file."""
        return self.model_dump_json().encode()


class Hold:
    """A lock of this process or, without `content`, of the process that it works for."""

    def __init__(self, url: str, place: str, token: str, content: bytes | None = None, until: float = 0.0) -> None:
        self.url, self.place, self.token, self._content = url, place, token, content
        self.thread = None if content is None else threading.current_thread()
        """The thread that acquired it."""
        self._lost, self._lock = "", threading.Lock()
        self._until = until
        """Time before which no other process can have taken over."""
        self.told = False
        """Whether the loss was reported to the thread that acquired the lock."""

    def beat(self) -> None:
        """Renew the lock, and interrupt the main thread if it is lost; an unreachable store is retried later."""
        with suppress(UserError, OSError):
            self.renew()
        if self._lost and not self.told and self.thread is threading.main_thread():
            self.told = True
            interrupt_main(self._lost)

    def renew(self) -> None:
        """Renew the lock, or read whether the process that owns it still does.

        Raises:
            UserError: the store is unreachable.
        """
        with self._lock:
            began = _now()
            renewed = None if self._content is None else self._content + b"\n"
            if renewed is not None and swap(self.place, self._content, renewed):
                self._content, self._until, self._lost = renewed, began + 2 * INTERVAL, ""
                return
            content = self._own_content()
            if content is None:
                self._lost = self._loss()
                return
            self._lost = ""
            self._content = self._content and content  # a write that seemed to fail may have renewed it
            self._until = max(self._until, began + PROMPT)

    def check(self) -> None:
        """Raise if the lock is known to be lost, without a request to the store.

        Raises:
            LostLeaseError: it is lost.
        """
        if is_local(self.place) and not local_path(self.place).exists():
            self.renew()
        if self._lost:
            self.told = self.told or threading.current_thread() is self.thread
            raise LostLockError(self._lost)

    def confirm(self) -> None:
        """Raise unless the lock is held now; its owner, who renews it, needs no request each time.

        Raises:
            LostLeaseError: it is lost.
            UserError: the store is unreachable.
        """
        if self._content is None or _now() >= self._until:
            self.renew()
        self.check()

    @contextmanager
    def staged(self) -> Iterator[int]:
        """Open the local lock's directory, from which files are renamed; that fails once the lock is lost.

        Raises:
            LostLeaseError: it is lost, or an error inside the block was caused by the loss.
        """
        try:
            with opened(local_path(self.place)) as folder:
                if self._own_content() is None:
                    raise FileNotFoundError
                yield folder
        except FileNotFoundError:
            self.renew()
            self.check()
            raise

    @contextmanager
    def promptly(self) -> Iterator[None]:
        """Send requests to S3 only if the lock was confirmed a moment ago: deletes have no fence."""

        def check() -> None:
            if _now() >= self._until:
                raise DelayedError(f"{self.url}: the request was delayed for too long")

        token = before_send.set(check)
        try:
            yield
        finally:
            before_send.reset(token)

    def release(self) -> LostLockError | None:
        """Remove the lock; return the error to raise if it was lost before."""
        for left in range(LOOKS - 1, -1, -1):
            if _now() >= self._until:
                self.renew()
            with self._lock:
                if (content := self._own_content()) is None:
                    break
                try:
                    with self.promptly():
                        if swap(self.place, content, None):
                            return None
                except UnreachableError:  # also if it was delayed for too long
                    if not left:
                        raise
        return LostLockError(self._loss())

    def _own_content(self) -> bytes | None:
        """Return the file's content if it is still this lock's; a corrupt response is read again."""
        for _ in range(LOOKS):
            content = read_current(self.place)
            lock = _read(content)
            if lock is not None:
                return content if lock.token == self.token else None
        return None

    def _loss(self) -> str:
        content = read_current(self.place)
        if content is None:
            return (
                f"{self.url}: removed in the middle of the work, or its file {self.place.rpartition('/')[2]} was; the "
                "rest may be incomplete, so remove it and run the same command again"
            )
        return f"{self.url}: {_named(content)}, after this command stopped renewing its lock; this one ends here"


@contextmanager
def lock(url: str, command: str, *, file: bool = False, patience: float = 0.0) -> Iterator[Hold]:
    """Lock a folder for the block; a lock that the caller already has lasts until its own block ends.

    Folders that are created for the lock and stay empty are removed at the end.

    Args:
        url: the folder, which need not exist.
        command: the command that writes there, as users call it.
        file: whether `url` is a file; only that file is locked.
        patience: seconds to wait for another owner that is alive.

    Raises:
        UserError: another process has the lock, or the location is not writable.
        LostLeaseError: at the end, if the folder was removed or taken over meanwhile. It replaces an error, other than
            a user error, that the loss caused.
    """
    url = _normalised(url)
    folder, _, name = url.rpartition("/")
    place = f"{folder}/.{name}.lock" if file else join(url, LOCK_FILE)
    for hold in _holds():
        if hold.place == place and hold.thread in (None, threading.current_thread()):
            yield hold
            return
    parents = local_path(place).parents if is_local(place) else ()
    created = [parent for parent in parents if not parent.exists()]
    try:
        hold = _acquire(url, place, command, patience)
        holds = current().holds
        holds.append(hold)
        try:
            _fence(url, folder if file else url)
            with repeating(hold.beat, INTERVAL):
                yield hold
        except BaseException as error:
            with suppress(UserError, OSError):  # the first error is raised unless the loss caused it
                lost = hold.release()
                mistake = isinstance(error, UserError) or not isinstance(error, Exception)
                if lost is not None and (hold.told or not mistake):
                    error = lost
            raise error
        finally:
            holds.remove(hold)
        if (lost := hold.release()) is not None:
            raise lost
    finally:
        for parent in created:
            with suppress(OSError):
                parent.rmdir()


def check(url: str) -> Hold | None:
    """Return the lock of the innermost folder under which `url` is written; None if it is not locked.

    Raises:
        LostLeaseError: this process, or the one it works for, has lost a lock of a folder around it.
    """
    holds = _holds()
    path, around = _normalised(url) if holds else "", list[Hold]()
    for hold in holds:
        if path == hold.url or path.startswith(f"{hold.url}/"):
            hold.check()
            around.append(hold)
    return max(reversed(around), key=lambda hold: len(hold.url), default=None)


def _holds() -> list[Hold]:
    """Return all locks of the session, including the one under which this process works for another."""
    session = current()
    holds: list[Hold] = session.holds
    if session.lock is not None:
        url, token = session.lock
        if all(hold.token != token for hold in holds):
            holds.append(Hold(_normalised(url), join(_normalised(url), LOCK_FILE), token))
    return holds


def _fence(url: str, folder: str) -> None:
    """Make all writes fail that a previous owner began, and remove leftovers of killed writers."""
    if scheme(url) in S3:
        try:
            with_retries(url, lambda *_: abort_uploads(url))
        except OSError as error:
            if http_status(error) not in UNLISTED:
                raise
    with suppress(Exception):  # not urgent
        sweep(folder)


def _acquire(url: str, place: str, command: str, patience: float) -> Hold:
    """Write a lock, after waiting for a previous owner as long as necessary."""
    since = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    lock = LockFile(command=command, owner=Owner.here(), since=since, token=secrets.token_hex(8))
    began = seen = _now()
    previous: bytes | None = None
    reported = False
    while True:
        content = read_current(place)
        existing = _read(content)
        alive = existing.owner.alive() if existing is not None else None
        renewed = previous is not None and content != previous
        if content != previous:
            previous, seen = content, _now()
        if content is None or alive is False or (alive is None and not renewed and _now() - seen >= SILENCE):
            now = _now()
            if swap(place, content, lock.encoded()):
                if content is not None and not is_local(place):
                    time.sleep(SETTLE)  # for requests that the previous owner has just sent, see `promptly`
                return Hold(url, place, lock.token, lock.encoded(), now + 2 * INTERVAL)
            time.sleep(random.uniform(0, POLL))  # another process tries at the same time
            continue
        if (alive or renewed) and _now() - began >= (patience if alive else max(patience, GRACE)):
            raise UserError(f"{url}: {_named(content)}; wait for its end, or choose another folder")
        if not reported:
            seconds = patience if alive else max(patience, SILENCE)
            print_message(
                f"{url}: {_named(content)}; waiting for up to {seconds:.0f} s, in case that command has ended"
            )
            reported = True
        time.sleep(POLL)


def _read(content: bytes | None) -> LockFile | None:
    """Parse a lock file; None if it is none, or incomplete."""
    with suppress(ValidationError):
        return LockFile.model_validate_json(content or b"")
    return None


def _named(content: bytes) -> str:
    return str(_read(content) or "another command writes there")


def _normalised(url: str) -> str:
    """Return one name for a folder that several paths may name."""
    return os.path.realpath(local_path(url)) if is_local(url) else url.rstrip("/")


def _now() -> float:
    """Return seconds that also pass while the machine sleeps, whatever its clock is set to."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
