"""Repair of a synthetic dataset: corrupt shards are removed and regenerated from the plan, byte for byte."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import counted
from syncclip.core.trust import require_trust
from syncclip.shards.index import forget_index
from syncclip.shards.markers import committed, forget_group, shard_name, stats_name, table_name
from syncclip.shards.verify import Problem
from syncclip.synthesis.driver import synthesise_set
from syncclip.synthesis.filters import build_filters
from syncclip.synthesis.generators.weights import INDEX, commit_on_hub, locate
from syncclip.synthesis.plan import PLAN_NAME, Plan
from syncclip.synthesis.references import ReferenceImages
from syncclip.synthetic_sets.imported import ImportedSet, read_set
from syncclip.workers.job import check_capacity
from syncclip.workers.settings import ONE_ACTOR, Pool


def absent(url: str, corrupt: Collection[int]) -> list[Problem]:
    """Return one problem per planned shard that is missing from the folder, excluding `corrupt` shards."""
    plan = read_set(url)
    tars = {int(name[:-4]) for name in storage.sizes(url) if re.fullmatch(r"[0-9]{5,18}\.tar", name)}
    return [
        Problem(shard, f"{shard_name(shard)}: the shard is in the plan but missing from the folder")
        for shard in (plan.shards() if plan is not None else ())
        if shard not in {*corrupt, *tars}
    ]


def repair_set(url: str, broken: Iterable[int], pool: Pool = ONE_ACTOR) -> list[int]:
    """Regenerate the `broken` shards of a dataset byte for byte; return the shard numbers.

    After an interruption, the next repair or `synth` generates the remaining shards.

    Raises:
        UserError: the dataset has no plan, a shard is not part of the plan, or a required asset or device is missing.
            Files are removed only after these checks.
    """
    shards = sorted(set(broken))
    plan = _plan(url, len(shards))
    if foreign := [shard for shard in shards if shard not in plan.shards()]:
        count = len(plan.shards())
        surplus = shard_name(foreign[0])
        raise UserError(f"{url}: {surplus} is not one of the plan's {count} shards; move it to a different folder")
    if not shards:
        return []
    check_capacity(pool, plan.threads)
    _check_assets(plan, shards, url)
    if committed(url, lambda *_: None, stored=False) and not committed(
        url, lambda *_: None, plan.owner, stored=False
    ):  # skips corrupt markers
        raise UserError(f"{url}: {PLAN_NAME} does not match these shards; restore the original file")
    with storage.lock(url, "shards verify --repair"):
        forget_index(url)
        for shard in shards:
            forget_group(url, shard)
            for name in (stats_name, shard_name, table_name):  # remove the marker first
                storage.remove(storage.join(url, name(shard)))
        synthesise_set(plan, url, pool)
    return shards


def _check_assets(plan: Plan, broken: Sequence[int], url: str) -> None:
    """Raise a `UserError` if the plan's weights, a filter asset or a reference image is missing."""
    located = locate(plan.generator, plan.weights)
    if located.revision is not None:  # `locate` does not access the Hub if the plan has a commit
        commit_on_hub(located.source, located.revision, INDEX, f"generator {located.source!r}")
    build_filters(plan.filters, [plan.entry(0).prompt], url=url)  # one prompt is enough, since no image is scored
    if plan.generator.guide is not None:
        references = ReferenceImages(plan, url)
        for shard in broken:
            references.of([plan.entry(index) for index in plan.shard_range(shard)])


def _plan(url: str, broken: int) -> Plan:
    plan = read_set(url)
    if isinstance(plan, Plan) and not plan.generator.endpoint:
        require_trust(plan.generator.pipeline_class, f"{storage.join(url, PLAN_NAME)}: generator.pipeline_class: ")
        return plan
    problem = f"{url}: {counted(broken, 'shard')} can't be regenerated"
    if isinstance(plan, Plan):
        remedy = "remove the shard's files and run `syncclip synth` with the dataset's recipe again"
        raise UserError(f"{problem}, since endpoints are not deterministic; {remedy}")
    if isinstance(plan, ImportedSet):
        remedy = "merge the datasets" if plan.parts else "import the dataset"
        raise UserError(f"{problem}, since the dataset was created from {plan.source}; {remedy} again")
    raise UserError(f"{problem} without a plan; pack or copy the dataset again")
