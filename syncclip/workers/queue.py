"""The queue that assigns shards to a pool of actors, retries failed shards and keeps reports until receipt."""

from __future__ import annotations

import asyncio
import math
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

Row = dict[str, Any]

BEAT = 5.0
"""Interval between the signs of life of an actor, in seconds; the last interval of a lost actor is not billed."""
SILENCE = 3 * BEAT
"""Time without a sign of life after which an actor is considered lost, in seconds."""


class ShardQueue:
    """Queue of a job's shards, kept in a separate Ray actor that outlives the workers.

    Each attempt at a shard has a ticket: 0, 1, 2, … in order of assignment. Calls can be repeated with the same ticket,
    because Ray repeats the tasks of processes that die.

    Args:
        shards: shards in processing order.
        retries: maximum number of retries per shard, after all other shards.
        window: maximum number of assigned shards without a report.
        limit: billed time of all actors, in seconds, that no shard may exceed: a shard is not started if the actors
            would be billed for more by its end.
        seconds: expected seconds per shard, averaged with the measured times; 0 if unknown.
        clock: function that returns a monotonic time in seconds; for tests.
    """

    def __init__(
        self,
        shards: Iterable[int],
        retries: int = 0,
        window: int = 1,
        limit: float = math.inf,
        seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._waiting = deque(shards)
        self._retries, self._window = retries, window
        self._assigned = array("q")
        """Shard of each ticket."""
        self._open: set[int] = set()
        """Tickets without a report."""
        self._starts: Counter[int] = Counter()
        self._failures: Counter[int] = Counter()
        self._arrivals: Counter[str] = Counter()
        self._reports: dict[int, Row] = {}
        self._limit, self._clock = limit, clock
        self._seen: dict[str, float] = {}
        """Time of each actor's last sign of life."""
        self._billed = self._reported = 0.0
        """Billed seconds of all actors, and those that are contained in reports."""
        self._durations = [seconds, 1.0] if seconds else [0.0, 0.0]
        """Sum and number of shard durations in seconds."""
        self._stopped = False
        self._changed = asyncio.Event()

    async def assign(self, ticket: int) -> int | None:
        """Return the ticket's shard as soon as the window has room; None if all shards have a report, or after `stop`.

        A failed shard is assigned again, so None is returned only once no shard is waiting or being computed.
        """
        while ticket == len(self._assigned):
            if self._stopped or not (self._waiting or self._open):
                return None
            if self._waiting and len(self._open) < self._window:
                self._assigned.append(self._waiting.popleft())
                self._open.add(ticket)
            else:
                self._changed.clear()
                await self._changed.wait()
        return self._assigned[ticket]

    async def arrive(self, actor: str) -> int:
        """Record that an actor's process started; return its number of deaths since its last successful shard."""
        self._arrivals[actor] += 1
        self._seen[actor] = self._clock()  # the time since the death of the previous process is not billed
        return self._arrivals[actor] - 1

    async def beat(self, actor: str) -> None:
        """Record that an actor's process is alive, and bill the time since its last sign of life."""
        now = self._clock()
        self._billed += now - self._seen.get(actor, now)
        self._seen[actor] = now

    async def begin(self, ticket: int) -> tuple[int, Row | None]:
        """Record that an attempt began; return its number of starts (0 after `stop`) and its report, if it has ended.

        Stop instead if the billed time would exceed the limit by the end of the shard.
        """
        report = self._reports.get(ticket)
        if report is None and not self._stopped and self._at_limit():
            await self.stop()
        if report is None and self._stopped:
            return 0, None
        self._starts[ticket] += 1
        return self._starts[ticket], report

    async def end(self, ticket: int, report: Row, actor: str) -> Row:
        """Record a report before the actor returns it, since its process may die; queue a failed shard again.

        Returns:
            The report with the time that was billed since the previous report.
        """
        if ticket not in self._open:
            return report
        await self.beat(actor)
        report = {**report, "billed": self._billed - self._reported}
        self._reported = self._billed
        self._open.remove(ticket)
        self._reports[ticket] = report
        shard = self._assigned[ticket]
        if not report["error"]:
            self._arrivals[actor] = 1
            self._durations = [self._durations[0] + report["ended"] - report["started"], self._durations[1] + 1]
        elif not report["fatal"] and self._failures[shard] < self._retries:
            self._failures[shard] += 1
            self._waiting.append(shard)
        self._changed.set()
        return report

    async def receive(self, ticket: int) -> None:
        """Forget a report that the driver has received."""
        del self._reports[ticket], self._starts[ticket]

    async def stop(self) -> set[int]:
        """Prevent further starts, and return the tickets that are being computed."""
        self._stopped = True
        self._changed.set()
        return self._starts.keys() & self._open

    def _at_limit(self) -> bool:
        """Return whether the actors would be billed for more than the limit by the end of a shard that starts now."""
        now, (total, count) = self._clock(), self._durations
        running = [now - seen for seen in self._seen.values() if now - seen <= SILENCE]
        return self._billed + sum(running) + len(running) * total / max(1.0, count) > self._limit
