"""Exports contain all images of a dataset in other layouts."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import pytest
import yaml

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.datasets.dataset import Dataset, DatasetSettings
from syncclip.datasets.loading import read_dataset
from syncclip.shards.reader import ShardSet
from syncclip.synthetic_sets import export
from syncclip.synthetic_sets.card import shared
from syncclip.synthetic_sets.export import export_set, folder_names
from syncclip.synthetic_sets.imported import import_set
from syncclip.verify import Verification, verify
from tests.object_store import faulty_bucket
from tests.shards.sets import index_of
from tests.synthetic_sets.test_merge import make_set
from tests.worlds.chaos import undisturbed_bytes
from tests.worlds.light import light_plan

NAMES = ("tabby/cat", "fir tree", "Größe")
COUNTS = (3, 5, 4)
DATASET = Dataset(name="b", classnames=list(NAMES), template="a {}", splits={})


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A dataset of twelve images of three classes in three shards."""
    return make_set(f"{tmp_path}/set", COUNTS, classnames=NAMES)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def images_of(url: str) -> list[tuple[int, bytes]]:
    images = ShardSet(url)
    return [(int(label), images.read(row)) for row, label in enumerate(images.labels)]


def test_class_folders_contain_every_image(url: str, tmp_path: Path) -> None:
    assert export_set(url, f"{tmp_path}/out", "folder") == 12
    exported = files(tmp_path / "out")
    assert json.loads(exported.pop("export.json"))["to"] == "folder"
    folders = ["tabby_cat", "fir tree", "Größe"]
    assert sorted(exported) == sorted(f"{folders[i % 3]}/{i:09d}.jpg" for i in ShardSet(url).samples.index.tolist())
    assert sorted(exported.values()) == sorted(image for _, image in images_of(url))
    assert exported["fir tree/000000004.jpg"] == ShardSet(url).read(4)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("layout", ["folder", "huggingface", "split-zhou"])
def test_actors_write_the_same_files_as_one_process(url: str, tmp_path: Path, layout: str) -> None:
    for actors in (1, 2):
        assert export_set(url, f"{tmp_path}/{actors}", layout, actors=actors) == 12
    first, second = (files(tmp_path / str(actors)) for actors in (1, 2))
    assert first == second
    assert verify(f"{tmp_path}/2", pytest.fail, actors=2).problems == []


def test_ambiguous_folder_names_are_numbered() -> None:
    names = folder_names(("crane", "Crane", "a/b", "a:b", "..", ""))
    assert names == ["crane 0", "Crane 1", "a_b 2", "a_b 3", "class 4", "class 5"]


def test_an_exported_split_file_can_be_imported(url: str, tmp_path: Path) -> None:
    export_set(url, f"{tmp_path}/out", "split-zhou")
    content = json.loads((tmp_path / "out" / "split_zhou_b.json").read_bytes())
    assert content["val"] == content["test"] == []
    assert content["train"][1] == ["fir tree/000000001.jpg", 1, "fir tree"]
    assert len(content["train"]) == 12
    assert import_set(f"{tmp_path}/out", DATASET, f"{tmp_path}/imported").counts == COUNTS
    assert images_of(f"{tmp_path}/imported") == images_of(url)


