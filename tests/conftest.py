"""Shared fixtures."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import subprocess
import sys
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

# On few cores, one thread per process is faster, and the results are the same.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray exports metrics every ten seconds by default; it reads this variable when it is imported.
os.environ.setdefault("RAY_metrics_report_interval_ms", "2000")
# Ray's workers have low priority by default, which delays tests while other processes are busy.
os.environ.setdefault("RAY_worker_niceness", "0")
# Ray Train's watcher for preemptions in a cloud is another process per run.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")

# A process started in the background or by nohup ignores these signals, as do its children. A handler that does
# nothing is not inherited by them.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


def _leave_ray() -> None:
    """Make Ray appear as not initialised in a forked process.

    The child inherits its parent's connections, but not the threads that serve them: a call to Ray would wait forever,
    and would also disconnect the parent.
    """
    if "ray" in sys.modules:
        sys.modules["ray"].is_initialized = lambda: False


os.register_at_fork(after_in_child=_leave_ray)

LOGGED: list[str] = []
"""Messages logged by the package during the current test; pytest's own plugin is slow with a thousand loggers."""

hypothesis.settings.register_profile("busy machines", deadline=None)
hypothesis.settings.load_profile("busy machines")


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Random numbers on the CPU do not depend on earlier tests of the process."""
    import torch

    # `torch.manual_seed` also seeds all other devices, which takes a millisecond.
    torch.default_generator.manual_seed(4711)


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for records of custom code, instead of the user's; other processes inherit it."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def new_session() -> Iterator[None]:
    """A session without trusted code; it starts with the storage options of fixtures, and its changes end with it."""
    with replace(current().copy(), trusted={}, untrusted_sources={}):
        yield


class Listener(logging.Handler):
    """Records messages of the package; without a handler, Python would print them."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] == "syncclip":
            LOGGED.append(record.getMessage())


logging.getLogger().addHandler(Listener())


@pytest.fixture(autouse=True)
def logged() -> list[str]:
    """Messages logged by the package during the test."""
    LOGGED.clear()
    return LOGGED


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs an NVIDIA GPU")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """CPU, and an NVIDIA GPU for tests marked `gpu`."""
    return str(request.param)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add logged messages to the report of a failure."""
    report = yield
    if report.failed and LOGGED:
        report.sections.append(("logged by syncclip", "\n".join(LOGGED)))
    return report


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray, shared by all tests of the process."""
    with ray_session(cpus=4):
        yield


@pytest.fixture(scope="session")
def head() -> Iterator[str]:
    """Dashboard address of a cluster of two nodes with one CPU each."""
    from tests.ray_head import SMALL, ray_head

    one_cpu = "--num-cpus=1", "--num-gpus=0"
    with ray_head(*one_cpu) as cluster:
        cluster.join(*one_cpu, SMALL)
        yield cluster.address


@dataclass(frozen=True)
class TinyWorld:
    """Dataset, CLIP and generator with random weights that load in milliseconds; see `tests/worlds`."""

    dataset: str
    backbone: str
    generator: str
    recipe: str
    """A recipe that uses them and trains for two epochs of three steps."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    """The shared tiny world, which tests must not change."""
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
    """The synthetic set of the tiny world, generated in this process; tests must not change it."""
    from syncclip.recipe.recipe import Recipe
    from tests.worlds.shared import only_read
    from tests.worlds.synthetic import generate_here

    url = generate_here(Recipe.load(tiny.recipe), str(tmp_path_factory.mktemp("set")))
    with only_read(url):
        yield url


@pytest.fixture(scope="session")
def miniatures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Miniatures]:
    """Miniatures of all fifteen benchmark datasets in one folder; tests must not change them."""
    from syncclip.datasets.catalog import DATASETS
    from tests.worlds.literature import Miniatures, miniature
    from tests.worlds.shared import only_read

    root = tmp_path_factory.mktemp("literature")
    datasets = Miniatures(root, {name: miniature(root, name) for name in DATASETS})
    with only_read(root):
        yield datasets


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub with an empty cache for the user alice; `hub.environment` is for other processes."""
    from tests.worlds.hub import serving

    with serving(tmp_path / "hub-home") as hub:
        for name, value in hub.constants.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        yield hub


@pytest.fixture(scope="session")
def browser() -> Iterator[int]:
    """Port of the DevTools of a shared Chromium; see `tests/browser.py`."""
    from tests.browser import chromium

    with chromium() as port:
        yield port


def pytest_collection_finish() -> None:
    """Exclude imported modules from garbage collection, which takes a tenth of the tests' time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="run only tests without an entry in .test_durations")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect nightly tests and attacks unless `-m` names them, browser tests without Chromium, and long tests with
    `--quick`; assign lanes."""
    from tests.browser import CHROMIUM

    selected = {name: name in config.option.markexpr for name in ("attack", "nightly")} | {"browser": bool(CHROMIUM)}
    excluded = {name for name, runs in selected.items() if not runs}
    deselected = {item for item in items if any(map(item.get_closest_marker, excluded))}
    if config.getoption("quick"):
        long = json.loads((config.rootpath / ".test_durations").read_text())
        deselected |= {item for item in items if item.nodeid in long}
    config.hook.pytest_deselected(items=[*deselected])
    items[:] = [item for item in items if item not in deselected]
    lanes.assign(items)
    if hasattr(config, "workerinput"):
        lanes.sort(items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """Distribute tests to processes by lane and file."""
    return lanes.LanesAndFiles(config, log) if config.getoption("dist") == "loadgroup" else None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a file system: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def no_ray_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray appears as not initialised, as in a new process."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
