"""Interruption of a command by Ctrl-C, SIGTERM (Slurm, Kubernetes, spot preemption) or SIGHUP.

The first signal interrupts the main thread, or lets a `postponed` block finish its in-flight work within the grace
period. A second signal terminates the process immediately.

Signals are blocked in the main thread and in all threads that it starts. A listener thread receives the signals;
blocking calls and library handlers (Ray Train installs one for SIGINT) cannot interfere. Other threads
(started earlier, or with signals unblocked by a library) may still receive a signal, which Python's wakeup pipe
forwards to the listener.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from syncclip.runtime.progress import print_message

SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})

GRACE = 20.0
"""Grace period in seconds for an in-flight checkpoint or shard; Kubernetes and Slurm wait 30 s by default."""

ECHO = 1.0
"""Seconds during which repeated signals are ignored; timeout(1) and shells signal a process and then its group."""

LAST_SECONDS = 5.0
"""Timeout in seconds for each function in `Listener.last_actions`."""

WAKE = signal.SIGURG
"""Signal that interrupts blocking calls in the main thread; it is ignored by default and has no other use."""

WAKE_INTERVAL = 0.1
"""Interval in seconds between repeated WAKE signals; a signal that arrives just before a blocking call is lost."""

INTERRUPTED_MESSAGE = "syncclip: interrupted; run the same command to resume"

SIGNALLED = "Ctrl-C or a signal"


class Interrupted(KeyboardInterrupt):
    """Interruption of the main thread; subclasses KeyboardInterrupt, which libraries such as Ray handle."""


_requested = threading.Event()
_reason = SIGNALLED


def requested() -> bool:
    """Return whether work in this process should stop at the next resumable point."""
    return _requested.is_set()


def request() -> None:
    """Request that this process stop its work."""
    _requested.set()


def withdraw() -> None:
    """Clear the stop request."""
    _requested.clear()


def reason() -> str:
    """Return a short reason for the interruption of the main thread."""
    return _reason


class Listener:
    """Signal listener of a running command; see `listening`."""

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.signal = 0
        """Number of the first signal received; 0 if no signal was received."""
        self.last_actions: list[Callable[[], None]] = []
        """Functions to call, in reverse order, before terminating the process immediately."""
        self._interrupted = False  # the main thread is interrupted once, and then cleans up
        self._stop: Callable[[], None] | None = None
        self._received_at = 0.0
        self._lock = threading.RLock()
        self._stopping = threading.Lock()
        self.numbers = {number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN}
        """Signals to receive; excludes signals that this process ignores."""
        self._previous = {number: signal.getsignal(number) for number in (*self.numbers, WAKE)}
        self._threads = [threading.Thread(target=loop, daemon=True) for loop in (self._wait, self._read_pipe)]
        self._ended = False

    @property
    def status(self) -> int:
        """Exit status after a signal, by shell convention (130, 143 or 129); 0 without a signal."""
        return 128 + self.signal if self.signal else 0

    def begin(self) -> None:
        """Start receiving signals; must be called in the main thread."""
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*self.numbers, WAKE})  # inherited by the threads
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        for thread in self._threads:
            thread.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {WAKE})
        self._previous_fd = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        self.install_handlers()

    def install_handlers(self) -> None:
        """Install handlers that make Python write the numbers of received signals to the pipe."""
        for number in self.numbers:
            signal.signal(number, lambda *_: None)
        signal.signal(WAKE, lambda *_: self._raise())
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)

    def restore_handlers(self) -> None:
        """Restore the previous handlers."""
        signal.set_wakeup_fd(self._previous_fd)
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: a handler installed by C code

    def end(self) -> None:
        """Stop receiving signals."""
        self._ended = True
        os.write(self._write_end, bytes(1))
        waiting = self._threads[0]
        if waiting.ident is not None and waiting.is_alive():
            signal.pthread_kill(waiting.ident, WAKE)
        for thread in self._threads:
            thread.join()
        self.restore_handlers()
        os.close(self._read_end)
        os.close(self._write_end)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def leave_in_child(self) -> None:
        """Restore the previous signal handling in a forked child process."""
        self.restore_handlers()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.numbers)

    def postpone(self, stop: Callable[[], None] | None) -> None:
        """Call `stop` at the next signal instead of interrupting the main thread; None restores the default.

        Raises:
            Interrupted: a signal was received.
        """
        with self._lock:
            self._stop = stop
        if stop is None and self._stopping.acquire(timeout=max(self.grace, 0.0)):  # `stop` has returned
            self._stopping.release()
        with self._lock:
            if self.signal:
                self._raise()

    def interrupt(self) -> None:
        """Interrupt the main thread; must be called in another thread."""

        def send() -> None:
            while not self._interrupted and _listener is self:
                signal.pthread_kill(threading.main_thread().ident or 0, WAKE)
                time.sleep(WAKE_INTERVAL)

        threading.Thread(target=send, daemon=True).start()  # the caller may hold a lock that the main thread needs

    def _raise(self) -> None:
        if not self._interrupted:
            self._interrupted = True
            raise Interrupted

    def _wait(self) -> None:
        while not self._ended:
            number = signal.sigwait({*self.numbers, WAKE})
            if not self._ended and number != WAKE:
                self._receive(number)

    def _read_pipe(self) -> None:
        while not self._ended:
            for number in os.read(self._read_end, 64):
                if number in self.numbers:
                    self._receive(number)

    def _receive(self, number: int) -> None:
        with self._lock:
            if self.signal:
                if time.monotonic() - self._received_at > ECHO:
                    end_process(INTERRUPTED_MESSAGE, self.status)
                return
            self.signal, self._received_at = number, time.monotonic()
            stop = self._stop
            if stop is None or self.grace <= 0:
                _requested.set()
                self.interrupt()
                return
            self._stopping.acquire()  # released when `stop` has returned; the end of the `with` block waits for it
        overdue = threading.Timer(self.grace, self._end_grace, [stop])
        overdue.daemon = True
        overdue.start()
        with contextlib.suppress(OSError, ValueError):  # the terminal may be closed, as after SIGHUP
            print_message(f"finishing in-flight work within {self.grace:g} s; send a second signal to stop immediately")
        _requested.set()
        with contextlib.suppress(Exception):  # if it fails, the grace period ends the block
            stop()
        self._stopping.release()

    def _end_grace(self, stop: Callable[[], None]) -> None:
        with self._lock:
            if self._stop is stop:
                self.interrupt()


_listener: Listener | None = None


@contextlib.contextmanager
def listening(grace: float = GRACE) -> Iterator[Listener]:
    """Receive signals while a command runs in the main thread; a nested block uses the outer listener.

    Ignored signals, such as SIGHUP under nohup and SIGINT in a script's background job, remain ignored.

    Args:
        grace: grace period for in-flight work in seconds; see `postponed`.
    """
    global _listener, _reason
    _reason = SIGNALLED
    listener = _listener or Listener(grace)
    listener.grace = grace
    if threading.current_thread() is not threading.main_thread() or _listener is not None:
        yield listener
        return
    listener.begin()
    _listener = listener
    try:
        if listener.signal:  # received before `_listener` was set
            listener.interrupt()
        yield listener
    finally:
        _listener = None
        listener.end()
        _requested.clear()


@contextlib.contextmanager
def postponed(stop: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let the block finish in-flight work after the first signal, and interrupt it after the grace period.

    Without a listener, as in a user's own program, Ctrl-C interrupts the block immediately.

    Args:
        stop: function to call once, in another thread, at the first signal; `requested` then returns True.

    Raises:
        Interrupted: a signal was received; raised at the end of the `with` block, or inside it after the grace period.
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
    """Call `action` in another thread if `end_process` terminates the process during the block."""
    actions = _listener.last_actions if _listener is not None else []
    actions.append(action)
    try:
        yield
    finally:
        actions.remove(action)


def end_process(message: str | None, status: int) -> None:
    """Terminate the process, even if the main thread is blocked; call from another thread. No-op without a listener."""
    if _listener is None:
        return
    for action in reversed(_listener.last_actions):
        last = threading.Thread(target=action, daemon=True)
        last.start()
        last.join(LAST_SECONDS)
    if message is not None:
        with contextlib.suppress(OSError, ValueError):
            print_message(message)
    os._exit(status)


def reinstall_handlers() -> None:
    """Reinstall the listener's signal handlers after a library such as Ray has replaced them."""
    if _listener is not None and threading.current_thread() is threading.main_thread():
        _listener.install_handlers()


def exit_status() -> int:
    """Return `Listener.status` of the running command; 0 without a listener."""
    return _listener.status if _listener is not None else 0


def interrupt_main(why: str) -> None:
    """Raise a KeyboardInterrupt in the main thread, which may be blocked indefinitely; call from another thread.

    If SIGINT is ignored and there is no listener, this does nothing; a lost lock is then reported at the next write.
    """
    global _reason
    _reason = why
    if _listener is not None:
        _listener.interrupt()
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def _leave_in_child() -> None:
    global _listener
    if _listener is not None:
        _listener.leave_in_child()
        _listener = None


os.register_at_fork(after_in_child=_leave_in_child)
