"""The queue that assigns shards to a pool of actors, retries failed shards and keeps reports until receipt."""

from __future__ import annotations

import asyncio
import math
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

Row = dict[str, Any]

BEAT = 5.0
"""Interval between the heartbeats of an actor, in seconds; the last interval of a lost actor is not billed."""
SILENCE = 6 * BEAT
"""Time without a heartbeat after which an actor is considered lost, in seconds."""


class ShardQueue:
    """Queue of a job's shards, kept in a separate Ray actor that outlives the workers.

    Each attempt at a shard has a ticket: 0, 1, 2, … in order of assignment. Calls can be repeated with the same ticket,
    because Ray repeats the tasks of processes that die. Ray keeps the tasks of a lost actor until it restarts, which
    may be impossible for want of machines: their shards get a new ticket once another actor is idle.

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
        """Reports that the driver has not received, by ticket."""
        self._undelivered: dict[int, Row] = {}
        """Reports of lost tickets, by shard."""
        self._actors: dict[int, str] = {}
        """Actor that a ticket has reached."""
        self._lost: set[int] = set()
        """Tickets that were replaced by new tickets."""
        self._limit, self._clock = limit, clock
        self._created = clock()
        self._seen: dict[str, float] = {}
        """Time of each actor's last heartbeat."""
        self._moved = clock()
        """Time of the last assignment or report."""
        self._billed = self._reported = 0.0
        """Billed seconds of all actors, and those that are contained in reports."""
        self._durations = [seconds, 1.0] if seconds else [0.0, 0.0]
        """Sum and number of shard durations in seconds."""
        self._stopped = False
        self._changed = asyncio.Event()

    async def assign(self, ticket: int) -> int | None:
        """Return the ticket's shard as soon as the window has room; None if all reports are received, or after `stop`.

        A failed shard is assigned again, so None is returned only once no shard is waiting or being computed.
        """
        while ticket == len(self._assigned):
            if self._stopped or not (self._waiting or self._open or self._reports):
                return None
            if not self._waiting:
                self._replace_lost_tickets()
            if self._waiting and len(self._open) < self._window:
                self._moved, shard = self._clock(), self._waiting.popleft()
                self._assigned.append(shard)
                if shard in self._undelivered:
                    self._reports[ticket] = self._undelivered.pop(shard) | {"ticket": ticket}
                else:
                    self._open.add(ticket)
            else:
                self._changed.clear()
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), BEAT)
        return self._assigned[ticket]

    async def arrive(self, actor: str, age: float = 0.0) -> int:
        """Record that an actor's process started; return its number of deaths since its last successful shard.

        Args:
            age: time since the start of the process in seconds, which is billed. Ray may start processes in advance, so
                at most the time since the last heartbeat of the actor's previous process is billed.
        """
        now = self._clock()
        self._arrivals[actor] += 1
        self._billed += min(age, now - self._seen.get(actor, self._created))
        self._seen[actor] = now
        return self._arrivals[actor] - 1

    async def beat(self, actor: str, ticket: int | None = None) -> None:
        """Record that an actor is alive and that a ticket has reached it; bill the time since its last heartbeat."""
        now = self._clock()
        self._billed += now - self._seen.get(actor, now)
        self._seen[actor] = now
        if ticket is not None:
            self._actors[ticket] = actor

    async def begin(self, ticket: int) -> tuple[int, Row | None]:
        """Record that an attempt began; return its number of starts and its report, if it has ended.

        The number is 0 after `stop`, and if the ticket was replaced. Stop instead if the billed time would exceed the
        limit by the end of the shard.
        """
        report = self._reports.get(ticket)
        if report is None and not self._stopped and self._at_limit():
            await self.stop()
        if ticket in self._lost or (report is None and self._stopped):
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
        self._moved = self._clock()
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

    async def receive(self, ticket: int) -> bool | None:
        """Record that the driver has received a ticket's row.

        Returns:
            None if the row must be ignored, because its shard was not started or has a new ticket; otherwise, whether
            the job has ended although lost tickets have not returned.
        """
        report = self._reports.pop(ticket, None)
        self._starts.pop(ticket, None)
        self._actors.pop(ticket, None)
        self._lost.discard(ticket)
        self._changed.set()
        if report is None:
            return None
        return bool(self._lost) and not (self._waiting or self._open or self._reports)

    async def stop(self) -> set[int]:
        """Prevent further starts, and return the tickets that are being computed by actors that aren't lost."""
        self._stopped = True
        self._changed.set()
        unfinished = await self.unfinished()
        assert unfinished is not None
        return unfinished

    async def unfinished(self) -> set[int] | None:
        """Return the tickets whose reports are still expected from actors that aren't lost; None before a stop."""
        if not self._stopped:
            return None
        lost = self._seen.keys() - self._live()
        return {ticket for ticket in self._starts.keys() - self._lost if self._actors.get(ticket) not in lost}

    def _at_limit(self) -> bool:
        """Return whether the actors would be billed for more than the limit by the end of a shard that starts now."""
        now, (total, count) = self._clock(), self._durations
        running = [now - self._seen[actor] for actor in self._live()]
        return self._billed + sum(running) + len(running) * total / max(1.0, count) > self._limit

    def _live(self) -> set[str]:
        """Return the actors with a recent heartbeat."""
        return {actor for actor, seen in self._seen.items() if self._clock() - seen <= SILENCE}

    def _replace_lost_tickets(self) -> None:
        """Queue the shards of tickets that are at no live actor, but only as many as there are idle live actors."""
        if self._clock() - self._moved <= SILENCE:
            return
        pending, live = sorted(self._open | self._reports.keys()), self._live()
        idle = live - {self._actors.get(ticket) for ticket in pending}
        for ticket in [ticket for ticket in pending if self._actors.get(ticket) not in live][: len(idle)]:
            self._lost.add(ticket)
            self._open.discard(ticket)
            if ticket in self._reports:
                self._undelivered[self._assigned[ticket]] = self._reports.pop(ticket)
            self._waiting.append(self._assigned[ticket])
