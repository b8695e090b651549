"""Folder locks: only one process at a time may write to a folder; any other process fails with a one-line error.

The lock is a small hidden file that its owner renews periodically and removes at the end. If the owner ran on this
machine and has ended, the next process takes over the lock immediately. An owner on another machine is considered dead
after `SILENCE` seconds without a renewal, measured with the waiting process's own monotonic clock.

If the previous owner was only suspended, its writes fail after the takeover. Local files are renamed from the lock's
directory, which the new owner has removed. On S3, every write is a multipart upload. The new owner aborts all earlier
uploads, and every process checks its lock before it completes a later upload.

A lock on a range of shards covers all files but those whose names begin with the numbers of other shards, so that
several jobs can fill a folder. It excludes locks on overlapping ranges and on the whole folder.
"""

from __future__ import annotations

import datetime
import os
import random
import re
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

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
from syncclip.storage.retries import UnreachableError, http_status, user_errors, with_retries
from syncclip.storage.urls import OBJECT_STORES, S3, is_local, join, local_path, scheme

LOCK_FILE = ".syncclip.lock"
_RANGE_LOCK = re.compile(r"\.shards-(\d+)-(\d+)\.lock")
INTERVAL = 15.0
"""Interval between renewals, in seconds."""
SILENCE = 3 * INTERVAL
"""Time without a renewal after which another machine's lock is taken over, in seconds."""
GRACE = 30.0
"""Minimum time to wait for a lock owner on another machine, in seconds; this process may be the owner's replacement."""
PROMPT = 2.0
"""Maximum time between reading a lock and sending a delete request, in seconds; must be less than `SETTLE`."""
READ_ATTEMPTS = 3
"""Number of reads after which a missing or invalid lock is considered lost."""
POLL = 1.0
"""Interval between reads of another owner's lock, in seconds."""


class LostLockError(UserError):
    """Raised if a locked folder was removed or taken over by another process."""


class DelayedError(Exception):
    """Raised if a request was not sent because the lock may be lost; `with_retries` checks the lock and retries."""


class LockFile(Settings):
    """Content of the lock file, which describes the process that writes to the folder."""

    command: str
    owner: Owner
    since: str
    """Start time of the command, for messages."""
    token: str

    def __str__(self) -> str:
        return f"`{self.command}` of {self.owner} has held the lock since {self.since}"


