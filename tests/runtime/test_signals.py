"""Signals, as a process of its own receives them whose main thread waits: the test process keeps its handlers."""

from __future__ import annotations

import subprocess
import sys
import textwrap

HEAD = """
import os, signal, threading, time
from syncclip.runtime.signals import WAKE, Reception, wake

class Woken(Exception):
    pass

came = []

def receive(number):
    came.append(signal.Signals(number).name)
    wake(lambda: len(came) > 1)

def woken():
    if len(came) == 1:
        came.append("woken")
        raise Woken

def received(send):
    reception = Reception([signal.SIGTERM, signal.SIGINT], receive, woken)
    reception.begin()
    threading.Timer(0.3, send).start()
    try:
        time.sleep(600)
    except Woken:
        pass
    reception.end()
    print(*came)

main = threading.main_thread().ident
"""


def run(body: str) -> str:
    """What a Python prints that waits in `received` and is signalled meanwhile."""
    command = [sys.executable, "-c", HEAD + textwrap.dedent(body)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_a_signal_to_the_process_is_received_once_and_wakes_the_main_thread() -> None:
    assert run("received(lambda: os.kill(os.getpid(), signal.SIGTERM))") == "SIGTERM woken\n"


def test_a_signal_that_reaches_a_thread_from_before_is_received_while_the_main_thread_waits() -> None:
    body = """
    early = threading.Thread(target=time.sleep, args=[600], daemon=True)
    early.start()
    received(lambda: signal.pthread_kill(early.ident, signal.SIGINT))
    """
    assert run(body) == "SIGINT woken\n"


def test_a_signal_that_a_library_unblocked_in_the_main_thread_is_received() -> None:
    body = """
    def send():
        signal.pthread_kill(main, signal.SIGTERM)

    begin = Reception.begin
    def begin_and_unblock(reception):
        begin(reception)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    Reception.begin = begin_and_unblock
    received(send)
    """
    assert run(body) == "SIGTERM woken\n"


def test_a_wake_up_just_before_the_main_thread_waits_is_sent_again() -> None:
    """It comes after Python has looked for signals and before the system call begins, which then is not ended."""
    body = """
    pthread_kill, sent = signal.pthread_kill, []

    def too_early_at_first(thread, number):
        if (thread, number) == (main, WAKE):
            sent.append(number)
            if len(sent) == 1:
                return
        pthread_kill(thread, number)

    signal.pthread_kill = too_early_at_first
    received(lambda: os.kill(os.getpid(), signal.SIGTERM))
    """
    assert run(body) == "SIGTERM woken\n"


def test_afterwards_mask_handlers_and_pipe_are_as_they_were() -> None:
    body = """
    def state():
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        return mask, signal.getsignal(signal.SIGTERM), sorted(os.listdir("/proc/self/fd"))

    before = state()
    received(lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert state() == before
    print(signal.set_wakeup_fd(-1))
    """
    assert run(body) == "SIGTERM woken\n-1\n"
