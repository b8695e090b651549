"""A teacher's files of the tiny world's set, written in this process: Ray takes longer to start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from syncclip import jobs
from syncclip.core.settings import UserError
from syncclip.inference.passes import Passed, ShardJob, ShardPass
from syncclip.inference.shards import classify_shards
from syncclip.inference.soft_labels import write_soft_labels
from syncclip.recipe.recipe import Recipe


def teach_here(run: str, url: str, out: str, **asked: Any) -> Passed:
    """As `write_soft_labels`, without Ray."""
    with patch.object(ShardJob, "run_on", _in_turn):
        return write_soft_labels(run, url, out, **asked)


def classify_here(run: str, url: str, out: str | None = None, **asked: Any) -> Passed:
    """As `classify_shards`, without Ray."""
    with patch.object(ShardJob, "run_on", _in_turn):
        return classify_shards(run, url, out, **asked)


def _in_turn(job: ShardJob, worker: Callable[[], ShardPass], *_: object) -> None:
    job.verify()
    made = worker()
    for number in job.remaining():
        report = made.commit(made.begin(number))
        if report.error:
            raise UserError(job.failure(number, report.error, len(job.remaining())))


def zero_shot(recipe: str, folder: Path, *overrides: str) -> str:
    """A finished run of the plain CLIP, for a teacher."""
    values = ["training.method=zeroshot", *overrides]
    return jobs.run_here(Recipe.load(recipe, values), str(folder)).url