@pytest.fixture
def load_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """`datasets.load_dataset` without network access and with an empty cache."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return functools.partial(datasets.load_dataset, split="train", cache_dir=str(tmp_path / "cache"))


def test_a_hugging_face_export_is_loaded_with_class_names(
    url: str, tmp_path: Path, load_offline: Callable[..., Any]
) -> None:
    export_set(url, f"{tmp_path}/out", "huggingface", licence="cc0-1.0")
    for shard in range(3):
        tar = tmp_path / "out" / "data" / f"train-{shard:05d}-of-00003.tar"
        assert tar.read_bytes() == Path(url, f"{shard:05d}.tar").read_bytes()
    assert (tmp_path / "out" / "imported.json").exists()
    rows, images = load_offline(str(tmp_path / "out")), ShardSet(url)
    assert rows.features["cls"].names == list(NAMES)
    assert [row["cls"] for row in rows] == images.labels.tolist()
    assert [index_of(row["jpg"]) for row in rows] == images.samples.index.tolist()
    assert rows[5]["json"] == {"k": 1}
    _, head, body = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["license"] == "cc0-1.0"
    assert metadata["size_categories"] == ["n<1K"]
    assert metadata["dataset_info"]["splits"][0]["num_examples"] == 12
    assert "| images per class | 3 to 5 |" in body
    assert "| source | x |" in body


def test_provenance_with_optional_keys_is_loaded(
    tiny_set: str, tmp_path: Path, load_offline: Callable[..., Any]
) -> None:
    export_set(tiny_set, f"{tmp_path}/out", "huggingface")
    rows, images = load_offline(str(tmp_path / "out")), ShardSet(tiny_set)
    assert rows.num_rows == 12
    for number, row in enumerate(rows):
        actual, expected = row["json"], images.provenance(number)
        assert (actual["seed"], actual["class"]) == (expected["seed"], expected["class"])
        assert {name: score for name, score in actual["scores"].items() if score is not None} == expected["scores"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| filters | blank |" in card
    assert "2 steps, guidance 4.0" in card


def test_the_recipe_on_a_card_contains_no_credentials_or_paths() -> None:
    public = {"name": "birds", "dataset": {"name": "birds"}, "synthesis": {"seed": 3}}
    private = {"storage": {"options": {"secret": "hush"}}, "training": {"epochs": 3}}
    recipe = {**public, **private, "dataset": {"name": "birds", "root": "/home/me/data"}}
    assert yaml.safe_load(shared(yaml.safe_dump(recipe))) == public


@pytest.mark.fault
@pytest.mark.parametrize("to", ["folder", "split-zhou", "huggingface"])
def test_a_killed_export_is_resumed_and_damage_is_repaired(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    export_set(url, f"{tmp_path}/complete", to)
    calls: list[tuple[Any, ...]] = []

    def killed_after_3(function: Callable[..., None]) -> Callable[..., None]:
        def write_or_die(*arguments: Any) -> None:
            if len(calls) == 3:
                raise KeyboardInterrupt
            calls.append(arguments)
            function(*arguments)

        return write_or_die

    monkeypatch.setattr(export, "WRITERS", 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        for name in ("write_bytes", "write_with_checksum", "publish"):
            patch.setattr(storage, name, killed_after_3(getattr(storage, name)))
        export_set(url, f"{tmp_path}/out", to)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.[jt][pa][gr]")}
    assert 0 < len(written) < 12
    export_set(url, f"{tmp_path}/out", to)
    assert files(tmp_path / "out") == files(tmp_path / "complete")
    assert {path: path.stat().st_mtime_ns for path in written} == written
    damaged = next(iter(written))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    export_set(url, f"{tmp_path}/out", to)
    assert files(tmp_path / "out") == files(tmp_path / "complete")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_two_actors_export_and_verify_20_000_images_also_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, url = light_plan(20, 1000), str(tmp_path / "set")
    undisturbed_bytes(plan, Path(url))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert export_set(url, f"{tmp_path}/single", "folder") == 20_000
    line = [sys.executable, "-m", "syncclip", "shards", "export", url, "--to", "folder", "--actors", "2"]
    line += ["--out", f"{tmp_path}/double"]
    with subprocess.Popen(line, start_new_session=True, stdout=DEVNULL, stderr=DEVNULL) as killed:
        while len([*(tmp_path / "double").rglob("*.jpg")]) < 6_000:
            assert killed.poll() is None
            time.sleep(0.1)
        os.killpg(killed.pid, signal.SIGKILL)
    subprocess.run(line, check=True)
    assert files(tmp_path / "double") == files(tmp_path / "single")

    for name in ("00003.tar", "00011.parquet"):
        path = Path(url, name)
        path.write_bytes(bytes(1000) + path.read_bytes()[1000:])
    Path(url, "00017_stats.json").unlink()
    single, double = (verify(url, lambda _: None, actors=actors) for actors in (1, 2))
    assert single == double and single.shards == [3, 11, 17]


@pytest.mark.parametrize("to", ["folder", "huggingface"])
def test_an_impossible_export_is_an_error(url: str, tmp_path: Path, to: str) -> None:
    out = f"{tmp_path}/out"
    shutil.copytree(url, tmp_path / "gap")
    Path(tmp_path / "gap" / "00001_stats.json").unlink()
    for source, layout, message in (
        (url, "floppy", "--to floppy: unknown layout; use folder"),
        (f"{tmp_path}/nowhere", to, "no synthetic dataset found"),
        (f"{tmp_path}/gap", to, "1 of 3 shards are missing"),
    ):
        with pytest.raises(UserError, match=message):
            export_set(source, out, layout)
    assert not Path(out).exists()
    with pytest.raises(UserError, match=r"set already contains 00000.parquet"):
        export_set(url, url, to)
    with Path(url, "00002.tar").open("r+b") as tar:
        tar.seek(1000)
        tar.write(b"damage")
    with pytest.raises(UserError, match=r"00002.tar is corrupt; repair"):
        export_set(url, out, to)


@pytest.mark.fault
@pytest.mark.parametrize("to", ["split-zhou", "huggingface"])
def test_an_export_between_buckets_with_faults_is_the_same(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    monkeypatch.setattr("syncclip.storage.retries.PAUSES", (0.01,) * 3)
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda **_: 0.01)
    export_set(url, f"{tmp_path}/out", to)
    with faulty_bucket(f"exports-{to}") as (bucket, proxy):
        remote = make_set(f"{bucket}/set", COUNTS, classnames=NAMES)
        proxy.spoil_some(0.4, seed=2)
        export_set(remote, f"{bucket}/out", to)
        proxy.soothe()
        assert sum(proxy.spoilt.values()) > 3
        for name in files(tmp_path / "out"):
            assert storage.read_bytes(f"{bucket}/out/{name}") == storage.read_bytes(f"{tmp_path}/out/{name}"), name


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.fault
@pytest.mark.nightly
@pytest.mark.parametrize("damage", [flip, halve, Path.unlink])
@pytest.mark.parametrize("to", ["folder", "huggingface", "split-zhou"])
def test_verify_reports_damage_of_any_file_of_an_export(
    url: str, tmp_path: Path, to: str, damage: Callable[[Path], None]
) -> None:
    out = tmp_path / "out"
    export_set(url, str(out), to)
    assert verify(str(out), print) == Verification(files=len(files(out)))
    for name, data in files(out).items():
        if to != "huggingface" and (damage, name) == (Path.unlink, "export.json"):
            continue  # a folder of images without a manifest is valid
        damage(out / name)
        assert verify(str(out), lambda _: None).problems, name
        (out / name).write_bytes(data)


@pytest.mark.fault
@pytest.mark.parametrize("to", ["huggingface", "split-zhou"])
def test_a_damaged_export_is_not_imported(url: str, tmp_path: Path, to: str) -> None:
    export_set(url, f"{tmp_path}/out", to)
    source = f"{tmp_path}/out/data" if to == "huggingface" else f"{tmp_path}/out"
    file = sorted(path for path in Path(source).rglob("*") if path.suffix in (".tar", ".jpg"))[-1]
    flip(file)
    with pytest.raises(UserError, match=f"{file} does not match its checksum"):
        import_set(source, DATASET, f"{tmp_path}/imported")
    assert not (tmp_path / "imported").exists()


@pytest.mark.fault
def test_an_exported_folder_is_verified_when_it_is_used_as_a_dataset(url: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_set(url, str(out), "folder")
    settings = DatasetSettings(name=str(out))
    images = read_dataset(settings).split("test")
    assert all(images.read(row) for row in range(len(images)))
    file, other = Path(images.name(0)), Path(images.name(1))
    original = file.read_bytes()
    for data in (original[:-1], b"", bytes(len(original)), other.read_bytes()):
        file.write_bytes(data)
        with pytest.raises(UserError, match=f"{file} does not match its checksum"):
            read_dataset(settings).split("test").read(0)
    file.unlink()
    with pytest.raises(UserError, match=r"1 of 12 listed images are missing"):
        read_dataset(settings)
    file.write_bytes(original)
    flip(out / "export.json")
    with pytest.raises(UserError, match=r"out/export\.json"):
        read_dataset(settings)
