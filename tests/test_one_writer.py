"""Each command that writes into a folder locks it, and reports another writer and removed files."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from syncclip import jobs, storage
from syncclip.core.settings import UserError
from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.datasets.loading import read_dataset
from syncclip.datasets.packed import pack
from syncclip.export.formats import export
from syncclip.inference.model import load
from syncclip.interop.exports import export_prompts
from syncclip.interop.imports import import_prompts
from syncclip.protocols.run import Request, reproduce
from syncclip.recipe.recipe import Recipe
from syncclip.runtime.processes import Owner
from syncclip.storage import files, locks
from syncclip.storage.conditional_writes import read_current, swap
from syncclip.storage.locks import LockFile
from syncclip.studies import cells
from syncclip.studies.cells import CellRun
from syncclip.studies.run import study
from syncclip.studies.tune import tune
from syncclip.synthesis.captioning import write_captions
from syncclip.synthesis.prompts.captions import WriterSettings
from syncclip.synthetic_sets.export import export_set
from syncclip.synthetic_sets.imported import import_set
from syncclip.synthetic_sets.merge import merge_sets
from syncclip.synthetic_sets.quality import measure_quality
from syncclip.synthetic_sets.repair import repair_set
from tests.conftest import TinyWorld
from tests.interop import published
from tests.object_store import s3_bucket
from tests.synthesis.conftest import in_process
from tests.synthetic_sets.test_imported import authors_folder
from tests.synthetic_sets.test_merge import make_set
from tests.worlds.literature import Miniatures

__all__ = ["in_process"]


class Stopped(BaseException):
    """Ends a command at its first write."""


class Mute:
    """Replaces a language model."""

    weights = ""

    def __init__(self, settings: WriterSettings, device: str | None) -> None: ...

    def write(self, classname: str) -> tuple[str, ...]:
        return (f"a {classname}",)


@dataclass(frozen=True)
class World:
    """Inputs of commands: recipes, datasets, a finished run, a published checkpoint."""

    tiny: TinyWorld
    folder: Path
    literature: str

    def recipe(self, *overrides: str) -> Recipe:
        return Recipe.load(self.tiny.recipe, ["training.data=real", "training.method=ivlp", *overrides])

    def path(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture(scope="module")
def world(tiny: TinyWorld, tiny_set: str, miniatures: Miniatures, tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tiny, tmp_path_factory.mktemp("one-writer"), str(miniatures.root))
    make_set(made.path("one"), (1, 1, 1))
    make_set(made.path("two"), (1, 1, 1), first=100)
    shutil.copytree(tiny_set, made.path("set"))
    (made.folder / "published").mkdir()
    authors_folder(made.folder / "published")
    jobs.run_here(made.recipe(), made.path("run"))
    published.write_clip(made.folder / "clip")
    case = published.Case("ivlp")
    published.save(made.folder / "checkpoint", case.method, published.state_dict(case))
    return made


@dataclass(frozen=True)
class Kind:
    """A command that writes into a folder."""

    command: str
    """Name of the command in messages."""
    act: Callable[[World, str], Any]
    before: str = ""
    """Name of the input that the folder contains before the command."""
    finishes: bool = True
    """Whether the command can finish in these tests."""
    file: str = ""
    """Name of the only file that the command writes and locks; "": it locks the folder."""


def captions(world: World, folder: str) -> None:
    settings = WriterSettings(model="none", instruction="a {}")
    write_captions(settings, ["cat", "dog"], storage.join(folder, "captions.json"))


def candidates(world: World) -> Recipe:
    configuration = {"method": "ivlp", "data": "real", "search_space": {"training.epochs": [1, 2]}}
    return world.recipe().with_values({"study.configurations": [configuration], "study.tune_seeds": [1]})


STUDY = (
    "study.configurations=[{method: zeroshot}, {method: ivlp, data: real}]",
    "study.seeds=[1]",
    "training.epochs=1",
)
CASE = published.Case("ivlp")
KINDS = {
    "synth": Kind("synth", lambda world, folder: jobs.synth(world.recipe(), folder)),
    "train": Kind("train", lambda world, folder: jobs.run_here(world.recipe(), folder)),
    "evaluate": Kind("evaluate", lambda world, folder: jobs.evaluate(folder), before="run"),
    "study": Kind("study", lambda world, folder: study(world.recipe(*STUDY), folder)),
    "tune": Kind("tune", lambda world, folder: tune(candidates(world), folder)),
    "reproduce": Kind(
        "reproduce",
        lambda world, folder: reproduce(Request("base-to-novel", world.literature, ["eurosat"], out=folder)),
        finishes=False,
    ),
    "merge": Kind("shards merge", lambda world, folder: merge_sets([world.path("one"), world.path("two")], folder)),
    "import": Kind(
        "shards import",
        lambda world, folder: import_set(
            world.path("published"), load_dataset(DatasetSettings(name=world.tiny.dataset)), folder
        ),
    ),
    "pack": Kind(
        "shards pack",
        lambda world, folder: pack(read_dataset(DatasetSettings(name=world.tiny.dataset)), folder, [1], [1]),
    ),
    **{
        f"export {layout}": Kind(
            "shards export", lambda world, folder, layout=layout: export_set(world.path("one"), folder, layout)
        )
        for layout in ("folder", "huggingface", "split-zhou")
    },
    "quality": Kind("shards quality", lambda world, folder: measure_quality(world.recipe(), folder), before="set"),
    "repair": Kind("shards verify --repair", lambda world, folder: repair_set(folder, [0]), before="set"),
    "captions": Kind("captions", captions, file="captions.json"),
    "prompts import": Kind(
        "prompts import",
        lambda world, folder: import_prompts(world.path("checkpoint"), published.recipe(world.folder, CASE), folder),
    ),
    "export": Kind("export", lambda world, folder: export(load(world.path("run")), "vectors", folder)),
    "prompts export": Kind("prompts export", lambda world, folder: export_prompts(world.path("run"), folder)),
}


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch, in_process: list[int]) -> None:
    """Commands without Ray and language models."""

    def run_cells(runs: list[CellRun], *_: Any, **__: Any) -> tuple[list[CellRun], Any]:
        for run in runs:
            assert cells.run_cell(run.spec)["error"] is None
        return [replace(run, status="done") for run in runs], cells.StudyStatus.begin(cells=len(runs), done=0)

    def ensure_set(recipe: Recipe, url: str) -> None:
        storage.write_bytes(storage.join(url, "plan.json"), b"")

    monkeypatch.setattr("syncclip.studies.run.run_cells", run_cells)
    monkeypatch.setattr("syncclip.studies.tune.run_cells", run_cells)
    monkeypatch.setattr("syncclip.protocols.run.ensure_set", ensure_set)
    monkeypatch.setattr("syncclip.protocols.run.prepare", lambda *_: [])
    monkeypatch.setattr("syncclip.synthesis.captioning.Writer", Mute)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, light: None) -> Kind:
    """A command."""
    return KINDS[request.param]


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.nightly)])
def folder(request: pytest.FixtureRequest, kind: Kind, world: World, tmp_path: Path) -> Iterator[str]:
    """URL of the folder into which the command writes."""
    if request.param == "local":
        if kind.before:
            shutil.copytree(world.path(kind.before), tmp_path / "out")
        yield str(tmp_path / "out")
        return
    with s3_bucket() as bucket:
        for path in sorted(Path(world.path(kind.before)).rglob("*")) if kind.before else ():
            if path.is_file():
                name = str(path.relative_to(world.path(kind.before)))
                storage.publish(path, storage.join(bucket, "out", name))
        endpoint = storage.urls.configured()
        # A recipe would reset the storage options, and so the endpoint.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("syncclip.storage.urls.options_of", _with(endpoint))
            yield f"{bucket}/out"


def _with(options: dict[str, Any]) -> Callable[[str], dict[str, Any]]:
    return lambda url: {"use_listings_cache": False, **options}


def content(folder: str, inner: str = "") -> dict[str, bytes]:
    """Read the listed files of a folder, recursively, into path -> bytes."""
    files = {inner + name: storage.read_bytes(storage.join(folder, name)) for name in storage.sizes(folder)}
    for name in set(storage.listdir(folder)) - set(storage.sizes(folder)):
        files |= content(storage.join(folder, name), f"{inner}{name}/")
    return files


def lock_file(kind: Kind, folder: str) -> str:
    """Return the URL of the command's lock."""
    return storage.join(folder, f".{kind.file}.lock" if kind.file else locks.LOCK_FILE)


