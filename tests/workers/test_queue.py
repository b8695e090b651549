"""The queue of a job's shards, without Ray."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from syncclip.workers.queue import SILENCE, ShardQueue
from syncclip.workers.report import Report

ACTOR = "actor"


def report(shard: int, error: str = "", fatal: bool = False) -> dict[str, Any]:
    return Report(shard, error=error, fatal=fatal)._asdict()


async def attempt(queue: ShardQueue, ticket: int, error: str = "", fatal: bool = False) -> int | None:
    """Assign a ticket's shard, begin it and end it with a report; returns the shard."""
    shard = await queue.assign(ticket)
    if shard is not None:
        await queue.begin(ticket)
        await queue.end(ticket, report(shard, error, fatal), ACTOR)
        assert await queue.receive(ticket) is False
    return shard


@given(st.dictionaries(st.integers(0, 9), st.integers(1, 4), max_size=10), st.integers(0, 3))
def test_each_shard_is_attempted_until_success_or_its_last_retry(failures: dict[int, int], retries: int) -> None:
    async def attempts() -> list[int]:
        queue, shards, left = ShardQueue(range(10), retries), [], dict(failures)
        for ticket in range(100):
            shard = await queue.assign(ticket)
            if shard is None:
                break
            left[shard] = left.get(shard, 0) - 1
            await queue.end(ticket, report(shard, "failed" if left[shard] >= 0 else ""), ACTOR)
            await queue.receive(ticket)
            shards.append(shard)
        return shards

    shards = asyncio.run(attempts())
    assert shards[:10] == list(range(10)), "retries follow all other shards"
    for shard in range(10):
        assert shards.count(shard) == 1 + min(failures.get(shard, 0), retries)


def test_a_fatal_failure_is_not_retried() -> None:
    async def shards() -> list[int | None]:
        queue = ShardQueue([5], retries=3)
        return [await attempt(queue, 0, "no such model", fatal=True), await queue.assign(1)]

    assert asyncio.run(shards()) == [5, None]


def test_no_more_shards_are_assigned_than_the_window_allows() -> None:
    async def assigned() -> tuple[bool, int | None]:
        queue = ShardQueue(range(3), window=2)
        assert [await queue.assign(0), await queue.assign(1)] == [0, 1]
        third = asyncio.create_task(queue.assign(2))
        await asyncio.sleep(0)
        waited = not third.done()
        await queue.end(1, report(1), ACTOR)
        return waited, await third

    assert asyncio.run(assigned()) == (True, 2)


def test_a_ticket_keeps_its_shard_if_ray_repeats_the_assignment() -> None:
    async def assigned() -> list[int | None]:
        queue = ShardQueue([7, 8], window=2)
        return [await queue.assign(ticket) for ticket in (0, 1, 0, 1)]

    assert asyncio.run(assigned()) == [7, 8, 7, 8]


def test_a_report_is_returned_instead_of_a_second_attempt_until_it_is_received() -> None:
    async def repeated() -> tuple[Any, ...]:
        queue = ShardQueue([7])
        await queue.assign(0)
        await queue.begin(0)
        await queue.end(0, report(7), ACTOR)
        stored = await queue.begin(0)
        await queue.receive(0)
        return stored, queue._reports, queue._starts

    assert asyncio.run(repeated()) == ((2, report(7)), {}, {})


def test_deaths_are_counted_since_the_last_successful_shard() -> None:
    async def deaths() -> list[int]:
        queue = ShardQueue(range(3), retries=0)
        counts = [await queue.arrive(ACTOR), await queue.arrive(ACTOR)]
        await attempt(queue, 0, error="out of memory")
        counts.append(await queue.arrive(ACTOR))
        await attempt(queue, 1)
        return [*counts, await queue.arrive(ACTOR), await queue.arrive("other")]

    assert asyncio.run(deaths()) == [0, 1, 2, 1, 0]


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_actors_are_billed_from_their_start_to_their_last_heartbeat() -> None:
    async def billed() -> list[float]:
        clock, rows = Clock(), list[dict[str, Any]]()
        queue = ShardQueue(range(4), window=4, clock=clock)
        clock.now = 3.0
        await queue.arrive("a", age=2.0)
        await queue.arrive("b", age=60.0)  # started by Ray before the job
        for ticket, now in enumerate([10.0, 12.0]):
            await queue.assign(ticket)
            clock.now = now
            rows.append(await queue.end(ticket, report(ticket), "a"))
        clock.now = 15.0
        await queue.beat("b")
        clock.now = 100.0  # "b" is lost after its heartbeat at 15 s, and is replaced at 96 s
        await queue.arrive("b", age=4.0)
        clock.now = 101.0
        await queue.assign(2)
        rows.append(await queue.end(2, report(2), "b"))
        return [row["billed"] for row in rows]

    assert asyncio.run(billed()) == [2.0 + 3.0 + 7.0, 2.0, 12.0 + 4.0 + 1.0]


def test_no_shard_starts_that_would_exceed_the_limit() -> None:
    """Two actors, 10 s per shard: after four shards they are billed for 40 s, and after six for 60 s."""

    async def starts(limit: float, seconds: float) -> list[bool]:
        clock, started = Clock(), list[bool]()
        queue = ShardQueue(range(6), window=6, limit=limit, seconds=seconds, clock=clock)
        for actor in "ab":
            await queue.arrive(actor)
        for ticket in range(6):
            await queue.assign(ticket)
        for first in (0, 2, 4):
            started += [(await queue.begin(ticket))[0] > 0 for ticket in (first, first + 1)]
            clock.now += 10.0
            for ticket, actor in ((first, "a"), (first + 1, "b")):
                times = {"started": clock.now - 10.0, "ended": clock.now}
                await queue.end(ticket, report(ticket) | times, actor)
        return started

    assert asyncio.run(starts(60.0, 10.0)) == [True] * 6
    assert asyncio.run(starts(59.0, 10.0)) == [True] * 4 + [False] * 2
    assert asyncio.run(starts(19.0, 10.0)) == [False] * 6
    assert asyncio.run(starts(19.0, 0.0)) == [True] * 2 + [False] * 4, "the first shards measure their duration"