class Hold:
    """A lock held by this process or, if `content` is None, by its driver."""

    def __init__(self, url: str, lock_url: str, token: str, content: bytes | None = None, until: float = 0.0) -> None:
        self.url, self.lock_url, self.token, self._content = url, lock_url, token, content
        self.thread = None if content is None else threading.current_thread()
        """Thread that acquired the lock, or None for the driver's lock."""
        self._loss, self._lock = "", threading.Lock()
        self._until = until
        """Time until which no other process can take over the lock."""
        self.reported = False
        """Whether the loss of the lock was reported to `thread`."""
        self.shards = _shards_of(lock_url)
        """Range of shards that the lock covers; None: all files."""

    def covers(self, path: str) -> bool:
        """Return whether the lock covers a file, or is a lock on the folder `path` itself."""
        return path == self.url or (path.startswith(f"{self.url}/") and self._includes(path[len(self.url) + 1 :]))

    def _includes(self, name: str) -> bool:
        number = re.match(r"\d{5,}", name)
        return self.shards is None or number is None or int(number[0]) in self.shards

    def owns(self, path: str) -> bool:
        """Return whether the lock covers a file to which no owner of a lock on other shards writes."""
        name = path.rpartition("/")[2]
        own = self.shards is None or name[:5].isdigit() or f"-{range_name(self.shards)}." in name
        return own and self.covers(path)

    def beat(self) -> None:
        """Renew the lock, and interrupt the main thread if the lock is lost; storage errors are ignored."""
        with suppress(UserError, OSError):
            self.renew()
        if self._loss and not self.reported and self.thread is threading.main_thread():
            self.reported = True
            interrupt_main(self._loss)

    def renew(self) -> None:
        """Renew the lock or, in a worker, check that the driver still holds it.

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
        """Raise a LostLockError if the loss of the lock has been detected; no request is sent to a store."""
        if is_local(self.lock_url) and not local_path(self.lock_url).exists():
            self.renew()
        if self._loss:
            self.reported = self.reported or threading.current_thread() is self.thread
            raise LostLockError(self._loss)

    def confirm(self) -> None:
        """Check that the lock is still held; right after a renewal, this sends no request.

        Raises:
            LostLockError: the lock is lost.
            UserError: the store is unreachable.
        """
        if self._content is None or _now() >= self._until:
            self.renew()
        self.check()

    @contextmanager
    def staged(self) -> Iterator[int]:
        """Open a local lock's directory, from which no file can be renamed once the lock is lost.

        Raises:
            LostLockError: the lock was lost before the end of the `with` block.
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
        """In the `with` block, reject S3 requests unless the lock was renewed recently: S3 deletes can't be fenced."""

        def check() -> None:
            if _now() >= self._until:
                raise DelayedError(f"{self.url}: the request was delayed for too long")

        token = before_send.set(check)
        try:
            yield
        finally:
            before_send.reset(token)

    def release(self) -> LostLockError | None:
        """Remove the lock; return an error if another process has already removed it or taken it over."""
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
        """Return the content of the lock file, or None if the lock was lost; corrupt content is read again."""
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
                f"{self.url}: the folder or its {self.lock_url.rpartition('/')[2]} was removed while this command ran; "
                "remove the folder, whose files may be incomplete, and run the same command again"
            )
        return (
            f"{self.url}: {_describe(content)}; that command took over the folder after this command stopped renewing "
            "its lock; wait until that command ends, and run this command again"
        )


def range_name(shards: range) -> str:
    """Return the text that identifies a range of shards in file names, such as `00000-01000` for `range(1000)`."""
    return f"{shards.start:05d}-{shards.stop:05d}"


def _shards_of(lock_url: str) -> range | None:
    match = _RANGE_LOCK.fullmatch(lock_url.rpartition("/")[2])
    return range(int(match[1]), int(match[2])) if match else None


@contextmanager
def lock(
    url: str, command: str, *, file: bool = False, shards: range | None = None, patience: float = 0.0
) -> Iterator[Hold]:
    """Lock a folder for the duration of the `with` block, or reuse a lock that the calling thread already holds.

    Folders that are created for the lock and remain empty are removed at the end.

    Args:
        url: URL of the folder, which need not exist.
        command: command that writes to the folder, used in messages.
        file: whether `url` is a single file to lock.
        shards: range of shards to lock instead of the whole folder.
        patience: maximum time in seconds to wait for an owner that is still alive.

    Raises:
        UserError: another process holds the lock, or the location is not writable.
        LostLockError: the folder was removed or taken over; raised after the `with` block, replacing unexpected errors.
    """
    url = _normalised(url)
    folder, _, name = url.rpartition("/")
    lock_name = LOCK_FILE if shards is None else f".shards-{range_name(shards)}.lock"
    lock_url = f"{folder}/.{name}.lock" if file else join(url, lock_name)
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
            with repeating(hold.beat, INTERVAL):  # while waiting for the owners of other locks, too
                if not file:
                    _exclude(hold, command, patience)
                _fence(hold, folder if file else url)
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
    """Return the innermost lock that covers `url`, or None if `url` is not locked.

    Raises:
        LostLockError: a lock that covers `url` was lost.
    """
    holds = _holds()
    path, outer = _normalised(url) if holds else "", list[Hold]()
    for hold in holds:
        if hold.covers(path):
            hold.check()
            outer.append(hold)
    return max(reversed(outer), key=lambda hold: len(hold.url), default=None)


