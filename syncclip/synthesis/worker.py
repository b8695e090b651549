"""The synthesis worker, which commits shards whose contents are deterministic given the plan."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from syncclip import storage
from syncclip.clip.prompt_text import fill
from syncclip.shards.writer import write_shard
from syncclip.synthesis.filters import Filter, build_filters
from syncclip.synthesis.generators.pipeline import AnyGenerator, generator_of
from syncclip.synthesis.plan import Plan
from syncclip.synthesis.references import ReferenceImages
from syncclip.synthesis.rejects import write_rejects
from syncclip.synthesis.shard import GeneratedShard, begin_shard
from syncclip.workers.job import Worker
from syncclip.workers.report import Report

MAX_AHEAD = 20_000
"""Maximum number of distinct prompts to encode in advance before the text encoders are offloaded."""


class ShardWorker(Worker[GeneratedShard]):
    """Worker that filters and writes a shard while it generates the next one.

    After a crash, each shard is either committed or missing. Regenerating a shard produces identical bytes.

    Args:
        plan: the plan as JSON.
        url: folder or URL of the synthetic dataset.
        device: torch device of the generator and the filters.
        source: absolute path or name of the pipeline.
        token: API token of an endpoint.
        owner: owner ID of the plan (see `storage.checksums`).
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
        super().__init__(self.plan.threads)
        self.folder, self.device, self.source, self.owner = url, device, source, owner
        self._token = token
        self._references: ReferenceImages | None = None

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Generate and commit the shard that a row specifies."""
        return self.commit(self.begin(int(row["shard"])))._asdict()

    def load(self) -> None:
        if self.plan.generator.guide is not None:
            self._references = ReferenceImages(self.plan, self.folder)
        self._generator, self._filters = self.tools()

    def tools(self) -> tuple[AnyGenerator, list[Filter]]:
        """Return the plan's generator and filters."""
        plan = self.plan
        settings = plan.generator.model_copy(update={"pipeline": self.source})
        generator = generator_of(settings, self.device, plan.weights, self._token)
        if generator.texts is not None and self.device != "cpu" and settings.offload == "none":
            generator.texts.encode_ahead(plan.texts(MAX_AHEAD))
        prompts = fill(plan.template, plan.classnames)
        return generator, build_filters(plan.filters, prompts, self.device, self.folder)

    def start(self, shard: int) -> Callable[[], GeneratedShard]:
        return begin_shard(self.plan, shard, self._generator, self._filters, self._references)

    def summary(self, result: GeneratedShard) -> dict[str, Any]:
        return {
            **{stage: round(seconds, 4) for stage, seconds in result.seconds.items()},
            "images": len(result.samples),
            "rejects": json.dumps(result.rejects),
            "started": result.started,
            "classes_without_accepted": json.dumps(result.classes_without_accepted),
        }

    def write(self, result: GeneratedShard, report: Report, seconds: float) -> None:
        write_rejects(self.folder, report.shard, result.gallery, self.owner)
        write_shard(self.folder, report.shard, result.samples, result.rejects, seconds, self.owner)
