"""Making one shard: draw it, then commit it. What an actor does for a row, and the report that comes back."""

from __future__ import annotations

import json
import os
import platform
import time
import traceback
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from syncclip import storage
from syncclip.settings import UserError
from syncclip.shards.writer import write_shard
from syncclip.synthesis.drawing import Drawn, Painter, draw_shard
from syncclip.synthesis.filters import Filter, build_filters
from syncclip.synthesis.generators import Generator
from syncclip.synthesis.guides import Album
from syncclip.synthesis.plan import Plan
from syncclip.synthesis.rejects import write_rejects


class Report(NamedTuple):
    """What comes back for a shard: a small row of numbers, or an error."""

    shard: int
    images: int = 0
    rejects: str = "{}"  # JSON; Ray Data wants columns of one type
    generate: float = 0.0  # seconds of each stage
    judge: float = 0.0
    encode: float = 0.0
    write: float = 0.0
    started: float = 0.0  # seconds since the epoch
    ended: float = 0.0
    worker: str = ""  # machine and process that drew it
    deaths: int = 0  # how many processes died of it before
    error: str = ""
    barren: str = "{}"  # JSON, class id -> main reason, of classes without an accepted picture
    fatal: bool = False  # trying again can't help
    trace: str = ""


class Unwritten(NamedTuple):
    """A shard between drawing and commit; without pictures where drawing failed."""

    report: Report
    drawn: Drawn | None = None


class ShardMaker:
    """Makes whole shards; the state of an actor (the weights) lives here.

    `draw` takes one shard at a time, while `commit` may run in another thread: so the writing of a shard and the
    drawing of the next overlap. Neither ever raises: an error comes back in the report, since Ray Data ends a whole
    run at the first exception. After any crash a shard is either committed or doesn't exist, and making it again
    gives the same bytes.
    """

    def __init__(self, plan: str, url: str, device: str, source: str, options: Mapping[str, Any]) -> None:
        self.plan = Plan.model_validate_json(plan)
        self.url, self.device, self.source = url, device, source
        self._options = dict(options)
        self._tools: tuple[Painter, list[Filter]] | None = None
        self._album: Album | None = None

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Draw and commit the shard of a row."""
        return self.commit(self.draw(int(row["shard"])))._asdict()

    def draw(self, shard: int) -> Unwritten:
        """Draw a shard into memory."""
        report = Report(shard, started=time.time(), worker=f"{platform.node()}:{os.getpid()}")
        try:
            painter, filters = self.tools()
            report = report._replace(started=time.time())  # loading weights is no part of a shard
            drawn = draw_shard(self.plan, shard, painter, filters, self._album)
        except Exception as error:
            return Unwritten(_failed(report, error))
        stages: dict[str, Any] = {stage: round(seconds, 4) for stage, seconds in drawn.spent.items()}
        rejects, barren = json.dumps(drawn.rejects), json.dumps(drawn.barren)
        return Unwritten(report._replace(images=len(drawn.samples), rejects=rejects, barren=barren, **stages), drawn)

    def commit(self, unwritten: Unwritten) -> Report:
        """Write a drawn shard, its marker last."""
        report, drawn = unwritten
        begun = time.time()
        if drawn is not None:
            try:
                write_rejects(self.url, report.shard, drawn.gallery)
                write_shard(self.url, report.shard, drawn.samples, drawn.rejects, begun - report.started)
            except Exception as error:
                report = _failed(report, error)
        ended = time.time()
        return report._replace(write=ended - begun, ended=ended)

    def tools(self) -> tuple[Painter, list[Filter]]:
        """Generator and filters, loaded once, at the first shard (an error there must come back as a row too)."""
        if self._tools is None:
            import torch

            torch.set_num_threads(self.plan.threads)  # the last bits of a sum depend on it
            storage.configure(self._options)
            plan = self.plan
            prompts = [plan.template.replace("{}", name) for name in plan.classnames]
            settings = plan.generator.model_copy(update={"pipeline": self.source})  # a relative path made absolute
            painter = cast(Painter, Generator(settings, self.device, plan.weights))
            if plan.generator.guide is not None:
                self._album = Album(plan, self.url)
            self._tools = painter, build_filters(plan.filters, prompts, self.device, self.url)
        return self._tools


def _failed(report: Report, error: Exception) -> Report:
    fatal = isinstance(error, (UserError, FileNotFoundError, PermissionError))
    fatal = fatal and not isinstance(error, storage.UnreachableError)  # another round may reach the store
    name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return report._replace(images=0, error=name + text, fatal=fatal, trace=traceback.format_exc())
