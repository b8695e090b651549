"""Fixtures of the synthesis tests: a tiny pipeline, plans for it, and checksums of datasets."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from syncclip.synthesis import driver
from syncclip.synthesis.plan import Plan, draft
from syncclip.synthesis.settings import SynthesisSettings
from syncclip.workers import job
from syncclip.workers.report import Report
from syncclip.workers.settings import Pool
from tests.worlds.language import build_language_model
from tests.worlds.pipelines import build_generator

CLASSES = ("cat", "dog", "fir tree")
Guides = tuple[tuple[str, ...], ...]


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Stable Diffusion pipeline."""
    return build_generator(tmp_path_factory.mktemp("generator"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny causal language model."""
    return str(build_language_model(tmp_path_factory.mktemp("language")))


@pytest.fixture
def make_plan(pipeline: Path) -> Callable[..., Plan]:
    """make_plan(images_per_class, steps=1, classes=…, **synthesis settings) -> a plan for the tiny pipeline."""

    def make(
        images: int, *, steps: int = 1, classes: tuple[str, ...] = CLASSES, guides: Guides = (), **settings: Any
    ) -> Plan:
        generator = {"pipeline": str(pipeline), "steps": steps, "batch_size": 4}
        values = {"generator": generator, "filters": (), **settings}
        synthesis = SynthesisSettings(images_per_class=images, **values)
        return draft(synthesis, dataset="tiny", classnames=classes, template="a photo of a {}.", guides=guides)

    return make


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Generate shards in this process instead of Ray; returns the list of started shards."""
    started: list[int] = []

    def run_pool(
        shards: Sequence[int], worker: Callable[[], job.Worker[Any]], pool: Pool, **_: Any
    ) -> Iterator[Report]:
        here, waiting, failures = worker(), deque(shards), Counter[int]()
        while waiting:
            shard = waiting.popleft()
            started.append(shard)
            report = here.commit(here.begin(shard))
            if report.error and not report.fatal and failures[shard] < pool.retries:
                failures[shard] += 1
                waiting.append(shard)
            yield report

    monkeypatch.setattr(job, "run_pool", run_pool)
    monkeypatch.setattr(driver, "ray_session", nullcontext)
    return started


def digests(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of all files that are a function of the plan, unlike markers, which contain seconds."""
    files = [file for file in folder.iterdir() if file.suffix in (".tar", ".parquet") or file.name == "plan.json"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)}
