"""Repairing a set: damaged shards are generated again, to the very bytes that were there."""

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
from syncclip.shards.verify import problems
from syncclip.synthesis import references
from syncclip.synthesis.driver import synthesise_set
from syncclip.synthesis.generators.weights import locate
from syncclip.synthesis.plan import Plan, read_plan, write_plan
from syncclip.synthesis.references import real_images, store
from syncclip.synthesis.worker import ShardWorker
from syncclip.synthetic_sets import repair
from syncclip.synthetic_sets.imported import ImportedSet
from syncclip.synthetic_sets.repair import examine, repair_set
from syncclip.workers.settings import ONE_ACTOR, Pool
from tests.conftest import TinyWorld
from tests.shards.sets import verify, write_set
from tests.synthesis.conftest import digests
from tests.worlds.rewritten import rewrite

pytestmark = pytest.mark.fault


def generate_here(plan: Plan, url: str, _: Pool = ONE_ACTOR, shards: Iterable[int] | None = None) -> None:
    """What `synthesise_set` does, in this process."""
    known = plan.model_copy(update={"weights": locate(plan.generator).fingerprint})
    if read_plan(url) != known:
        write_plan(known, url)
    make = ShardWorker(known.model_dump_json(), url, "cpu", plan.generator.pipeline, owner=known.owner)
    there = committed(url)
    assert [make({"shard": one})["error"] for one in shards or plan.shards() if one not in there] == [
        "" for one in shards or plan.shards() if one not in there
    ]
    index_set(url, known.owner)


@pytest.fixture
def folder(make_plan: Callable[..., Plan], tmp_path: Path) -> Path:
    """A sound set of four shards, grown from two images a class to four."""
    place = tmp_path / "set"
    generate_here(make_plan(2, shard_size=4), str(place))
    generate_here(make_plan(2, shard_size=4).extended(4), str(place))
    assert len(committed(str(place))) == 4
    return place


@pytest.fixture
def generated_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair, "synthesise_set", generate_here)


def flip(file: Path, place: int = 700) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def damage(folder: Path, how: str) -> None:
    tar, table, marker = (folder / name for name in ("00001.tar", "00001.parquet", "00001_stats.json"))
    match how:
        case "a flipped byte":
            flip(tar)
        case "a flipped byte of an image":
            flip(tar, 2500)
        case "a short tar":
            tar.write_bytes(tar.read_bytes()[:-512])
        case "no tar":
            tar.unlink()
        case "no table":
            table.unlink()
        case "no marker":
            marker.unlink()
        case "an empty marker":
            marker.write_bytes(b"")
        case "an unreadable table":
            table.write_bytes(b"PAR1")
        case "another's table":
            shutil.copy(folder / "00002.parquet", table)
        case "nothing at all":
            for file in (tar, table, marker):
                file.unlink()


HOW = (
    "a flipped byte",
    "a flipped byte of an image",
    "a short tar",
    "no tar",
    "no table",
    "no marker",
    "an empty marker",
    "an unreadable table",
    "another's table",
    "nothing at all",
)


@pytest.mark.usefixtures("generated_here")
@pytest.mark.parametrize("how", HOW)
def test_what_is_damaged_is_generated_again_to_the_same_bytes(folder: Path, how: str) -> None:
    before = digests(folder)
    kept = {name: (folder / name).stat().st_mtime_ns for name in before if not name.startswith("00001")}
    damage(folder, how)
    found = examine(str(folder))
    assert {problem.shard for problem in found} == {1}
    assert repair_set(str(folder), [problem.shard for problem in found]) == [1]
    assert digests(folder) == before
    assert examine(str(folder)) == []
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == kept  # nobody touched the sound ones


