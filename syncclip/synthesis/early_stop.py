"""Early stopping for synthesis runs whose filters reject all images of the dataset or of a class.

Committed shards are kept, since they are identical to those of a run that was not stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from syncclip.core.settings import UserError
from syncclip.core.text import counted
from syncclip.shards.markers import ShardStats
from syncclip.synthesis.plan import Plan

PATIENCE = 64
"""Number of rejected images, in the dataset or in one class, after which a run stops if none has been accepted."""


class RejectionMonitor:
    """Counter of rejected images in classes without accepted images.

    `check` raises a UserError if at least `PATIENCE` images of the dataset or, with `keep: drop`, of a class have been
    rejected and none has been accepted.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._shards = plan.shards()
        self._accepted: set[int] = set()
        self._generated: Counter[int] = Counter()
        self._reasons: dict[int, Counter[str]] = {}

    def take_marker(self, stats: ShardStats) -> None:
        """Add a shard of an earlier run."""
        plan = self.plan
        if not plan.filters or plan.keep != "drop" or stats.shard not in self._shards:
            return  # with `keep: best`, markers also count rejected images as images
        if len(self._accepted) < plan.classes:
            reason = max(stats.rejects, key=stats.rejects.__getitem__, default="")
            empty = (label for label in range(plan.classes) if not stats.per_class.get(label))
            self.take(stats.shard, dict.fromkeys(empty, reason))

    def take(self, shard: int, rejected_by: Mapping[int, str]) -> None:
        """Add a committed shard; `rejected_by` maps classes without accepted images to their main rejection reason."""
        plan, classes = self.plan, self.plan.classes
        if len(self._accepted) == classes:
            return
        for label, images in Counter(index % classes for index in plan.shard_range(shard)).items():
            if label not in rejected_by:
                self._accepted.add(label)
                self._reasons.pop(label, None)
            elif label not in self._accepted:
                self._generated[label] += images * plan.attempts  # rejected at every attempt
                self._reasons.setdefault(label, Counter())[rejected_by[label]] += images

    def check(self) -> None:
        """Raise a UserError if too many images have been rejected."""
        plan = self.plan
        for label, reasons in self._reasons.items():
            if plan.keep == "drop" and (generated := self._generated[label]) >= PATIENCE:
                name = plan.classnames[label]
                raise UserError(self._message(f"class {name!r}: none of its {generated} images", reasons))
        if not self._accepted and (generated := sum(self._generated.values())) >= PATIENCE:
            name, others = plan.classnames[next(iter(self._generated))], len(self._generated) - 1
            subject = f"none of the first {generated} images (class {name!r} and {counted(others, 'other')})"
            raise UserError(self._message(subject, sum(self._reasons.values(), Counter[str]())))

    def _message(self, subject: str, reasons: Counter[str]) -> str:
        reason, _ = reasons.most_common(1)[0]
        alternative = "" if self.plan.keep == "best" else ", or keep the best attempts with synthesis.keep=best"
        return (
            f"{subject} passed the filters (most were rejected by {reason!r}); loosen that filter in "
            f"synthesis.filters and generate into a different folder{alternative}"
        )
