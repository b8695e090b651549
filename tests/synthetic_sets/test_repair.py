"""Repair: damaged shards are generated again with the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.shards.index import index_set
from syncclip.shards.markers import committed
from syncclip.shards.verify import Problem, problems
from syncclip.synthesis import references
from syncclip.synthesis.driver import synthesise_set
from syncclip.synthesis.generators.weights import locate
from syncclip.synthesis.plan import Plan, read_plan, write_plan
from syncclip.synthesis.references import real_images, store
from syncclip.synthesis.worker import ShardWorker
from syncclip.synthetic_sets import repair
from syncclip.synthetic_sets.imported import ImportedSet
from syncclip.synthetic_sets.repair import absent, repair_set
from syncclip.workers.settings import ONE_ACTOR, Pool
from tests.conftest import TinyWorld
from tests.shards.sets import verify, write_set
from tests.synthesis.conftest import digests
from tests.worlds.rewritten import rewrite

pytestmark = pytest.mark.fault


def generate_here(plan: Plan, url: str, _: Pool = ONE_ACTOR, shards: Iterable[int] | None = None) -> None:
    """`synthesise_set` in this process."""
    plan = plan.model_copy(update={"weights": locate(plan.generator).fingerprint})
    if read_plan(url) != plan:
        write_plan(plan, url)
    generate = ShardWorker(plan.model_dump_json(), url, "cpu", plan.generator.pipeline, owner=plan.owner)
    existing = committed(url)
    for shard in shards or plan.shards():
        assert shard in existing or generate({"shard": shard})["error"] == ""
    index_set(url, plan.owner)


def examine(url: str) -> list[Problem]:
    """Corrupt shards of a dataset and missing shards of its plan."""
    corrupt = list(problems(url))
    return [*corrupt, *absent(url, {problem.shard for problem in corrupt})]


def broken_shards(folder: Path) -> set[int]:
    return {problem.shard for problem in examine(str(folder))}


@pytest.fixture
def folder(make_plan: Callable[..., Plan], tmp_path: Path) -> Path:
    """A dataset of four shards, extended from two to four images per class."""
    folder = tmp_path / "set"
    generate_here(make_plan(2, shard_size=4), str(folder))
    generate_here(make_plan(2, shard_size=4).extended(4), str(folder))
    assert len(committed(str(folder))) == 4
    return folder


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair, "synthesise_set", generate_here)


def flip(file: Path, position: int = 700) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


def change_plan(folder: Path, **values: Any) -> None:
    plan = json.loads(storage.read_bytes(str(folder / "plan.json")))
    rewrite(folder / "plan.json", json.dumps({**plan, **values}).encode())


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped bit": lambda folder: flip(folder / "00001.tar"),
    "flipped bit in an image": lambda folder: flip(folder / "00001.tar", 2500),
    "short tar": lambda folder: (folder / "00001.tar").write_bytes((folder / "00001.tar").read_bytes()[:-512]),
    "no tar": lambda folder: (folder / "00001.tar").unlink(),
    "no table": lambda folder: (folder / "00001.parquet").unlink(),
    "no marker": lambda folder: (folder / "00001_stats.json").unlink(),
    "empty marker": lambda folder: (folder / "00001_stats.json").write_bytes(b""),
    "unreadable table": lambda folder: (folder / "00001.parquet").write_bytes(b"PAR1"),
    "table of another shard": lambda folder: shutil.copy(folder / "00002.parquet", folder / "00001.parquet"),
    "no files": lambda folder: [file.unlink() for file in folder.glob("00001*")],
}


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_generated_again_with_the_same_bytes(folder: Path, damage: str) -> None:
    expected = digests(folder)
    times = {name: (folder / name).stat().st_mtime_ns for name in expected if not name.startswith("00001")}
    DAMAGES[damage](folder)
    assert broken_shards(folder) == {1}
    assert repair_set(str(folder), broken_shards(folder)) == [1]
    assert digests(folder) == expected
    assert examine(str(folder)) == []
    assert {name: (folder / name).stat().st_mtime_ns for name in times} == times


def test_a_table_with_other_texts_is_reported(folder: Path) -> None:
    file = folder / "00001.parquet"
    data = file.read_bytes()
    assert data.count(b"a photo of a ") > 0
    file.write_bytes(data.replace(b"a photo of a ", b"a phone of a "))
    assert any("its checksum does not match" in sentence for sentence in verify(str(folder)))
    marker = json.loads(storage.read_bytes(str(folder / "00001_stats.json")))
    marker["table_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    rewrite(folder / "00001_stats.json", json.dumps(marker).encode())
    assert any("differs from the table" in sentence for sentence in verify(str(folder)))


def test_a_killed_repair_can_be_resumed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = digests(folder)
    for name in ("00001.tar", "00002.tar", "00003.tar"):
        flip(folder / name)

    def die_after_one(plan: Plan, url: str, *_: Any) -> None:
        generate_here(plan, url, shards=[1])
        raise KeyboardInterrupt

    monkeypatch.setattr(repair, "synthesise_set", die_after_one)
    with pytest.raises(KeyboardInterrupt):
        repair_set(str(folder), [1, 2, 3])
    assert list(committed(str(folder))) == [0, 1]
    monkeypatch.setattr(repair, "synthesise_set", generate_here)
    assert repair_set(str(folder), broken_shards(folder)) == [2, 3]
    assert digests(folder) == expected


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"name": "clip_score", "top": 1, "backbone": {"name": "/gone"}}, "unknown CLIP model '/gone'"),
        ({"name": "safety", "checker": "/gone", "checksum": "0" * 16}, "/gone has no safety checker"),
        ({"name": "leakage", "backbone": {"name": "icons"}, "checksum": "0" * 16}, "0{16}.safetensors is missing"),
    ],
)
def test_nothing_is_removed_if_an_asset_of_a_filter_is_missing(
    folder: Path, filters: dict[str, Any], message: str
) -> None:
    flip(folder / "00001.tar")
    change_plan(folder, filters=[filters])
    with pytest.raises(UserError, match=message):
        repair_set(str(folder), [1])
    assert len(committed(str(folder))) == 4


@pytest.mark.usefixtures("in_process")
def test_nothing_is_removed_if_the_plan_belongs_to_another_dataset(folder: Path) -> None:
    change_plan(folder, seed=12345)
    before = digests(folder)
    with pytest.raises(UserError, match=r"plan\.json does not match these shards"):
        repair_set(str(folder), broken_shards(folder) or [1])
    assert digests(folder) == before


@pytest.mark.usefixtures("in_process")
def test_nothing_is_removed_if_the_hub_is_unreachable(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(folder / "00001.tar")
    generator = json.loads(storage.read_bytes(str(folder / "plan.json")))["generator"]
    change_plan(folder, generator={**generator, "pipeline": "someone/model"}, weights="c0ffee")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="generator 'someone/model' .* HF_HUB_OFFLINE"):
        repair_set(str(folder), [1])
    assert len(committed(str(folder))) == 4


@pytest.mark.usefixtures("in_process")
def test_nothing_is_removed_if_a_reference_image_is_corrupt(
    make_plan: Callable[..., Plan], pipeline: Path, tiny: TinyWorld, tmp_path: Path
) -> None:
    dataset = load_dataset(DatasetSettings(name=tiny.dataset))
    images, url = real_images(dataset, shots=1, seed=1), str(tmp_path)
    generator = {"pipeline": str(pipeline), "guide": {}}
    plan = make_plan(1, classes=tuple(dataset.classnames), generator=generator, guides=references.digests(images))
    store(images, dataset, url)
    write_plan(plan, url)
    (tmp_path / "00000.tar").write_bytes(b"corrupt")
    (guides,) = (tmp_path / "guides").iterdir()
    flip(guides / "00000.tar", 2000)
    with pytest.raises(UserError, match="00000.tar: its checksum does not match"):
        repair_set(url, [0])
    assert (tmp_path / "00000.tar").exists()


@pytest.mark.usefixtures("in_process")
def test_a_corrupt_plan_is_an_error(folder: Path) -> None:
    flip(folder / "00001.tar")
    flip(folder / "plan.json", 40)
    with pytest.raises(storage.DamagedError, match="/plan.json is corrupt"):
        repair_set(str(folder), [1])
    assert len(committed(str(folder))) == 4


def test_a_shard_outside_the_plan_is_an_error(folder: Path) -> None:
    for name in (".tar", ".parquet"):
        shutil.copy(folder / f"00001{name}", folder / f"00009{name}")
    assert broken_shards(folder) == {9}
    with pytest.raises(UserError, match="00009.tar is not one of the plan's 4 shards"):
        repair_set(str(folder), [9])
    assert (folder / "00009.tar").exists()


def test_a_dataset_without_a_plan_can_not_be_repaired(tmp_path: Path) -> None:
    write_set(str(tmp_path), classes=2, rounds=2)
    flip(tmp_path / "00000.tar")
    with pytest.raises(UserError, match=r"1 shard can't be regenerated without a plan; pack"):
        repair_set(str(tmp_path), broken_shards(tmp_path))


def test_an_imported_dataset_can_not_be_repaired(tmp_path: Path) -> None:
    imported = ImportedSet(source="dalle", dataset="b", classnames=("a", "b"), counts=(2, 2), shard_size=2, content="x")
    storage.write_document(str(tmp_path / "imported.json"), imported, imported.owner)
    write_set(str(tmp_path), classes=2, rounds=1, owner=imported.owner)
    (problem,) = examine(str(tmp_path))
    assert problem.sentence.startswith("00001.tar: the shard is in the plan but missing")
    with pytest.raises(UserError, match="created from dalle; import the dataset again"):
        repair_set(str(tmp_path), [1])


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_dataset_is_repaired_by_ray(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    synthesise_set(make_plan(2, shard_size=4), str(tmp_path), show=False)
    expected = digests(tmp_path)
    flip(tmp_path / "00001.tar")
    assert repair_set(str(tmp_path), broken_shards(tmp_path)) == [1]
    assert digests(tmp_path) == expected
