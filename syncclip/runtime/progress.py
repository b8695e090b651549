"""Progress of a long job, as a live line on a terminal or one line per minute in a log."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TextIO

from syncclip.core.text import duration, percent, printable, wrapped
from syncclip.runtime.heartbeat import repeating

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Fact = str | int | float | None

LOG_INTERVAL = 60.0
"""Interval between log lines, in seconds."""


class Progress:
    """Progress bar (context manager) with items, throughput, remaining time and custom fields such as utilisation.

    On a terminal, one line is redrawn in place; on narrow terminals, the last fields are omitted. When output goes to a
    log, a line is printed at the start, for each phase, at the first update, every minute and at the end. If the
    total is unknown and no item is finished, the first and last lines are omitted.

    Args:
        total: number of items; None if unknown.
        unit: plural noun for the items, such as "images".
        label: name of the job, such as "synth".
        stream: output; by default `sys.stderr` at the time of writing, since a Ray session replaces it.
        done: number of items finished by earlier runs; excluded from the throughput.
        phase: first phase, such as "starting Ray"; see `begin`.
        clock: function that returns a monotonic time in seconds; for tests.
    """

    def __init__(
        self,
        total: int | None,
        unit: str,
        label: str,
        stream: TextIO | None = None,
        *,
        done: int = 0,
        phase: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.unit, self.label = total, printable(unit), printable(label)
        self._stream = stream
        self.done = done
        self.rate: float | None = None
        """Throughput in items per second, if measured by the job."""
        self._clock = clock
        self._before = done
        self._start = clock()
        self._printed: float | None = None
        self._shown = ""
        self._phase = phase
        self._facts: dict[str, Fact] = {}
        self._live: RichProgress | None = None
        self._task: TaskID | None = None
        self._lock = threading.RLock()  # used by the main thread and the heartbeat
        self._alive = contextlib.ExitStack()

    @property
    def stream(self) -> TextIO:
        """Output stream for progress; by default stderr, because stdout is reserved for results."""
        return self._stream if self._stream is not None else sys.stderr

    def __enter__(self) -> Progress:
        self._start = self._clock()
        if self.stream.isatty():
            self._live, self._task = _live_line(self._stream, self.total, self.done, self.label)
            self._live.start()
            self._show()
        elif self.total is not None or self.done or self._phase:
            self._show()
            self._printed = None  # so that the first update is shown
        # Without new items, a line every `LOG_INTERVAL` shows that the job is alive.
        self._alive.enter_context(repeating(partial(self.update, 0), LOG_INTERVAL))
        return self

    def __exit__(self, *_: object) -> None:
        self._alive.close()
        if self._live is not None or self.total is not None or self.done:
            self._show()
        if self._live is not None:
            self._live.stop()

    def begin(self, phase: str) -> None:
        """Show a phase, such as "loading weights", until the next item is finished."""
        with self._lock:
            self._phase = phase
            self._show()
            self._printed = None

    def update(self, n: int = 1, **facts: Fact) -> None:
        """Increase the number of finished items by `n` (may be 0), and update the custom fields.

        Args:
            facts: values to show, by name. Floats are shown with three significant digits, or as percentages if the
                name ends in `busy` or `share`; None removes a field.
        """
        with self._lock:
            self.done += n
            self._phase = "" if n else self._phase
            self._facts = {name: value for name, value in (self._facts | facts).items() if value is not None}
            if self._live is not None or self._printed is None or self._clock() - self._printed >= LOG_INTERVAL:
                self._show()

    def _show(self) -> None:
        """Redraw the live line, or log a line like `synth: 12/96 images · 3.1 images/s · 27 s left · busy 93 %`."""
        details = [self._phase] if self._phase else []
        time_left = ""
        seconds = self._clock() - self._start
        if seconds > 0 and self.done > self._before:
            rate = self.rate or (self.done - self._before) / seconds
            details.append(f"{rate:.3g} {self.unit}/s")
            left = max(0, self.total - self.done) if self.total is not None else 0
            time_left = f"{duration(left / rate)} left" if left else f"{duration(seconds)} taken"
            details.append(time_left)
        elif seconds >= LOG_INTERVAL:
            details.append(f"{duration(seconds)} so far")
        for name, value in self._facts.items():
            if isinstance(value, float):
                value = percent(value) if name.endswith(("busy", "share")) else f"{value:.3g}"
            details.append(printable(f"{name.replace('_', ' ')} {value}"))
        count = f"{self.done:,}/{self.total:,} {self.unit}" if self.total is not None else f"{self.done:,} {self.unit}"
        if self._phase and self.total is None and not self.done:
            count = ""
        if self._live is not None and self._task is not None:
            room = self._live.console.width - len(self.label) - _bar_width(self._live.console.width) - len(count) - 3
            while len(" · ".join(details)) > room and len(details) > 1:
                details.pop(-2 if details[-1] == time_left else -1)
            shown = " · ".join(details)
            self._live.update(self._task, total=self.total, completed=self.done, count=count, details=shown)
            return
        line = f"{self.label}: {' · '.join([count, *details] if count else details)}"
        if line != self._shown:
            self.stream.write(f"{line}\n")
            self.stream.flush()
            self._printed, self._shown = self._clock(), line


def _live_line(stream: TextIO | None, total: int | None, done: int, label: str) -> tuple[RichProgress, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    console = Console(file=stream, stderr=True)  # `stderr` selects the current sys.stderr if there is no file
    live = RichProgress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=_bar_width(console.width)),
        TextColumn("{task.fields[count]}", markup=False),
        TextColumn("{task.fields[details]}", markup=False),
        console=console,
        refresh_per_second=4,
    )
    return live, live.add_task(label, total=total, completed=done, count="", details="")


def _bar_width(width: int) -> int:
    """Return the width of the bar on a terminal of the given width, in columns."""
    return 24 if width >= 120 else 10


def print_message(message: str) -> None:
    """Print a message to stderr; stdout is reserved for results."""
    text = wrapped(printable(message), sys.stderr)
    sys.stderr.write(f"{text}\n")  # in one call, so that concurrent messages are not interleaved
    sys.stderr.flush()
