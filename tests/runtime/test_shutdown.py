"""Signals, as processes of their own receive them: the test process keeps its handlers."""

from __future__ import annotations

import os
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
    """A Python that has said that it's ready to be signalled; `body` calls `signalled` with what runs meanwhile."""
    command = [sys.executable, "-c", HEAD + textwrap.dedent(body), str(grace)]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) as running:
        assert running.stdout is not None
        while running.stdout.readline() != f"{ready}\n":
            assert running.poll() is None
        try:
            yield running
        finally:
            running.kill()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_in_one_sentence_and_the_status_that_shells_have(number: int, status: int) -> None:
    with process("signalled(lambda: time.sleep(600))") as running:
        running.send_signal(number)
        out, err = running.communicate()
    assert (running.returncode, out, err) == (status, "", shutdown.INTERRUPTED_MESSAGE + "\n")


def test_handlers_that_a_library_installs_never_run() -> None:
    body = """
    def library():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os._exit(5))
        print("installed", flush=True)
        time.sleep(600)
    signalled(library)
    """
    with process(body, ready="installed") as running:
        running.terminate()
        _, err = running.communicate()
    assert (running.returncode, err) == (143, shutdown.INTERRUPTED_MESSAGE + "\n")


def test_a_signal_that_an_older_thread_receives_interrupts_a_waiting_main_thread() -> None:
    body = """
    import threading
    older = threading.Thread(target=time.sleep, args=[600], daemon=True)
    older.start()
    threading.Timer(0.3, lambda: signal.pthread_kill(older.ident, signal.SIGINT)).start()
    signalled(lambda: time.sleep(600))
    """
    with process(body) as running:
        _, err = running.communicate()
    assert (running.returncode, err) == (130, shutdown.INTERRUPTED_MESSAGE + "\n")


def test_a_wake_up_just_before_the_main_thread_waits_is_repeated() -> None:
    """A signal that arrives after Python has checked for signals does not interrupt the system call that follows."""
    body = """
    pthread_kill, sent = signal.pthread_kill, []

    def too_early_at_first(thread, number):
        sent.append(number)
        if len(sent) > 1:
            pthread_kill(thread, number)

    signal.pthread_kill = too_early_at_first
    signalled(lambda: time.sleep(600))
    """
    with process(body) as running:
        running.terminate()
        _, err = running.communicate()
    assert (running.returncode, err) == (143, shutdown.INTERRUPTED_MESSAGE + "\n")


def test_signals_that_a_library_unblocks_are_waited_for_like_others() -> None:
    """As multiprocessing's resource tracker does in the thread that needs it first."""
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
    asked = []
    with postponed(lambda: asked.append(time.monotonic())):
        print("in flight", flush=True)
        while not requested():
            time.sleep(0.01)
        {last}
        print("finished", len(asked), flush=True)
    print("never said")
signalled(finish)
"""


def test_what_is_in_flight_is_finished_before_the_command_is_interrupted() -> None:
    with process(FINISHING.format(last="time.sleep(0.3)"), ready="in flight") as running:
        running.terminate()
        out, err = running.communicate()
    assert (running.returncode, out) == (143, "finished 1\n")
    assert err.splitlines() == [
        "finishing in-flight work, within 60 s; a second signal ends it at once",
        shutdown.INTERRUPTED_MESSAGE,
    ]


def test_what_takes_longer_than_the_grace_is_interrupted() -> None:
    with process(FINISHING.format(last="time.sleep(600)"), grace=0.2, ready="in flight") as running:
        running.terminate()
        out, err = running.communicate()
    assert (running.returncode, out) == (143, "")
    assert err.endswith(shutdown.INTERRUPTED_MESSAGE + "\n")


def test_without_grace_nothing_is_finished() -> None:
    with process(FINISHING.format(last="time.sleep(600)"), grace=0, ready="in flight") as running:
        running.terminate()
        out, err = running.communicate()
    assert (running.returncode, out, err) == (143, "", shutdown.INTERRUPTED_MESSAGE + "\n")


def test_a_second_signal_ends_at_once_what_a_first_lets_finish_and_an_echo_does_not() -> None:
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
def test_what_is_ignored_as_under_nohup_or_in_a_scripts_background_stays_so(name: str) -> None:
    body = f"""
    signal.signal(signal.{name}, signal.SIG_IGN)
    signalled(lambda: print(sys.stdin.readline()))
    """
    with process(body) as running:
        running.send_signal(signal.Signals[name])
        out, _ = running.communicate("still here")
    assert (running.returncode, out.strip()) == (0, "still here")


def test_children_receive_signals_as_others_do() -> None:
    body = """
    def fork():
        child = os.fork()
        if child == 0:
            time.sleep(600)
        os.kill(child, signal.SIGTERM)
        print(os.waitpid(child, 0)[1], flush=True)
    signalled(fork)
    """
    with process(body) as running:
        out, _ = running.communicate()
    assert out == f"{int(signal.SIGTERM)}\n"


@pytest.fixture
def usual_handler() -> Iterator[None]:
    """Ctrl-C as in a program that a terminal started, whatever started the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("usual_handler")
def test_where_nobody_listens_a_block_is_interrupted_as_ever() -> None:
    with pytest.raises(KeyboardInterrupt), shutdown.postponed():
        threading.Thread(target=shutdown.interrupt_main, args=["Ray was lost"]).start()
        time.sleep(60)
    assert shutdown.reason() == "Ray was lost" and not shutdown.requested()


def test_afterwards_signals_are_as_they_were() -> None:
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


def test_a_signal_ends_a_command_whose_terminal_is_gone() -> None:
    """As SIGHUP does: nothing can be said any more."""
    code = (
        "import time\nfrom syncclip.runtime.shutdown import listening, postponed, requested\n"
        "with listening(grace=60):\n    try:\n        with postponed():\n            print('ready', flush=True)\n"
        "            for _ in range(200):\n                requested() or time.sleep(0.05)\n"
        "            print('asked', requested())\n    except KeyboardInterrupt:\n        pass\n"
    )
    read, write = os.pipe()
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=write, text=True) as running:
        os.close(write)
        assert running.stdout is not None and running.stdout.readline() == "ready\n"
        os.close(read)
        running.send_signal(signal.SIGHUP)
        assert running.communicate(timeout=60)[0] == "asked True\n"