@pytest.mark.usefixtures("generated_here")
def test_a_description_that_was_changed_in_the_table_is_found(folder: Path) -> None:
    file = folder / "00001.parquet"
    data = file.read_bytes()
    assert data.count(b"a photo of a ") > 0
    file.write_bytes(data.replace(b"a photo of a ", b"a phone of a "))
    assert any("its checksum differs" in sentence for sentence in verify(str(folder)))
    marker = json.loads(storage.read_bytes(str(folder / "00001_stats.json")))
    marker["table_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    rewrite(folder / "00001_stats.json", json.dumps(marker).encode())
    assert any("describes sample" in sentence for sentence in verify(str(folder)))


def test_a_repair_that_was_killed_leaves_gaps_that_the_next_one_fills(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digests(folder)
    for name in ("00001.tar", "00002.tar", "00003.tar"):
        flip(folder / name)

    def dies_after_one(plan: Plan, url: str, *_: Any) -> None:
        generate_here(plan, url, shards=[1])
        raise KeyboardInterrupt

    monkeypatch.setattr(repair, "synthesise_set", dies_after_one)
    with pytest.raises(KeyboardInterrupt):
        repair_set(str(folder), [1, 2, 3])
    assert list(committed(str(folder))) == [0, 1]
    monkeypatch.setattr(repair, "synthesise_set", generate_here)
    assert repair_set(str(folder), [problem.shard for problem in examine(str(folder))]) == [2, 3]
    assert digests(folder) == before


@pytest.mark.fault
@pytest.mark.usefixtures("generated_here")
def test_nothing_is_thrown_away_where_the_plan_is_that_of_another_set(folder: Path) -> None:
    plan = json.loads(storage.read_bytes(str(folder / "plan.json")))
    rewrite(folder / "plan.json", json.dumps({**plan, "seed": plan["seed"] + 1}).encode())
    broken = {problem.shard for problem in examine(str(folder))}
    before = digests(folder)
    with pytest.raises(UserError, match=r"plan\.json is not the plan of these shards"):
        repair_set(str(folder), broken or [1])
    assert digests(folder) == before


@pytest.mark.usefixtures("generated_here")
def test_nothing_is_thrown_away_where_the_hub_does_not_answer_for_the_generator(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(folder / "00001.tar")
    plan = json.loads(storage.read_bytes(str(folder / "plan.json")))
    plan["generator"]["pipeline"], plan["weights"] = "someone/model", "c0ffee"
    rewrite(folder / "plan.json", json.dumps(plan).encode())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="generator 'someone/model': .* HF_HUB_OFFLINE forbids access to the hub"):
        repair_set(str(folder), [1])
    assert len(committed(str(folder))) == 4


@pytest.mark.usefixtures("generated_here")
@pytest.mark.parametrize(
    ("judge", "sentence"),
    [
        ({"name": "clip_score", "top": 1, "backbone": {"name": "/gone"}}, "unknown CLIP '/gone'"),
        ({"name": "safety", "checker": "/gone", "checksum": "0" * 16}, "/gone has no safety checker"),
        ({"name": "leakage", "backbone": {"name": "icons"}, "checksum": "0" * 16}, "0{16}.safetensors is missing"),
    ],
)
def test_nothing_is_thrown_away_where_what_a_filter_judges_by_is_gone(
    folder: Path, judge: dict[str, Any], sentence: str
) -> None:
    flip(folder / "00001.tar")
    plan = json.loads(storage.read_bytes(str(folder / "plan.json")))
    rewrite(folder / "plan.json", json.dumps({**plan, "filters": [judge]}).encode())
    with pytest.raises(UserError, match=sentence):
        repair_set(str(folder), [1])
    assert len(committed(str(folder))) == 4


@pytest.mark.usefixtures("generated_here")
def test_nothing_is_thrown_away_where_a_image_to_start_from_is_damaged(
    make_plan: Callable[..., Plan], pipeline: Path, tiny: TinyWorld, tmp_path: Path
) -> None:
    dataset = load_dataset(DatasetSettings(name=tiny.dataset))
    images, url = real_images(dataset, shots=1, seed=1), str(tmp_path)
    generator = {"pipeline": str(pipeline), "guide": {}}
    plan = make_plan(1, classes=tuple(dataset.classnames), generator=generator, guides=references.digests(images))
    store(images, dataset, url)
    write_plan(plan, url)
    (tmp_path / "00000.tar").write_bytes(b"damaged")
    (album,) = (tmp_path / "guides").iterdir()
    flip(album / "00000.tar", 2000)
    with pytest.raises(UserError, match="00000.tar: its checksum differs"):
        repair_set(url, [0])
    assert (tmp_path / "00000.tar").exists()


@pytest.mark.usefixtures("generated_here")
def test_a_damaged_plan_is_never_drawn_by(folder: Path) -> None:
    flip(folder / "00001.tar")
    flip(folder / "plan.json", 40)
    assert {problem.shard for problem in problems(str(folder))} == {1}
    with pytest.raises(storage.DamagedError, match="/plan.json is corrupt"):
        repair_set(str(folder), [1])
    assert len(committed(str(folder))) == 4


def test_a_shard_that_is_none_of_the_plans_is_not_guessed_at(folder: Path) -> None:
    for name in (".tar", ".parquet"):
        shutil.copy(folder / f"00001{name}", folder / f"00009{name}")
    assert {problem.shard for problem in examine(str(folder))} == {9}
    with pytest.raises(UserError, match="00009.tar is not one of the 4 shards of the plan"):
        repair_set(str(folder), [9])
    assert (folder / "00009.tar").exists()


def test_a_set_without_a_plan_says_where_to_get_it_again(tmp_path: Path) -> None:
    write_set(str(tmp_path), classes=2, rounds=2)
    flip(tmp_path / "00000.tar")
    assert {problem.shard for problem in examine(str(tmp_path))} == {0}
    with pytest.raises(UserError, match=r"1 shard can't be regenerated without a plan; pack"):
        repair_set(str(tmp_path), [0])


def test_an_imported_set_says_what_it_was_made_of(tmp_path: Path) -> None:
    found = ImportedSet(source="dalle", dataset="b", classnames=("a", "b"), counts=(2, 2), shard_size=2, content="x")
    storage.write_document(str(tmp_path / "imported.json"), found, found.owner)
    write_set(str(tmp_path), classes=2, rounds=1, owner=found.owner)
    assert [problem.sentence for problem in examine(str(tmp_path))] == [
        "00001.tar: missing, although it belongs to the set"
    ]
    with pytest.raises(UserError, match="not generated but created from dalle; import it again"):
        repair_set(str(tmp_path), [1])


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_the_whole_road_repairs_by_ray(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    synthesise_set(make_plan(2, shard_size=4), str(tmp_path), show=False)
    before = digests(tmp_path)
    flip(tmp_path / "00001.tar")
    assert repair_set(str(tmp_path), [problem.shard for problem in examine(str(tmp_path))]) == [1]
    assert digests(tmp_path) == before
