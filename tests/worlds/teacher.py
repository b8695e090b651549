"""Soft labels and predictions of shards, written in this process: Ray takes seconds to start."""

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


def teach_here(run: str, url: str, out: str | None = None, **settings: Any) -> Passed:
    """Call `write_soft_labels` without Ray."""
    with patch.object(ShardJob, "run_on", _run_here):
        return write_soft_labels(run, url, out, **settings)


def classify_here(run: str, url: str, out: str | None = None, **settings: Any) -> Passed:
    """Call `classify_shards` without Ray."""
    with patch.object(ShardJob, "run_on", _run_here):
        return classify_shards(run, url, out, **settings)


def _run_here(job: ShardJob, make_worker: Callable[[], ShardPass], *_: object) -> None:
    job.verify()
    worker = make_worker()
    for number in job.remaining():
        report = worker.commit(worker.begin(number))
        if report.error:
            raise UserError(job.failure(number, report.error, len(job.remaining())))


def zero_shot(recipe: str, folder: Path, *overrides: str) -> str:
    """Train a zero-shot run, to be used as a teacher; returns its URL."""
    values = ["training.method=zeroshot", *overrides]
    return jobs.run_here(Recipe.load(recipe, values), str(folder)).url
