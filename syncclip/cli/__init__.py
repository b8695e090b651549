"""The `syncclip` command: parse arguments, make one library call, print its result."""

from __future__ import annotations

import atexit
import gc
import io
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from syncclip.core.text import printable
from syncclip.runtime.progress import print_message
from syncclip.runtime.shutdown import INTERRUPTED_MESSAGE, listening


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit.

    Exit status: 0 for success; 1 for damaged data, a lost Ray cluster or a bug; 2 for a user error; 128 + n for a
    signal n.
    """
    status = 1

    def end() -> None:
        """Exit without running C++ destructors, which can crash native threads of Ray, gRPC and Arrow."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)

    atexit.register(end)  # the first registered function is called last
    # During imports, garbage collection would take a fifth of the time, and idle threads of numpy's BLAS would spin.
    gc.set_threshold(10_000)
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    # A closed standard stream is replaced by the null device; otherwise another file would get the descriptor.
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # noqa: PERF203
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Output has the same bytes in every locale; a terminal keeps its encoding.
        sys.stdout.reconfigure(encoding=None if sys.stdout.isatty() else "utf-8", errors="backslashreplace")
    with listening() as listener:
        try:
            from syncclip.cli.app import run  # takes a second

            status = run(list(sys.argv[1:] if arguments is None else arguments))
        except SystemExit as exit_:  # raised by user code
            status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
            raise
        except Exception as error:
            import traceback

            sys.stderr.write(printable("".join(traceback.format_exception(error)), "\n"))
        except KeyboardInterrupt:
            print_message(INTERRUPTED_MESSAGE)
            status = listener.status
        for number in listener.numbers:  # a signal during the exit ends the process silently
            atexit.register(signal.signal, number, signal.SIG_DFL)
    sys.exit(status)
