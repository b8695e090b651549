"""Leases: whoever writes into a folder holds it, and a second writer is refused in one sentence, on any machine.

A lease is a small file in the folder, which no listing shows. Its owner renews it, and removes it at the end. One whose
process is gone from this machine is taken over at once. Whether a process of another machine lives shows only in that
the lease changes: this is watched for `SILENCE` seconds by the watcher's own count of time, so that no two clocks are
ever compared. An owner that stood still for so long (a suspended laptop) finds its lease lost before it writes again.
"""

from __future__ import annotations

import datetime
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from types import MappingProxyType

from pydantic import ValidationError

from syncclip.core.heartbeat import repeating
from syncclip.core.interruption import interrupt_main
from syncclip.core.owners import Owner
from syncclip.core.progress import say
from syncclip.core.settings import Settings, UserError
from syncclip.storage.leftovers import sweep
from syncclip.storage.places import is_local, join, local_path
from syncclip.storage.swaps import peek, swap

LEASE = ".syncclip.lease"
INTERVAL = 15.0
"""Seconds between two renewals."""
SILENCE = 3 * INTERVAL
"""Seconds without a renewal after which a lease of another machine is taken over."""
GRACE = 30.0
"""Seconds that a process of another machine may take to end: it may be the one in whose place this one was started."""
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
    renewed: int = 0

    def __str__(self) -> str:
        return f"`{self.command}` of {self.owner} writes there since {self.since}"

    def encoded(self) -> bytes:
        """As the file has it."""
        return self.model_dump_json().encode()


class Hold:
    """A lease of this process or, where `lease` is only a token, that of the process that it works for."""

    def __init__(self, url: str, place: str, lease: Lease | str) -> None:
        self.url, self.place, self._lease = url, place, lease
        self.token = lease if isinstance(lease, str) else lease.token
        self._lost, self._seen, self._lock = "", _now(), threading.Lock()
        self._thread = threading.current_thread()
        self.told = False
        """Whether the thread that holds it knows of its loss."""

    def renew(self) -> None:
        """Renew the lease, or look whether it is there; a store that can't be reached is asked again later."""
        with self._lock, suppress(UserError, OSError):
            if not isinstance(self._lease, str):
                later = self._lease.model_copy(update={"renewed": self._lease.renewed + 1})
                if swap(self.place, self._lease.encoded(), later.encoded()):
                    self._lease, self._seen = later, _now()
                    return
            there = _read(self._there())
            if there is not None and not isinstance(self._lease, str):
                self._lease = there  # as a write left it that seemed to fail: from here it is renewed the next time
            self._lost = "" if there is not None else self._loss()
            self._seen = _now()

    def beat(self) -> None:
        """Renew the lease, and interrupt the main thread where it waits for what has lost its place."""
        self.renew()
        if self._lost and not self.told and self._thread is threading.main_thread():
            self.told = True
            interrupt_main(self._lost)

    def check(self) -> None:
        """Refuse to go on without the lease; the store is asked only where that costs little, or is due.

        Raises:
            LostLeaseError: it is lost.
        """
        removed = is_local(self.place) and not local_path(self.place).exists()
        if removed or isinstance(self._lease, str) or _now() - self._seen > 2 * INTERVAL:
            self.renew()
        if self._lost:
            self.told = self.told or threading.current_thread() is self._thread
            raise LostLeaseError(self._lost)

    def release(self) -> LostLeaseError | None:
        """Remove the lease; the error to raise where it was lost before."""
        with self._lock:
            there = self._there()
            kept = there is not None and swap(self.place, there, None)
            return None if kept else LostLeaseError(self._loss())

    def _there(self) -> bytes | None:
        """The file, if it is still this lease's; it may be in the middle of being renewed, or an answer be spoilt."""
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


_holds: list[Hold] = []
"""All of this process."""
_around: ContextVar[Mapping[str, Hold]] = ContextVar("leases", default=MappingProxyType({}))
"""Those of the caller itself, by their files: none of another thread."""


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
    if place in _around.get():
        yield _around.get()[place]
        return
    parents = local_path(place).parents if is_local(place) else ()
    made = [parent for parent in parents if not parent.exists()]
    try:
        hold = Hold(url, place, _acquired(url, place, command, patience))
        try:
            with suppress(Exception):  # its writers are gone: else the folder would be held; and sweeping can wait
                sweep(folder if file else url)
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


@contextmanager
def working_for(url: str, token: str | None) -> Iterator[None]:
    """Write into a folder only as long as another process holds it.

    Args:
        url: the folder.
        token: of that process's `Hold`; None: of none.
    """
    url = _normalised(url)
    with _known(Hold(url, join(url, LEASE), token)) if token is not None else nullcontext():
        yield


def check(url: str) -> None:
    """Refuse to write something that this process held, or wrote for a process that held it, and that was lost.

    Raises:
        LostLeaseError: saying to what.
    """
    if _holds:
        place = _normalised(url)
        for hold in _holds:
            if place == hold.url or place.startswith(f"{hold.url}/"):
                hold.check()


@contextmanager
def _known(hold: Hold) -> Iterator[None]:
    _holds.append(hold)
    before = _around.set({**_around.get(), hold.place: hold})
    try:
        yield
    finally:
        _around.reset(before)
        _holds.remove(hold)


def _acquired(url: str, place: str, command: str, patience: float) -> Lease:
    """Put a lease of one's own there, after whatever has to be waited for."""
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
            if swap(place, there, mine.encoded(), contested=True):
                return mine
            before = None  # another was quicker
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
