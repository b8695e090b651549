"""The arithmetic of a running synthesis."""

from __future__ import annotations

from syncclip.synthesis.status import Facts
from syncclip.synthesis.worker import Report


def test_facts_give_rate_time_left_and_busy_shares() -> None:
    facts = Facts(total=100, images=20, most=2)
    assert (facts.rate, facts.remaining, facts.busy, facts.actors) == (0.0, None, 0.0, 0)
    facts.count(Report(0, worker="a", started=10.0, ended=14.0, generate=3.0, write=1.0, rejects='{"blank": 2}'), 10)
    facts.count(Report(1, worker="b", started=10.0, ended=15.0, generate=5.0, judge=1.0, rejects='{"blank": 1}'), 10)
    facts.count(Report(2, worker="a", started=10.0, ended=15.0, error="failed", deaths=1), 10)
    assert (facts.images, facts.rate, facts.remaining, facts.actors) == (40, 4.0, 15.0, 2)
    assert facts.shares == {"generate": 0.8, "judge": 0.1, "encode": 0.0, "write": 0.1}
    assert (facts.rejects, facts.failed, facts.restarts) == ({"blank": 3}, 1, 1)
    assert facts.line() == {"busy": "generate 80 %, judge 10 %, encode 0 %, write 10 %", "rejected": "blank 3"}


def test_an_actor_counts_from_its_first_shard_and_a_dead_one_no_longer_than_the_pool_is_large() -> None:
    facts = Facts(total=100, images=0, most=2)
    facts.count(Report(0, worker="a", started=0.0, ended=4.0, generate=4.0), 10)
    facts.count(Report(1, worker="b", started=4.0, ended=8.0, generate=4.0), 10)
    assert facts.actor_seconds == 8.0 + 4.0
    facts.count(Report(2, worker="c", started=4.0, ended=8.0, generate=4.0), 10)
    assert facts.actor_seconds == 16.0  # one of the three is dead, since there are never more than two


def test_an_actor_that_sends_nothing_more_is_not_counted_as_drawing() -> None:
    facts = Facts(total=100, images=0, most=2)
    for shard, worker in enumerate("abbbb"):
        facts.count(Report(shard, worker=worker, started=0.0, ended=1.0), 1)
    assert facts.actors == 1
