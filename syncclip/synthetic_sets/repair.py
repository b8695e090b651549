"""Repair of a set: corrupt shards are removed and regenerated from the plan, to the same bytes."""

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
    """Problems of a set's shards, sorted by shard, including missing shards of its plan."""
    corrupt = list(problems(url))
    return sorted([*corrupt, *absent(url, {problem.shard for problem in corrupt})], key=lambda problem: problem.shard)


def absent(url: str, corrupt: Collection[int]) -> list[Problem]:
    """Missing shards of a set's plan, without those that are known to be corrupt."""
    expected = read_set(url)
    tars = {int(name[:-4]) for name in storage.sizes(url) if re.fullmatch(r"[0-9]{5,18}\.tar", name)}
    return [
        Problem(shard, f"{shard_name(shard)}: missing, although it belongs to the set")
        for shard in (expected.shards() if expected is not None else ())
        if shard not in {*corrupt, *tars}
    ]


def repair_set(url: str, broken: Iterable[int], pool: Pool = ONE_ACTOR) -> list[int]:
    """Regenerate the `broken` shards of a set to their original bytes, and return them; others are not touched.

    If it is interrupted, the next repair or `synth` fills the gaps.

    Raises:
        UserError: the set has no plan, a shard is not part of it, or a required asset or device is missing. Nothing is
            removed then.
    """
    shards = sorted(set(broken))
    plan = _plan(url, len(shards))
    if foreign := [shard for shard in shards if shard not in plan.shards()]:
        count = len(plan.shards())
        raise UserError(f"{url}: {shard_name(foreign[0])} is not one of the {count} shards of the plan; move it away")
    if not shards:
        return []
    check_capacity(pool, plan.threads)
    _check_assets(plan, shards, url)
    if committed(url, _ignore) and not committed(url, _ignore, plan.owner):
        raise UserError(f"{url}: {PLAN_NAME} is not the plan of these shards; restore the original file")
    with storage.lock(url, "shards verify --repair"):
        forget_index(url)
        for shard in shards:
            discard(url, shard)
        synthesise_set(plan, url, pool)
    return shards


def _ignore(_: int, error: storage.DamagedError) -> None:
    """Skip a corrupt marker."""


def discard(url: str, shard: int) -> None:
    """Remove a shard, its marker first."""
    for name in (stats_name, shard_name, table_name):
        storage.remove(storage.join(url, name(shard)))


def _check_assets(plan: Plan, broken: Sequence[int], url: str) -> None:
    """Raise a `UserError` if an asset of the generation is missing: weights, filter assets, reference images."""
    located = locate(plan.generator, plan.weights)
    if located.revision is not None:  # the plan contains the commit, so it has not been looked up yet
        commit_on_hub(located.source, located.revision, INDEX, f"generator {located.source!r}")
    build_filters(plan.filters, [plan.entry(0).prompt], url=url)  # one prompt is enough, as nothing is scored
    if plan.generator.guide is not None:
        references = ReferenceImages(plan, url)
        for shard in broken:
            references.of([plan.entry(index) for index in plan.shard_range(shard)])


def _plan(url: str, broken: int) -> Plan:
    known = read_set(url)
    if isinstance(known, Plan) and not known.generator.endpoint:
        require_trust(known.generator.pipeline_class, f"{storage.join(url, PLAN_NAME)}: generator.pipeline_class: ")
        return known
    count = f"{counted(broken, 'shard')} can't be regenerated"
    if isinstance(known, Plan):
        remedy = "remove their files and run `synth` with the recipe of the set again"
        raise UserError(f"{url}: {count}, as endpoints are not deterministic; {remedy}")
    if isinstance(known, ImportedSet):
        remedy = "merge them" if known.parts else "import it"
        raise UserError(f"{url}: {count}, as the set was not generated but created from {known.source}; {remedy} again")
    raise UserError(f"{url}: {count} without a plan; pack the dataset or copy the set again")
