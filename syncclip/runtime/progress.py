"""Progress of a long job, as a live line on a terminal or one line per minute in a log."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TextIO

from syncclip.core.text import duration, percent, printable
from syncclip.runtime.heartbeat import repeating

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Fact = str | int | float | None

LOG_INTERVAL = 60.0
"""Interval between log lines, in seconds."""


class Progress:
    """Progress bar (context manager) with items, throughput, remaining time and custom fields such as utilisation.

    On a terminal, one line is redrawn in place. When output goes to a log, a line is printed at the start, at the first
    update, every minute and at the end. If the total is unknown and no item is finished, the first and last
    lines are omitted.

    Args:
        total: number of items; None if unknown.
        unit: plural noun for the items, such as "images".
        label: name of the job, such as "synth".
        stream: output; by default `sys.stderr` at the time of writing, since a Ray session replaces it.
        done: number of items finished by earlier runs; excluded from the throughput.
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
        elif self.total is not None or self.done:
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

    def update(self, n: int = 1, **facts: Fact) -> None:
        """Increase the number of finished items by `n` (may be 0), and update the custom fields.

        Args:
            facts: values to show, by name. Floats are shown with three significant digits, or as percentages if the
                name ends in `busy` or `share`; None removes a field.
        """
        with self._lock:
            self.done += n
            self._facts = {name: value for name, value in (self._facts | facts).items() if value is not None}
            if self._live is not None or self._printed is None or self._clock() - self._printed >= LOG_INTERVAL:
                self._show()

    def _show(self) -> None:
        """Redraw the live line, or log a line like `synth: 12/96 images · 3.1 images/s · 27 s left · busy 93 %`."""
        details = []
        seconds = self._clock() - self._start
        if seconds > 0 and self.done > self._before:
            rate = self.rate or (self.done - self._before) / seconds
            details.append(f"{rate:.3g} {self.unit}/s")
            left = max(0, self.total - self.done) if self.total is not None else 0
            details.append(f"{duration(left / rate)} left" if left else f"{duration(seconds)} taken")
        elif seconds >= LOG_INTERVAL:
            details.append(f"{duration(seconds)} so far")
        for name, value in self._facts.items():
            if isinstance(value, float):
                value = percent(value) if name.endswith(("busy", "share")) else f"{value:.3g}"
            details.append(printable(f"{name.replace('_', ' ')} {value}"))
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=self.done, details=" · ".join(details), unit=self.unit)
            return
        count = f"{self.done:,}/{self.total:,}" if self.total is not None else f"{self.done:,}"
        line = " · ".join([f"{self.label}: {count} {self.unit}", *details])
        if line != self._shown:
            self.stream.write(f"{line}\n")
            self.stream.flush()
            self._printed, self._shown = self._clock(), line


def _live_line(stream: TextIO | None, total: int | None, done: int, label: str) -> tuple[RichProgress, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as RichProgress

    live = RichProgress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]} {task.fields[details]}", markup=False),
        console=Console(file=stream, stderr=True),  # `stderr` selects the current sys.stderr if there is no file
        refresh_per_second=4,
    )
    return live, live.add_task(label, total=total, completed=done, details="", unit="")


def print_message(message: str) -> None:
    """Print a message to stderr; stdout is reserved for results."""
    sys.stderr.write(f"{printable(message)}\n")  # in one call, so that concurrent messages are not interleaved
    sys.stderr.flush()
