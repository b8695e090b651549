"""Locks of folders: one process writes into a folder, a second one is refused in one sentence, on any machine.

The lock is a small hidden file. Its owner renews it, and removes it at the end. If the owner's process is gone from
this machine, the lock is taken over at once. Whether a process of another machine is alive shows only in renewals:
without one for `SILENCE` seconds of the observer's own count of time the lock is taken over; clocks are not compared.

The old owner may only have been stopped, at any point of a write, yet none of its writes succeeds afterwards. Locally a
file is renamed to its name from the lock's directory, which the new owner has removed. On S3 it is a multipart upload:
the new owner aborts all that were created before, and one that is created later sees the new lock before it completes.
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
from syncclip.runtime.progress import say
from syncclip.runtime.shutdown import interrupt_main
from syncclip.storage.cleanup import abort_uploads, sweep
from syncclip.storage.conditional_writes import SETTLE, UNLISTED, opened, peek, swap
from syncclip.storage.responses import last_look, spoilt
from syncclip.storage.retries import UnreachableError, answered, persistently
from syncclip.storage.urls import S3, is_local, join, local_path, scheme

LEASE = ".syncclip.lease"
INTERVAL = 15.0
"""Seconds between two renewals."""
SILENCE = 3 * INTERVAL
"""Seconds without a renewal after which a lease of another machine is taken over."""
GRACE = 30.0
"""Seconds that a process of another machine may take to end: it may be the one in whose place this one was started."""
PROMPT = 2.0
"""Seconds after reading a lock within which a delete must be sent; shorter than a new owner waits (`SETTLE`)."""
LOOKS = 3
"""At a lease that seems to be gone, or is none, before it counts as lost."""
POLL = 1.0
"""Seconds between two looks at a lease that is waited for."""


class LostLeaseError(UserError):
    """A folder that was held has been removed, or taken over by another."""


class Lease(Settings):
    """What the file holds: who writes there."""

    command: str
    owner: Owner
    since: str
    """For people; nothing is compared with it."""
    token: str

    def __str__(self) -> str:
        return f"`{self.command}` of {self.owner} writes there since {self.since}"

    def encoded(self) -> bytes:
        """As the file has it."""
        return self.model_dump_json().encode()


class Hold:
    """A lock of this process or, without its `content`, of the process that it works for."""

    def __init__(self, url: str, place: str, token: str, content: bytes | None = None, until: float = 0.0) -> None:
        self.url, self.place, self.token, self._content = url, place, token, content
        self.thread = None if content is None else threading.current_thread()
        self._lost, self._lock = "", threading.Lock()
        self._until = until
        """Until then no other process can have finished taking over."""
        self.told = False
        """Whether the thread that holds it knows of its loss."""

    def beat(self) -> None:
        """Renew the lock, and interrupt the main thread if it is lost; an unreachable store is asked again later."""
        with suppress(UserError, OSError):
            self.renew()
        if self._lost and not self.told and self.thread is threading.main_thread():
            self.told = True
            interrupt_main(self._lost)

    def renew(self) -> None:
        """Renew the lock, or read whether it is held.

        Raises:
            UserError: the store can't be reached.
        """
        with self._lock:
            began = _now()
            later = None if self._content is None else self._content + b"\n"
            if later is not None and swap(self.place, self._content, later):
                self._content, self._until, self._lost = later, began + 2 * INTERVAL, ""
                return
            there = self._there()
            if there is None:
                self._lost = self._loss()
                return
            self._lost = ""
            self._content = self._content and there  # a write that seemed to fail may have renewed it
            self._until = max(self._until, began + PROMPT)

    def check(self) -> None:
        """Refuse to go on where the lock is known to be lost; no store is asked.

        Raises:
            LostLeaseError: it is lost.
        """
        if is_local(self.place) and not local_path(self.place).exists():
            self.renew()
        if self._lost:
            self.told = self.told or threading.current_thread() is self.thread
            raise LostLeaseError(self._lost)

    def confirm(self) -> None:
        """Refuse to go on unless the lock is held now; its owner, who renews it, need not ask each time.

        Raises:
            LostLeaseError: it is lost.
            UserError: the store can't be reached.
        """
        if self._content is None or _now() >= self._until:
            self.renew()
        self.check()

    @contextmanager
    def staged(self) -> Iterator[int]:
        """A descriptor of the local lock's directory, from which files are renamed; that fails once the lock is lost.

        Raises:
            LostLeaseError: it is lost, or an error inside the block came of that.
        """
        try:
            with opened(local_path(self.place)) as folder:
                if self._there() is None:
                    raise FileNotFoundError
                yield folder
        except FileNotFoundError:
            self.renew()
            self.check()
            raise

    @contextmanager
    def promptly(self) -> Iterator[None]:
        """In this block, a request to S3 is only sent if the lock was confirmed a moment ago: deletes have no fence."""

        def look() -> None:
            if _now() >= self._until:
                raise spoilt(f"{self.url}: delayed for too long")

        before = last_look.set(look)
        try:
            yield
        finally:
            last_look.reset(before)

    def release(self) -> LostLeaseError | None:
        """Remove the lock; the error to raise where it was lost before."""
        for left in range(LOOKS - 1, -1, -1):
            if _now() >= self._until:
                self.renew()
            with self._lock:
                if (there := self._there()) is None:
                    break
                try:
                    with self.promptly():
                        if swap(self.place, there, None):
                            return None
                except UnreachableError:  # also if it was delayed for too long
                    if not left:
                        raise
        return LostLeaseError(self._loss())

    def _there(self) -> bytes | None:
        """The file, if it is still this lock's; an answer may be spoilt."""
        for _ in range(LOOKS):
            there = peek(self.place)
            found = _read(there)
            if found is not None:
                return there if found.token == self.token else None
        return None

    def _loss(self) -> str:
        there = peek(self.place)
        if there is None:
            return (
                f"{self.url}: removed in the middle of the work, or the file {self.place.rpartition('/')[2]} was; what "
                "is left may not be whole, so remove it and run the same command again"
            )
        return f"{self.url}: {_named(there)}, after no sign of life of this command; this one ends here"


