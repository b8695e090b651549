"""Ctrl-C, SIGTERM (Slurm, Kubernetes, a spot machine's notice) and SIGHUP: how a command is interrupted.

The first signal interrupts the main thread, or lets a block that knows how to stop finish what is in flight, as long
as the grace allows; another one ends the process at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from syncclip.runtime.progress import say
from syncclip.runtime.signals import Reception, wake

SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})

GRACE = 20.0
"""Seconds for a checkpoint or a shard in flight. Kubernetes and Slurm send SIGKILL 30 s after SIGTERM by default."""

ECHO = 1.0
"""Seconds within which a signal that comes again is the same one: timeout(1) and shells send it to a process and then
to its whole group."""

LAST_SECONDS = 5.0
"""For each of the last actions of a process that is ended at once."""

SENTENCE = "syncclip: interrupted; the same command goes on from what is committed"

SIGNALLED = "Ctrl-C or a signal"


class Interrupted(KeyboardInterrupt):
    """Raised in the main thread. Libraries, Ray among them, know KeyboardInterrupt alone, so it must be one."""


_requested = threading.Event()
_reason = SIGNALLED


def requested() -> bool:
    """Whether what runs in this process should stop at the next place from which it can be resumed."""
    return _requested.is_set()


def request() -> None:
    """Ask what runs in this process to stop, see `requested`."""
    _requested.set()


def withdraw() -> None:
    """Take the request back."""
    _requested.clear()


def reason() -> str:
    """Why the main thread was interrupted, in a few words."""
    return _reason


class Listener:
    """Waits for signals while a command runs, see `listening`."""

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.signal = 0  # the first that came; 0: none
        self.last_actions: list[Callable[[], None]] = []
        """Called before the process is ended at once, the newest first."""
        self.raised = False  # whether the main thread was interrupted: it is only once, and then cleans up
        self._stop: Callable[[], None] | None = None
        self._came = 0.0
        self._lock = threading.RLock()
        self._stopping = threading.Lock()
        self.reception = Reception(SIGNALS, self._receive, self._raise)

    @property
    def status(self) -> int:
        """The exit status of a command that a signal ended, as shells have it: 130, 143 or 129; 0 without one."""
        return 128 + self.signal if self.signal else 0

    def postpone(self, stop: Callable[[], None] | None) -> None:
        """From now on call `stop` at a signal; None: interrupt the main thread, also for one that has come meanwhile.

        Raises:
            Interrupted: a signal has come.
        """
        with self._lock:
            self._stop = stop
            if stop is not None:
                self._end_if_signalled()
                return
        if self._stopping.acquire(timeout=max(self.grace, 0.0)):  # else it is under way for too long
            self._stopping.release()
        with self._lock:
            self._end_if_signalled()

    def interrupt(self) -> None:
        """Interrupt the main thread, from another one."""
        wake(lambda: self.raised or _listener is not self)

    def _end_if_signalled(self) -> None:
        if self.signal:
            self._raise()

    def _raise(self) -> None:
        if not self.raised:
            self.raised = True
            raise Interrupted

    def _receive(self, number: int) -> None:
        with self._lock:
            if self.signal:
                if time.monotonic() - self._came > ECHO:
                    end_process(SENTENCE, self.status)
                return
            self.signal, self._came = number, time.monotonic()
            stop = self._stop
            if stop is None or self.grace <= 0:
                _requested.set()
                self.interrupt()
                return
            self._stopping.acquire()  # whoever ends the block waits until `stop` has come back
        overdue = threading.Timer(self.grace, self._lose_patience, [stop])
        overdue.daemon = True
        overdue.start()
        with contextlib.suppress(OSError, ValueError):  # the terminal may be gone, as after SIGHUP
            say(f"finishing what is in flight, within {self.grace:g} s; a second signal ends it at once")
        _requested.set()
        with contextlib.suppress(Exception):  # where nothing can be told any more, the grace ends the waiting
            stop()
        self._stopping.release()

    def _lose_patience(self, stop: Callable[[], None]) -> None:
        with self._lock:
            if self._stop is stop:
                self.interrupt()


_listener: Listener | None = None


@contextlib.contextmanager
def listening(grace: float = GRACE) -> Iterator[Listener]:
    """Listen to the signals while a command runs in the main thread; elsewhere they stay as they are.

    What is ignored stays so, as SIGHUP under nohup and SIGINT in the background of a script. Inside another such
    block, that one goes on to listen.

    Args:
        grace: seconds that what is in flight may take, see `postponed`.
    """
    global _listener, _reason
    _reason = SIGNALLED
    listener = _listener or Listener(grace)
    listener.grace = grace
    if threading.current_thread() is not threading.main_thread() or _listener is not None:
        yield listener
        return
    listener.reception.begin()
    _listener = listener
    try:
        if listener.signal:  # it has come since
            listener.interrupt()
        yield listener
    finally:
        _listener = None
        listener.reception.end()
        _requested.clear()


@contextlib.contextmanager
def postponed(stop: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let this block end by itself at the first signal, if it does so within the grace; it is interrupted afterwards.

    Where no command listens, as in a program of the user's, Ctrl-C interrupts as ever.

    Args:
        stop: called once, from another thread, when a signal comes; `requested` is true from then on.

    Raises:
        Interrupted: a signal came: at the block's end, or inside it when the grace was over.
    """
    listener = _listener
    if listener is None:
        yield
        return
    listener.postpone(stop)
    try:
        yield
    finally:
        listener.postpone(None)


@contextlib.contextmanager
def at_once(action: Callable[[], None]) -> Iterator[None]:
    """Have `action` called, from another thread, where the process is ended at once inside this block."""
    actions = _listener.last_actions if _listener is not None else []
    actions.append(action)
    try:
        yield
    finally:
        actions.remove(action)


def end_process(sentence: str | None, status: int) -> None:
    """End the command from another thread, whatever its main thread waits for; nothing where no command listens."""
    if _listener is None:
        return
    for action in reversed(_listener.last_actions):
        last = threading.Thread(target=action, daemon=True)
        last.start()
        last.join(LAST_SECONDS)
    if sentence is not None:
        with contextlib.suppress(OSError, ValueError):
            say(sentence)
    os._exit(status)


def handle_again() -> None:
    """To be called after a library has installed handlers of its own, as Ray does."""
    if _listener is not None and threading.current_thread() is threading.main_thread():
        _listener.reception.handle()


def exit_status() -> int:
    """`Listener.status` of the command that runs; 0 where none listens."""
    return _listener.status if _listener is not None else 0


def interrupt_main(why: str) -> None:
    """Raise KeyboardInterrupt in the main thread, from any other: what it waits for will never come.

    Nothing happens where no command listens and SIGINT is ignored: what is lost is then noticed at the next write.
    """
    global _reason
    _reason = why
    if _listener is not None:
        _listener.interrupt()
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def _unblock() -> None:
    """In a child process: signals reach it as they reach others, and nobody listens."""
    global _listener
    if _listener is not None:
        _listener.reception.unblock()
        _listener = None


os.register_at_fork(after_in_child=_unblock)
