"""Signals, sent to subprocesses so that the test process keeps its handlers."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE

import pytest

from syncclip.runtime import shutdown

HEAD = """
import os, signal, sys, time
from syncclip.runtime.shutdown import INTERRUPTED_MESSAGE, listening, postponed, requested
from syncclip.runtime.progress import print_message

def signalled(body):
    with listening(float(sys.argv[1])) as listener:
        try:
            print("ready", flush=True)
            body()
        except KeyboardInterrupt:
            print_message(INTERRUPTED_MESSAGE)
            sys.stdout.flush()
            os._exit(listener.status)
"""


@contextmanager
def process(body: str, grace: float = 60.0, ready: str = "ready") -> Iterator[subprocess.Popen[str]]:
    """Run `body`, which calls `signalled`, in a subprocess, and wait until it prints `ready`."""
    command = [sys.executable, "-c", HEAD + textwrap.dedent(body), str(grace)]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) as running:
        assert running.stdout is not None
        while running.stdout.readline() != f"{ready}\n":
            assert running.poll() is None
        try:
            yield running
        finally:
            running.kill()


SLEEP = "signalled(lambda: time.sleep(600))"
HANDLER = """
def library():
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(5))
    print("ready", flush=True)
    time.sleep(600)
signalled(library)
"""
"""A library installs handlers of its own."""
OLDER_THREAD = """
import threading
older = threading.Thread(target=time.sleep, args=[600], daemon=True)
older.start()
threading.Timer(0.3, lambda: signal.pthread_kill(older.ident, signal.SIGINT)).start()
signalled(lambda: time.sleep(600))
"""
"""A thread that started before the listener receives the signal."""
LOST_WAKE = """
pthread_kill, sent = signal.pthread_kill, []

def lose_first(thread, number):
    sent.append(number)
    if len(sent) > 1:
        pthread_kill(thread, number)

signal.pthread_kill = lose_first
signalled(lambda: time.sleep(600))
"""
"""The first signal to the main thread arrives just before its system call, which it does not interrupt."""


@pytest.mark.parametrize(
    ("body", "number", "status"),
    [
        (SLEEP, signal.SIGINT, 130),
        (SLEEP, signal.SIGTERM, 143),
        (SLEEP, signal.SIGHUP, 129),
        (HANDLER, signal.SIGTERM, 143),
        (OLDER_THREAD, None, 130),
        (LOST_WAKE, signal.SIGTERM, 143),
    ],
    ids=["INT", "TERM", "HUP", "library's handler", "older thread", "lost wake-up"],
)
def test_a_signal_ends_a_command_with_one_message_and_the_status_of_shells(
    body: str, number: int | None, status: int
) -> None:
    with process(body) as running:
        if number is not None:
            running.send_signal(number)
        out, err = running.communicate()
    printed = out.replace("ready", "").strip()  # the signal may interrupt `print` before the end of the line
    assert (running.returncode, printed, err) == (status, "", shutdown.INTERRUPTED_MESSAGE + "\n")


def test_signals_that_a_library_unblocks_are_handled_like_others() -> None:
    """Like multiprocessing's resource tracker in the thread that starts it."""
    body = """
    def library():
        with postponed():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
            print("unblocked", flush=True)
            while not requested():
                time.sleep(0.01)
            print("finished", flush=True)
    signalled(library)
    """
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        with process(body, ready="unblocked") as running:
            running.send_signal(number)
            out, err = running.communicate()
        assert (running.returncode, out, err.splitlines()[1:]) == (status, "finished\n", [shutdown.INTERRUPTED_MESSAGE])


FINISHING = """
def finish():
    calls = []
    with postponed(lambda: calls.append(time.monotonic())):
        print("in flight", flush=True)
        while not requested():
            time.sleep(0.01)
        {last}
        print("finished", len(calls), flush=True)
    print("unreachable")
signalled(finish)
"""


def test_in_flight_work_is_finished_before_the_interrupt() -> None:
    with process(FINISHING.format(last="time.sleep(0.3)"), ready="in flight") as running:
        running.terminate()
        out, err = running.communicate()
    assert (running.returncode, out) == (143, "finished 1\n")
    assert err.splitlines() == [
        "finishing in-flight work within 60 s; send a second signal to stop immediately",
        shutdown.INTERRUPTED_MESSAGE,
    ]


@pytest.mark.parametrize("grace", [0, 0.2])
def test_in_flight_work_is_interrupted_after_the_grace_period(grace: float) -> None:
    with process(FINISHING.format(last="time.sleep(600)"), grace=grace, ready="in flight") as running:
        running.terminate()
        out, err = running.communicate()
    assert (running.returncode, out, err.count("\n")) == (143, "", 2 if grace else 1)
    assert err.endswith(shutdown.INTERRUPTED_MESSAGE + "\n")


def test_a_second_signal_ends_the_process_at_once_but_an_echo_does_not() -> None:
    with process(FINISHING.format(last="time.sleep(600)"), ready="in flight") as running:
        running.terminate()
        running.terminate()  # within a second: timeout(1) sends it twice
        assert running.stderr is not None and "finishing" in running.stderr.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(timeout=1.5 * shutdown.ECHO)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate()
    assert (running.returncode, err) == (143, shutdown.INTERRUPTED_MESSAGE + "\n")


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT"])
def test_ignored_signals_stay_ignored(name: str) -> None:
    body = f"""
    signal.signal(signal.{name}, signal.SIG_IGN)
    signalled(lambda: print(sys.stdin.readline()))
    """
    with process(body) as running:
        running.send_signal(signal.Signals[name])
        out, _ = running.communicate("still running")
    assert (running.returncode, out.strip()) == (0, "still running")


def test_forked_children_have_default_handlers() -> None:
    body = """
    def fork():
        sys.stdin.readline()  # else the result might arrive with "ready", beyond the reach of communicate()
        child = os.fork()
        if child == 0:
            time.sleep(600)
        os.kill(child, signal.SIGTERM)
        print(os.waitpid(child, 0)[1], flush=True)
    signalled(fork)
    """
    with process(body) as running:
        out, _ = running.communicate("go\n")
    assert out == f"{int(signal.SIGTERM)}\n"


@pytest.fixture
def default_handler() -> Iterator[None]:
    """Restore the handler of Ctrl-C, which may be ignored here."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("default_handler")
def test_without_a_listener_a_block_is_interrupted() -> None:
    with pytest.raises(KeyboardInterrupt), shutdown.postponed():
        threading.Thread(target=shutdown.interrupt_main, args=["Ray was lost"]).start()
        time.sleep(60)
    assert shutdown.reason() == "Ray was lost" and not shutdown.requested()


def test_a_listener_restores_handlers_mask_and_descriptors() -> None:
    def state() -> object:
        handlers = [signal.getsignal(number) for number in (*shutdown.SIGNALS, shutdown.WAKE)]
        return signal.pthread_sigmask(signal.SIG_BLOCK, []), handlers, len([*Path("/proc/self/fd").iterdir()])

    before = state()
    with shutdown.listening():
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) >= shutdown.SIGNALS
        with shutdown.listening(3) as inner:
            assert inner.grace == 3
    assert state() == before
    assert not shutdown.requested()


def test_in_flight_work_is_finished_after_the_terminal_was_closed() -> None:
    with process(FINISHING.format(last=""), ready="in flight") as running:
        assert running.stderr is not None
        running.stderr.close()  # writing a message fails
        running.send_signal(signal.SIGHUP)
        assert running.stdout is not None and running.stdout.read() == "finished 1\n"