def _holds() -> list[Hold]:
    """Return the session's locks, including the driver's lock in a worker."""
    session = current()
    holds: list[Hold] = session.holds
    if session.lock is not None:
        url, token = session.lock
        if all(hold.token != token for hold in holds):
            holds.append(Hold(_normalised(url), join(_normalised(url), token.partition(":")[0]), token))
    return holds


def _fence(hold: Hold, folder: str) -> None:
    """Abort unfinished writes by the previous owner, and remove files left behind by killed writers."""
    url = hold.url
    if scheme(url) in S3:
        try:
            with_retries(url, lambda *_: abort_uploads(url, only=hold.owns))
        except OSError as error:
            if http_status(error) not in UNLISTED:
                raise
    with suppress(Exception):  # leftover files are harmless
        sweep(folder)


def _exclude(hold: Hold, command: str, patience: float) -> None:
    """Remove the locks of dead owners on the same files; raise a UserError if such an owner is alive.

    Of two processes that acquire such locks at the same time, at least one finds the lock of the other.
    """
    url = hold.url
    with user_errors(url, "list"), suppress(FileNotFoundError):
        if is_local(url):
            names = [path.name for path in local_path(url).iterdir()]
        else:
            prefixes = (".shards-", LOCK_FILE) if scheme(url) in OBJECT_STORES else ()
            names = [path.rpartition("/")[2] for path in with_retries(url, partial(_list, prefixes=prefixes))]
        for lock_url in sorted(join(url, name) for name in names if name == LOCK_FILE or _RANGE_LOCK.fullmatch(name)):
            ours, theirs = hold.shards, _shards_of(lock_url)
            apart = ours and theirs and (ours.stop <= theirs.start or theirs.stop <= ours.start)
            if lock_url != hold.lock_url and not apart:
                other = _acquire(url, lock_url, command, patience)
                _fence(other, url)
                other.release()


def _list(fs: Any, path: str, prefixes: Sequence[str]) -> list[str]:
    """List the files whose names begin with any of the prefixes; without prefixes, all files."""
    lists = [fs.find(path, prefix=prefix) for prefix in prefixes] if prefixes else [fs.ls(path, detail=False)]
    return [name for names in lists for name in names]


def _acquire(url: str, lock_url: str, command: str, patience: float) -> Hold:
    """Acquire a lock; wait for the current owner if necessary."""
    since = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    lock_name = lock_url.rpartition("/")[2]
    lock = LockFile(command=command, owner=Owner.here(), since=since, token=f"{lock_name}:{secrets.token_hex(8)}")
    own_content = lock.model_dump_json().encode()
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
            if swap(lock_url, content, own_content):
                if content is not None and not is_local(lock_url):
                    time.sleep(SETTLE)  # for requests that the previous owner has just sent; see `promptly`
                return Hold(url, lock_url, lock.token, own_content, now + 2 * INTERVAL)
            time.sleep(random.uniform(0, POLL))  # another process is trying at the same time
            continue
        if (alive or renewed) and _now() - began >= (patience if alive else max(patience, GRACE)):
            raise UserError(f"{url}: {_describe(content)}; wait until that command ends, or choose a different folder")
        if not reported:
            seconds = patience if alive else max(patience, SILENCE)
            print_message(
                f"{url}: {_describe(content)}; waiting for up to {seconds:.0f} s, in case that command has ended"
            )
            reported = True
        time.sleep(POLL)


def _read(content: bytes | None) -> LockFile | None:
    """Parse the content of a lock file; return None if it is invalid or incomplete."""
    with suppress(ValidationError):
        return LockFile.model_validate_json(content or b"")
    return None


def _describe(content: bytes) -> str:
    return str(_read(content) or "another command holds the lock")


def _normalised(url: str) -> str:
    """Return the canonical path or URL of a folder."""
    return os.path.realpath(local_path(url)) if is_local(url) else url.rstrip("/")


def _now() -> float:
    """Return a monotonic time in seconds that also advances while the machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
