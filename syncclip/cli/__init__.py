"""The command `syncclip`: arguments come in, one call of the library is made, and its result is printed."""

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
from syncclip.runtime.progress import say
from syncclip.runtime.shutdown import SENTENCE, listening


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0 done, 1 broken data, a lost Ray or a defect, 2 a user's mistake, 128 + a signal."""
    status = 1  # of an error that is no user's mistake

    def end() -> None:
        """End the process now that Python's part is over.

        Native threads of Ray, gRPC and Arrow run on while C++ takes down what they use, and some of them crash.
        """
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)

    atexit.register(end)  # before what the command imports registers, so that it is called after that
    # A command that only looks takes as long as its imports, a fifth of which would be looking for garbage where there
    # is none yet, and threads of numpy's BLAS that spin (2^26 cycles) in case that work comes.
    gc.set_threshold(10_000)
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    _open_standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Results are the same bytes in every locale; a terminal shows what its own encoding has.
        sys.stdout.reconfigure(encoding=None if sys.stdout.isatty() else "utf-8", errors="backslashreplace")
    with listening() as listener:
        try:
            from syncclip.cli.app import run  # takes a second, in which a signal may come

            status = run(list(sys.argv[1:] if arguments is None else arguments))
        except SystemExit as exit_:  # of code of the user's own
            status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
            raise
        except Exception as error:
            import traceback

            sys.stderr.write(printable("".join(traceback.format_exception(error)), "\n"))  # it may hold others' text
        except KeyboardInterrupt:
            say(SENTENCE)
            status = listener.status
        for number in listener.numbers:  # while the interpreter ends, a signal leaves nothing to be said
            atexit.register(signal.signal, number, signal.SIG_DFL)
    sys.exit(status)


def _open_standard_streams() -> None:
    """Open the null device in place of standard streams that are closed, whose numbers other files would get."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # noqa: PERF203  each one by itself
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
