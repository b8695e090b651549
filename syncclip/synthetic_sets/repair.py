"""Repairing a set: what is damaged is thrown away and generated again by the plan, to the same bytes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import counted
from syncclip.core.trust import require_trust
from syncclip.shards.index import forget_index
from syncclip.shards.markers import committed, shard_name, stats_name, table_name
from syncclip.shards.verify import Problem, problems
from syncclip.synthesis.driver import synthesise_set
from syncclip.synthesis.filters import build_filters
from syncclip.synthesis.generators.weights import INDEX, commit_on_hub, locate
from syncclip.synthesis.plan import PLAN_NAME, Plan
from syncclip.synthesis.references import ReferenceImages
from syncclip.synthetic_sets.imported import ImportedSet, read_set
from syncclip.workers.job import check_capacity
from syncclip.workers.settings import ONE_ACTOR, Pool


def examine(url: str) -> list[Problem]:
    """What is wrong with the shards of a set, by shard, and which of its plan are not there at all.

    Raises:
        UserError: a file of the set is of a newer version than this one.
    """
    found = list(problems(url))
    return sorted([*found, *absent(url, {problem.shard for problem in found})], key=lambda problem: problem.shard)


def absent(url: str, there: Collection[int]) -> list[Problem]:
    """Which shards of a set's plan are not there at all; `there` are some that have another problem.

    Raises:
        UserError: the plan can't be read.
    """
    expected = read_set(url)
    tars = {int(name[:-4]) for name in storage.sizes(url) if re.fullmatch(r"[0-9]{5,18}\.tar", name)}
    return [
        Problem(shard, f"{shard_name(shard)}: not there, though it belongs to the set")
        for shard in (expected.shards() if expected is not None else ())
        if shard not in {*there, *tars}
    ]


def repair_set(url: str, broken: Iterable[int], pool: Pool = ONE_ACTOR) -> list[int]:
    """Generate the `broken` shards of the set at `url` again, to the bytes that they had; all others stay untouched.

    Killed at any time, it leaves whole shards and gaps; the next repair, or `synth`, fills these.

    Args:
        broken: numbers of shards, as `examine` found them.
        pool: who generates.

    Returns:
        The shards that were generated again.

    Raises:
        UserError: the set has no plan, so that it can only be copied or imported again; shards that are none of the
            plan's, or a plan that is not that of the shards; this machine can't generate them, or something that they
            need is missing or another than the set was generated with. Nothing is thrown away then.
    """
    again = sorted(set(broken))
    plan = _plan(url, len(again))
    if foreign := [shard for shard in again if shard not in plan.shards()]:
        raise UserError(
            f"{url}: {shard_name(foreign[0])} is none of the {len(plan.shards())} shards of its plan; move it away"
        )
    if not again:
        return []
    check_capacity(pool, plan.threads)
    _check_assets(plan, again, url)
    if committed(url, _ignore) and not committed(url, _ignore, plan.owner):
        raise UserError(f"{url}: {PLAN_NAME} is not the plan of these shards, it was exchanged; restore it")
    with storage.lease(url, "shards verify --repair"):
        forget_index(url)
        for shard in again:
            discard(url, shard)
        synthesise_set(plan, url, pool)
    return again


def _ignore(_: int, error: storage.DamagedError) -> None:
    """Leave a damaged marker out."""


def discard(url: str, shard: int) -> None:
    """Remove a shard, its marker first: from then on it does not exist."""
    for name in (stats_name, shard_name, table_name):
        storage.remove(storage.join(url, name(shard)))


def _check_assets(plan: Plan, broken: Sequence[int], url: str) -> None:
    """Refuse where something is missing that generation needs: weights, what filters need, images to start from."""
    located = locate(plan.generator, plan.weights)
    if located.revision is not None:  # the plan knew the commit, so it has not been looked for yet
        commit_on_hub(located.source, located.revision, INDEX, f"generator {located.source!r}")
    build_filters(plan.filters, [plan.entry(0).prompt], url=url)  # one sentence will do, for nothing is scored
    if plan.generator.guide is not None:
        references = ReferenceImages(plan, url)
        for shard in broken:
            references.of([plan.entry(index) for index in plan.shard_range(shard)])


def _plan(url: str, broken: int) -> Plan:
    found = read_set(url)
    if isinstance(found, Plan) and not found.generator.endpoint:
        require_trust(found.generator.pipeline_class, f"{storage.join(url, PLAN_NAME)}: generator.pipeline_class: ")
        return found
    count = f"{counted(broken, 'shard')} can't be generated again"
    if isinstance(found, Plan):
        remedy = "remove their files and run synth with the recipe of the set again"
        raise UserError(f"{url}: {count}, for an endpoint made them, which promises no equal images; {remedy}")
    if isinstance(found, ImportedSet):
        remedy = "merge them" if found.parts else "import it"
        raise UserError(f"{url}: {count}, for this set was not generated but made of {found.source}; {remedy} again")
    raise UserError(f"{url}: {count}, for there is no plan beside them; pack the dataset or copy the set again")
