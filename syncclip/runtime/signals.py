"""Signals, received in other threads, whatever the main thread waits for and whatever handlers libraries install.

They are blocked in the main thread and in all that start later, where one thread waits for them. Some reach another
thread all the same: one that was there before, or one in which a library unblocked them, as multiprocessing's resource
tracker does. Python's handler for these would run in the main thread, once that wakes; so a pipe passes them on.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Collection

WAKE = signal.SIGURG
"""What interrupts the main thread, also in a call that waits. Nobody else sends it, and by default it does nothing."""

AGAIN = 0.1
"""Seconds until WAKE is sent again: one that comes just before a call that waits does not end the waiting."""


class Reception:
    """Calls `receive` with the number of each signal that comes, from another thread.

    Args:
        numbers: of the signals; those that are ignored stay so, as SIGHUP under nohup and SIGINT in a script's
            background.
        woken: called in the main thread by `wake`; it may raise.
    """

    def __init__(self, numbers: Collection[int], receive: Callable[[int], None], woken: Callable[[], None]) -> None:
        self.numbers = {number for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
        self._receive = receive
        self._woken = woken
        self._handlers = {number: signal.getsignal(number) for number in (*self.numbers, WAKE)}
        self._threads = [
            threading.Thread(target=target, name="signals", daemon=True) for target in (self._wait, self._read)
        ]
        self._ended = False

    def begin(self) -> None:
        """Receive from now on; to be called in the main thread."""
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*self.numbers, WAKE})  # which the threads inherit
        self._from, self._to = os.pipe()
        os.set_blocking(self._to, False)
        for thread in self._threads:
            thread.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {WAKE})
        self._fd = signal.set_wakeup_fd(self._to, warn_on_full_buffer=False)
        self.handle()

    def handle(self) -> None:
        """Pass on what reaches another thread: Python writes the numbers of signals with a handler to the pipe."""
        for number in self.numbers:
            signal.signal(number, lambda *_: None)
        signal.signal(WAKE, lambda *_: self._woken())
        signal.set_wakeup_fd(self._to, warn_on_full_buffer=False)

    def give_back(self) -> None:
        """Have the handlers again that there were before."""
        signal.set_wakeup_fd(self._fd)
        for number, handler in self._handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: one that is not Python's

    def end(self) -> None:
        """Receive no more."""
        self._ended = True
        os.write(self._to, bytes(1))
        waiting = self._threads[0]
        assert waiting.ident is not None
        if waiting.is_alive():
            signal.pthread_kill(waiting.ident, WAKE)
        for thread in self._threads:
            thread.join()
        self.give_back()
        os.close(self._from)
        os.close(self._to)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def unblock(self) -> None:
        """In a child process: signals reach it as they reach others."""
        self.give_back()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.numbers)

    def _wait(self) -> None:
        while not self._ended:
            number = signal.sigwait({*self.numbers, WAKE})
            if not self._ended and number != WAKE:
                self._receive(number)

    def _read(self) -> None:
        while not self._ended:
            for number in os.read(self._from, 64):
                if number in self.numbers:
                    self._receive(number)


def wake(noticed: Callable[[], bool]) -> None:
    """Interrupt the main thread, again and again until it has noticed."""

    def send() -> None:
        while not noticed():
            signal.pthread_kill(threading.main_thread().ident or 0, WAKE)
            time.sleep(AGAIN)

    threading.Thread(target=send, daemon=True).start()  # whoever asks may hold a lock that the main thread waits for
