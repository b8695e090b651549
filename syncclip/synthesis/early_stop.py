"""Whether every class has an accepted image yet: filters that reject everything end a run early, in one sentence.

What is committed stays, and no byte of it depends on when a run ends: only the driver looks here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from syncclip.core.settings import UserError
from syncclip.core.text import counted
from syncclip.shards.markers import ShardStats
from syncclip.synthesis.plan import Plan

PATIENCE = 64
"""Images of the whole set that may be rejected before a first one is accepted, and of a class where rejects are left
out."""


class RejectionMonitor:
    """Counts the rejected images of classes that have no accepted image.

    A set in which nothing at all was accepted is an error. Where rejects are left out (`keep: drop`), so is a class
    that gets nothing; where the best of them is kept, a hard class is not.

    Args:
        plan: of the set.
        done: markers of the shards that earlier runs committed; read only where they matter.

    Raises:
        UserError: these already show that nothing will be accepted.
    """

    def __init__(self, plan: Plan, done: Iterable[ShardStats] = ()) -> None:
        self.plan = plan
        self._accepted: set[int] = set()
        self._generated: Counter[int] = Counter()
        self._reasons: dict[int, Counter[str]] = {}
        if plan.filters and plan.keep == "drop":  # otherwise a marker counts rejects among its images
            shards = plan.shards()
            for stats in done:
                if len(self._accepted) == plan.classes:
                    break  # the other markers need not be read
                if stats.shard in shards:
                    reason = max(stats.rejects, key=stats.rejects.__getitem__, default="")
                    without = (label for label in range(plan.classes) if not stats.per_class.get(label))
                    self._count(stats.shard, dict.fromkeys(without, reason))
            self._check()

    def take(self, shard: int, rejected_by: Mapping[int, str]) -> None:
        """Take in a shard that was made.

        Args:
            shard: its number.
            rejected_by: of its classes without an accepted image, id -> the reason that rejected most.

        Raises:
            UserError: so many images were rejected that the filters are at fault; names class and reason.
        """
        self._count(shard, rejected_by)
        self._check()

    def _count(self, shard: int, rejected_by: Mapping[int, str]) -> None:
        plan, classes = self.plan, self.plan.classes
        if len(self._accepted) == classes:
            return
        for label, images in Counter(index % classes for index in plan.shard_range(shard)).items():
            if label not in rejected_by:
                self._accepted.add(label)
                self._reasons.pop(label, None)
            elif label not in self._accepted:
                self._generated[label] += images * plan.attempts  # without success each attempt is made
                self._reasons.setdefault(label, Counter())[rejected_by[label]] += images

    def _check(self) -> None:
        plan = self.plan
        for label, reasons in self._reasons.items():
            if plan.keep == "drop" and (generated := self._generated[label]) >= PATIENCE:
                name = plan.classnames[label]
                raise UserError(self._sentence(f"class {name!r}: none of its {generated} images", reasons))
        if not self._accepted and (generated := sum(self._generated.values())) >= PATIENCE:
            name, others = plan.classnames[next(iter(self._generated))], len(self._generated) - 1
            what = f"none of the first {generated} images, of class {name!r} and {counted(others, 'other')},"
            raise UserError(self._sentence(what, sum(self._reasons.values(), Counter[str]())))

    def _sentence(self, what: str, reasons: Counter[str]) -> str:
        reason, _ = reasons.most_common(1)[0]
        otherwise = "" if self.plan.keep == "best" else ", or keep the best of them with synthesis.keep=best"
        return (
            f"{what} passed the filters, most were rejected by {reason!r}; loosen that filter in "
            f"synthesis.filters and generate into another folder{otherwise}"
        )
