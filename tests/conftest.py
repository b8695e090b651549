"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from syncclip.core.session import current
from syncclip.runtime.ray_session import ray_session
from tests import lanes

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import Scheduling

    from tests.worlds.hub import Hub
    from tests.worlds.literature import Miniatures

# Tests share few cores: one thread a process is faster than many that wait for each other, and gives the same bits.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray passes metrics on every ten seconds, for which tests of metrics would wait; it reads this when it is imported.
os.environ.setdefault("RAY_metrics_report_interval_ms", "2000")
# Ray's workers are nice by default; while other processes compute tests, those that wait for Ray would hardly go on.
os.environ.setdefault("RAY_worker_niceness", "0")
# Ray Train watches for machines that a cloud is about to take away, by one more process a run; none is here.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")

# What began in a script's background, or under nohup, ignores these signals, and so would all that it starts: of a
# handler that does nothing, only the process itself has anything.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, lambda *_: None)

LOGGED: list[str] = []
"""What the package logged since the test began. Pytest's own plugin for this, which is left out, looks at a thousand
loggers six times a test."""

hypothesis.settings.register_profile("busy machines", deadline=None)
hypothesis.settings.load_profile("busy machines")


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """What a test draws on the CPU doesn't depend on the tests that ran before it in its process."""
    import torch

    # No seed that a test uses itself. `torch.manual_seed` also seeds all other devices, which takes a millisecond.
    torch.default_generator.manual_seed(4711)


@pytest.fixture(autouse=True)
def own_session() -> Iterator[None]:
    """No test runs custom code because an earlier one was allowed to; storage options are those of the fixtures."""
    with replace(current(), trusted={}, untrusted_sources={}):
        yield


class Listener(logging.Handler):
    """Keeps what the package logs, instead of Python, which prints it where no handler is."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] == "syncclip":
            LOGGED.append(record.getMessage())


logging.getLogger().addHandler(Listener())


@pytest.fixture(autouse=True)
def logged() -> list[str]:
    """What the package logs during the test."""
    LOGGED.clear()
    return LOGGED


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs an NVIDIA GPU, and there is none here")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Each device that there is: what is said of a GPU is said of a CPU, too."""
    return str(request.param)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show beside a failure what was logged."""
    report = yield
    if report.failed and LOGGED:
        report.sections.append(("logged by syncclip", "\n".join(LOGGED)))
    return report


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray for the whole test session: starting one takes seconds."""
    with ray_session(cpus=4):
        yield


@pytest.fixture(scope="session")
def head() -> Iterator[str]:
    """The address of a cluster of two nodes, each with one CPU, to which jobs are submitted."""
    from tests.ray_head import SMALL, ray_head

    one_cpu = "--num-cpus=1", "--num-gpus=0"
    with ray_head(*one_cpu) as one:
        one.join(*one_cpu, SMALL)
        yield one.address


@dataclass(frozen=True)
class TinyWorld:
    """Dataset, CLIP and generator that load in milliseconds and mean nothing; see `tests/worlds`."""

    dataset: str
    backbone: str
    generator: str
    recipe: str
    """A recipe that uses them, with a training of two epochs of three steps."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    """One tiny world for the whole test session; tests write elsewhere."""
    from tests.worlds.clip import make_clip_folder
    from tests.worlds.dataset import tiny_dataset
    from tests.worlds.pipelines import build_generator

    folder = tmp_path_factory.mktemp("tiny")
    dataset = tiny_dataset(folder / "shapes")
    backbone = make_clip_folder(folder / "clip")
    generator = build_generator(folder / "generator")
    recipe = folder / "tiny.yaml"
    recipe.write_text(
        f"""
dataset: {{name: {dataset}, shots: 4}}
backbone: {{name: {backbone}}}
synthesis:
  images_per_class: 2
  shard_size: 6
  generator: {{pipeline: {generator}, steps: 2, batch_size: 3}}
training: {{epochs: 2, batch_size: 4, checkpoint_every: 2}}
study:
  configurations: [{{method: zeroshot}}, {{method: ivlp, data: real}}, {{method: syncclip}}]
  images_per_class: [1, 2]
  seeds: [1]
  resamples: 100
  map_images: 12
storage: {{root: {folder / "runs"}}}
"""
    )
    return TinyWorld(str(dataset), str(backbone), str(generator), str(recipe))


@pytest.fixture(scope="session")
def tiny_set(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The synthetic set of the tiny world, drawn once, in this process (Ray takes longer); tests only read it."""
    from syncclip.recipe.recipe import Recipe
    from tests.worlds.shared import only_read
    from tests.worlds.synthetic import generate_here

    url = generate_here(Recipe.load(tiny.recipe), str(tmp_path_factory.mktemp("set")))
    with only_read(url):
        yield url


@pytest.fixture(scope="session")
def miniatures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Miniatures]:
    """All fifteen datasets of the literature below one root; tests only read it."""
    from syncclip.datasets.catalog import DATASETS
    from tests.worlds.literature import Miniatures, miniature
    from tests.worlds.shared import only_read

    root = tmp_path_factory.mktemp("literature")
    made = Miniatures(root, {name: miniature(root, name) for name in DATASETS})
    with only_read(root):
        yield made


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub with an empty cache, for this process as its user alice; `hub.environment` is for others."""
    from tests.worlds.hub import serving

    with serving(tmp_path / "hub-home") as hub:
        for name, value in hub.constants.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        yield hub


@pytest.fixture(scope="session")
def browser() -> Iterator[int]:
    """One Chromium for the whole test session, by the port of its DevTools; see `tests/browser.py`."""
    from tests.browser import chromium

    with chromium() as port:
        yield port


def pytest_collection_finish() -> None:
    """Keep the garbage collector, a tenth of the tests' time, from looking again and again at all that was imported."""
    gc.collect()
    gc.freeze()


# Before xdist itself reads the groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Prepare tests to run side by side; pytest counts and reports those that are left out.

    These are the nightly tests and the attacks, unless `-m` selects them, and Chromium's tests without Chromium.
    """
    from tests.browser import CHROMIUM

    selected = {name: name in config.option.markexpr for name in ("attack", "nightly")} | {"browser": bool(CHROMIUM)}
    absent = {name for name, runs in selected.items() if not runs}
    left_out = {item for item in items if any(map(item.get_closest_marker, absent))}
    config.hook.pytest_deselected(items=[*left_out])
    items[:] = [item for item in items if item not in left_out]
    lanes.assign(items)
    if hasattr(config, "workerinput"):  # one of several processes
        lanes.sort(items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """What distributes the tests over the processes of `pytest -n 4`."""
    return lanes.LanesAndFiles(config, log) if config.getoption("dist") == "loadgroup" else None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 400 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a file system can't be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def no_ray_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process: whatever other tests started, no Ray is joined."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