def test_a_folder_locked_by_another_command_is_an_error_and_unchanged(kind: Kind, folder: str, world: World) -> None:
    before = content(folder)
    lock_of_another = LockFile(command="another", owner=Owner.here(), since="2026-01-01 00:00 UTC", token="t")
    other = lock_of_another.model_dump_json().encode()
    assert swap(lock_file(kind, folder), None, other)
    with pytest.raises(UserError, match=r"out.*: `another` of .* has held the lock since 2026-01-01 00:00 UTC"):
        kind.act(world, folder)
    assert content(folder) == before and read_current(lock_file(kind, folder)) == other


def test_a_command_locks_its_folder_before_its_first_write_and_releases_it(
    kind: Kind, folder: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes: list[str] = []

    def probe() -> None:
        try:
            with locks.lock(storage.join(folder, kind.file) if kind.file else folder, "probe", file=bool(kind.file)):
                outcomes.append("locked")
        except UserError as error:
            outcomes.append(str(error))

    def check(url: str) -> None:
        if url.startswith(folder):
            thread = threading.Thread(target=probe)
            thread.start()
            thread.join()
            raise Stopped

    monkeypatch.setattr(locks, "check", check)
    with pytest.raises(Stopped):
        kind.act(world, folder)
    assert outcomes and f": `{kind.command}` of " in outcomes[0]
    assert read_current(lock_file(kind, folder)) is None


@pytest.mark.parametrize("folder", ["local"], indirect=True)
@pytest.mark.parametrize(
    ("moment", "kept"),
    [("first write", ""), pytest.param("last write", "", marks=pytest.mark.nightly), ("last write", "hidden files")],
)
def test_a_folder_that_is_removed_during_a_command_is_an_error(
    kind: Kind, folder: str, world: World, monkeypatch: pytest.MonkeyPatch, moment: str, kept: str
) -> None:
    if not kind.finishes:
        return
    write, writes, last = files._replace, [0], [0]

    def write_and_remove(path: Path, data: Any, hold: Any) -> None:
        write(path, data, hold)
        if str(path).startswith(folder):
            writes[0] += 1
            if writes[0] == last[0]:
                subprocess.run(f"rm -rf {folder}/*" if kept else f"rm -rf {folder}", shell=True, check=True)

    monkeypatch.setattr(files, "_replace", write_and_remove)
    if moment == "first write":
        last[0] = 1
    else:
        kind.act(world, folder)
        assert writes[0] > 0
        last[0], writes[0] = writes[0], 0
        shutil.rmtree(folder)
        if kind.before:
            shutil.copytree(world.path(kind.before), folder)
    with pytest.raises(UserError, match=str(folder)):
        kind.act(world, folder)
    assert content(folder) == {}


def test_a_finished_command_writes_no_lock(
    world: World, in_process: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, synthetic, run = world.recipe(), str(tmp_path / "set"), str(tmp_path / "run")
    jobs.synth(recipe, synthetic)
    jobs.run_here(recipe, run)
    monkeypatch.delattr("syncclip.storage.locks.swap")
    assert jobs.synth(recipe, synthetic).complete
    assert jobs.run_here(recipe, run).results == jobs.train(recipe, run).results
