"""What an actor does for a row: generate, filter, encode and commit one shard, and report in a small row of numbers.

A shard is a function of the plan alone.
"""

from __future__ import annotations

import json
import os
import platform
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from syncclip import storage
from syncclip.clip.prompt_text import fill
from syncclip.core.custom_code import own_code_error
from syncclip.core.secrets import redacted
from syncclip.core.settings import UserError
from syncclip.core.text import first_line
from syncclip.shards.writer import write_shard
from syncclip.synthesis.filters import Filter, build_filters
from syncclip.synthesis.generators.pipeline import AnyGenerator, generator_of
from syncclip.synthesis.plan import Plan
from syncclip.synthesis.references import ReferenceImages
from syncclip.synthesis.rejects import write_rejects
from syncclip.synthesis.shard import GeneratedShard, begin_shard
from syncclip.synthesis.status import Report

MOST_AHEAD = 20_000
"""Distinct prompts of a set that are encoded before its first image, so that the encoders can leave the GPU."""


class UncommittedShard(NamedTuple):
    """A shard between generation and commit; None where the generation failed."""

    report: Report
    finish: Callable[[], GeneratedShard] | None = None
    """What `begin_shard` left to do."""


class ShardWorker:
    """Makes whole shards; the state of an actor (the weights) lives here.

    `generate` takes one shard at a time, while `commit` may run in another thread: so the generator goes on with the
    next shard while the last images of one are filtered, and it is written. Neither ever raises: an error comes back in
    the report, since Ray Data ends a whole run at the first exception. After any crash a shard is either committed or
    doesn't exist, and making it again gives the same bytes.
    """

    def __init__(
        self,
        plan: str,
        url: str,
        device: str,
        source: str,
        token: str | None = None,
        owner: str = storage.NOBODY,
    ) -> None:
        self.plan = Plan.model_validate_json(plan)
        self.url, self.device, self.source = url, device, source
        self._token, self._owner = token, owner
        self._tools: tuple[AnyGenerator, list[Filter]] | None = None
        self._references: ReferenceImages | None = None

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Generate and commit the shard of a row."""
        return self.commit(self.generate(int(row["shard"])))._asdict()

    def generate(self, shard: int) -> UncommittedShard:
        """Hand a shard to the generator."""
        report = Report(shard, started=time.time(), worker=f"{platform.node()}:{os.getpid()}")
        try:
            generator, filters = self.tools()
            report = report._replace(started=time.time())  # loading weights is no part of a shard
            return UncommittedShard(report, begin_shard(self.plan, shard, generator, filters, self._references))
        except Exception as error:
            return UncommittedShard(failed(report, error))

    def commit(self, uncommitted: UncommittedShard) -> Report:
        """Finish a generated shard and write it, its marker last."""
        report, finish = uncommitted
        begun = time.time()
        if finish is not None:
            try:
                try:
                    made = finish()
                finally:
                    begun = time.time()
                report = report._replace(**_told(made))
                write_rejects(self.url, report.shard, made.gallery, self._owner)
                seconds = begun - report.started
                write_shard(self.url, report.shard, made.samples, made.rejects, seconds, self._owner)
            except Exception as error:
                report = failed(report, error)
        ended = time.time()
        return report._replace(write=ended - begun, ended=ended)

    def tools(self) -> tuple[AnyGenerator, list[Filter]]:
        """Generator and filters, loaded once, at the first shard (an error there must come back as a row too)."""
        if self._tools is None:
            import torch

            torch.set_num_threads(self.plan.threads)  # the last bits of a sum depend on it
            plan = self.plan
            prompts = fill(plan.template, plan.classnames)
            settings = plan.generator.model_copy(update={"pipeline": self.source})  # a relative path made absolute
            generator = generator_of(settings, self.device, plan.weights, self._token)
            if generator.texts is not None and self.device != "cpu" and settings.offload == "none":
                generator.texts.encode_ahead(plan.texts(MOST_AHEAD))
            if plan.generator.guide is not None:
                self._references = ReferenceImages(plan, self.url)
            self._tools = generator, build_filters(plan.filters, prompts, self.device, self.url)
        return self._tools


def _told(made: GeneratedShard) -> dict[str, Any]:
    """What a report holds of a shard."""
    found: dict[str, Any] = {stage: round(seconds, 4) for stage, seconds in made.seconds.items()}
    found |= {"images": len(made.samples), "rejects": json.dumps(made.rejects)}
    return found | {"started": made.begun, "classes_without_accepted": json.dumps(made.classes_without_accepted)}


def failed(report: Report, error: Exception) -> Report:
    """The report of a shard that an error ended; where trying again can't help, it is fatal."""
    error = own_code_error(error) or error
    fatal = isinstance(error, (UserError, FileNotFoundError, PermissionError))
    fatal = fatal and not isinstance(error, storage.UnreachableError)  # another round may reach the store
    name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    sentence, trace = redacted(name + first_line(error)), redacted(traceback.format_exc())
    return report._replace(images=0, error=sentence, fatal=fatal, trace=trace)