def test_a_repeated_call_at_the_limit_returns_the_report_of_its_first_call() -> None:
    async def repeated() -> tuple[Any, ...]:
        clock = Clock()
        queue = ShardQueue(range(2), limit=15.0, seconds=10.0, clock=clock)
        await queue.arrive(ACTOR)
        await queue.assign(0)
        await queue.begin(0)
        clock.now = 10.0
        row = await queue.end(0, report(0), ACTOR)
        return row, await queue.begin(0)

    row, again = asyncio.run(repeated())
    assert again == (2, row)


def test_lost_actors_do_not_count_towards_the_limit() -> None:
    async def started(silence: float) -> bool:
        clock = Clock()
        queue = ShardQueue(range(2), limit=45.0, seconds=30.0, clock=clock)
        await queue.arrive("lost")
        clock.now = silence
        await queue.arrive(ACTOR)
        await queue.assign(0)
        return (await queue.begin(0))[0] > 0

    assert asyncio.run(started(SILENCE + 1)) and not asyncio.run(started(SILENCE - 1))


class Cluster:
    """A queue with two shards per actor, and a clock that is set by hand."""

    def __init__(self, actors: str, shards: int) -> None:
        self.clock = Clock()
        self.queue = ShardQueue(range(shards), window=2 * shards, clock=self.clock)
        self.actors = actors

    async def start(self) -> None:
        """Assign all shards, in turn to each actor; the first ticket of each actor begins."""
        for actor in self.actors:
            await self.queue.arrive(actor)
        for ticket, shard in enumerate(range(len(self.actors) * 2)):
            assert await self.queue.assign(ticket) == shard
        for ticket, actor in enumerate(self.actors):
            await self.queue.beat(actor, ticket)
            assert await self.queue.begin(ticket) == (1, None)

    async def finish(self, actor: str, ticket: int, shard: int) -> bool | None:
        """Compute a ticket's shard, and receive its report."""
        await self.queue.beat(actor, ticket)
        if (await self.queue.begin(ticket))[0]:
            await self.queue.end(ticket, report(shard), actor)
        return await self.queue.receive(ticket)

    async def wait(self, live: str) -> None:
        """Let actors other than `live` fall silent."""
        self.clock.now += SILENCE + 1
        for actor in live:
            await self.queue.beat(actor)


def test_the_shards_of_a_lost_actor_get_new_tickets_once_another_actor_is_idle() -> None:
    """Actors a and b have the tickets 0, 2 and 1, 3; b is lost, and returns at the end."""

    async def events() -> list[Any]:
        cluster = Cluster("ab", shards=4)
        await cluster.start()
        waiting = asyncio.create_task(cluster.queue.assign(4))
        received: list[Any] = [await cluster.finish("a", 0, 0)]
        await cluster.queue.beat("a", 2)
        await cluster.wait(live="a")
        await asyncio.sleep(0)
        assert not waiting.done(), "a is busy"
        received.append(await cluster.finish("a", 2, 2))
        await cluster.wait(live="a")
        received += [await waiting, await cluster.finish("a", 4, 1)]
        await cluster.wait(live="a")
        received += [await cluster.queue.assign(5), await cluster.finish("a", 5, 3)]
        assert await cluster.queue.assign(6) is None
        return [*received, await cluster.finish("b", 1, 1), await cluster.finish("b", 3, 3)]

    assert asyncio.run(events()) == [False, False, 1, False, 3, True, None, None]


def test_the_report_of_a_lost_actor_is_delivered_by_another() -> None:
    async def delivered() -> list[Any]:
        cluster = Cluster("ab", shards=4)
        await cluster.start()
        await cluster.queue.end(1, report(1) | {"ticket": 1}, "b")
        assert [await cluster.finish("a", 0, 0), await cluster.finish("a", 2, 2)] == [False, False]
        tickets: list[Any] = []
        for ticket in (4, 5):
            await cluster.wait(live="a")
            shard = await cluster.queue.assign(ticket)
            await cluster.queue.beat("a", ticket)
            tickets += [shard, (await cluster.queue.begin(ticket))[1]]
            await cluster.finish("a", ticket, shard or 0)
        return tickets

    assert asyncio.run(delivered()) == [1, report(1) | {"ticket": 4}, 3, None]


def test_after_a_stop_lost_actors_are_not_awaited() -> None:
    async def awaited() -> set[int]:
        cluster = Cluster("ab", shards=4)
        await cluster.start()
        await cluster.wait(live="a")
        return await cluster.queue.stop()

    assert asyncio.run(awaited()) == {0}


def test_after_a_stop_nothing_is_assigned_or_started() -> None:
    async def stopped() -> tuple[Any, ...]:
        queue = ShardQueue(range(3), window=2)
        await queue.assign(0)
        await queue.assign(1)
        await queue.begin(1)
        waiting = asyncio.create_task(queue.assign(2))
        await asyncio.sleep(0)
        return await queue.stop(), await waiting, await queue.begin(0)

    assert asyncio.run(stopped()) == ({1}, None, (0, None))
