"""The command `syncclip`: parse arguments, make one library call, print its result."""

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

    Exit status: 0 success; 1 damaged data, a lost Ray or a defect; 2 a user error; 128 + number of a signal.
    """
    status = 1

    def end() -> None:
        """End the process as soon as Python has finished.

        Native threads of Ray, gRPC and Arrow continue while C++ destroys what they use, and may crash.
        """
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)

    atexit.register(end)  # registered before the command's imports register theirs, so called after them
    # Start-up time of short commands is import time: a fifth of it would be garbage collection, and threads of
    # numpy's BLAS would spin (2^26 cycles) to wait for work.
    gc.set_threshold(10_000)
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    _open_standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Results are the same bytes in every locale; a terminal keeps its own encoding.
        sys.stdout.reconfigure(encoding=None if sys.stdout.isatty() else "utf-8", errors="backslashreplace")
    with listening() as listener:
        try:
            from syncclip.cli.app import run  # takes a second, during which a signal may arrive

            status = run(list(sys.argv[1:] if arguments is None else arguments))
        except SystemExit as exit_:  # raised by user code
            status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
            raise
        except Exception as error:
            import traceback

            sys.stderr.write(printable("".join(traceback.format_exception(error)), "\n"))  # may contain foreign text
        except KeyboardInterrupt:
            print_message(INTERRUPTED_MESSAGE)
            status = listener.status
        for number in listener.numbers:  # further signals end the interpreter silently
            atexit.register(signal.signal, number, signal.SIG_DFL)
    sys.exit(status)


def _open_standard_streams() -> None:
    """Open the null device for closed standard streams; other files would get their descriptors."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # noqa: PERF203
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