@contextmanager
def lease(url: str, command: str, *, file: bool = False, patience: float = 0.0) -> Iterator[Hold]:
    """Hold a folder as long as the block lasts; one that the caller holds already stays so until its own block ends.

    Folders that are made for it and stay empty are removed at the end.

    Args:
        url: the folder; it may not be there yet.
        command: that writes there, as a user calls it.
        file: whether `url` is a file, and all that is held.
        patience: seconds to wait for another owner that is alive.

    Raises:
        UserError: another holds it; or the place can't be written to.
        LostLeaseError: at the end, where the folder was removed or taken over meanwhile. It also takes the place of an
            error, other than a user's mistake, that came of the loss.
    """
    url = _normalised(url)
    folder, _, name = url.rpartition("/")
    place = f"{folder}/.{name}.lease" if file else join(url, LEASE)
    for hold in _holds():
        if hold.place == place and hold.thread in (None, threading.current_thread()):
            yield hold
            return
    parents = local_path(place).parents if is_local(place) else ()
    made = [parent for parent in parents if not parent.exists()]
    try:
        hold = _acquired(url, place, command, patience)
        try:
            _fence(url, folder if file else url)
            with _known(hold), repeating(hold.beat, INTERVAL):
                yield hold
        except BaseException as error:
            with suppress(UserError, OSError):  # the first error matters, unless it came of the loss
                lost = hold.release()
                mistake = isinstance(error, UserError) or not isinstance(error, Exception)
                if lost is not None and (hold.told or not mistake):
                    error = lost
            raise error
        if (lost := hold.release()) is not None:
            raise lost
    finally:
        for parent in made:
            with suppress(OSError):
                parent.rmdir()


def check(url: str) -> Hold | None:
    """Refuse to write something that this process held, or wrote for a process that held it, and that was lost.

    Returns:
        The lock of the innermost folder, under which it is to be written.

    Raises:
        LostLeaseError: saying to what.
    """
    holds = _holds()
    place, around = _normalised(url) if holds else "", list[Hold]()
    for hold in holds:
        if place == hold.url or place.startswith(f"{hold.url}/"):
            hold.check()
            around.append(hold)
    return max(reversed(around), key=lambda hold: len(hold.url), default=None)


def _holds() -> list[Hold]:
    """Return all locks of the session, the one under which this process works for another among them."""
    session = current()
    holds: list[Hold] = session.holds
    if session.lock is not None:
        url, token = session.lock
        if all(hold.token != token for hold in holds):
            holds.append(Hold(_normalised(url), join(_normalised(url), LEASE), token))
    return holds


@contextmanager
def _known(hold: Hold) -> Iterator[None]:
    holds = current().holds
    holds.append(hold)
    try:
        yield
    finally:
        holds.remove(hold)


def _fence(url: str, folder: str) -> None:
    """Let no write succeed that an earlier owner began; remove what killed writers have left."""
    if scheme(url) in S3:
        try:
            persistently(url, lambda *_: abort_uploads(url))
        except OSError as error:
            if answered(error) not in UNLISTED:
                raise
    with suppress(Exception):  # it can wait
        sweep(folder)


def _acquired(url: str, place: str, command: str, patience: float) -> Hold:
    """Put a lock of one's own there, after whatever has to be waited for."""
    since = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    mine = Lease(command=command, owner=Owner.here(), since=since, token=secrets.token_hex(8))
    began = watched = _now()
    before: bytes | None = None
    told = False
    while True:
        there = peek(place)
        found = _read(there)
        lives = found.owner.alive() if found is not None else None
        changed = before is not None and there != before
        if there != before:
            before, watched = there, _now()
        if there is None or lives is False or (lives is None and not changed and _now() - watched >= SILENCE):
            now = _now()
            if swap(place, there, mine.encoded()):
                if there is not None and not is_local(place):
                    time.sleep(SETTLE)  # for what an old owner sent just now, see `promptly`
                return Hold(url, place, mine.token, mine.encoded(), now + 2 * INTERVAL)
            time.sleep(random.uniform(0, POLL))  # another tries at the same time
            continue
        if (lives or changed) and _now() - began >= (patience if lives else max(patience, GRACE)):
            raise UserError(f"{url}: {_named(there)}; wait for its end, or choose another folder")
        if not told:
            long = f"for up to {patience if lives else max(patience, SILENCE):.0f} s"
            say(f"{url}: {_named(there)}; this waits {long}, in case that command is no more")
            told = True
        time.sleep(POLL)


def _read(content: bytes | None) -> Lease | None:
    """The lease that a file holds; None where it is none, or not wholly written."""
    with suppress(ValidationError):
        return Lease.model_validate_json(content or b"")
    return None


def _named(content: bytes) -> str:
    return str(_read(content) or "another command writes there")


def _normalised(url: str) -> str:
    """One name for one folder, as far as paths show it."""
    return os.path.realpath(local_path(url)) if is_local(url) else url.rstrip("/")


def _now() -> float:
    """Seconds, which pass also while the machine sleeps, and whatever its clock is set to."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
