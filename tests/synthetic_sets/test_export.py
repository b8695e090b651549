"""Sets in the layouts of others: what they read is what the set holds."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
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

NAMES = ("tabby/cat", "fir tree", "Größe")
COUNTS = (3, 5, 4)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Twelve images of three classes in three shards, not all alike often."""
    return make_set(f"{tmp_path}/set", COUNTS, classnames=NAMES)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def contents(url: str) -> list[tuple[int, bytes]]:
    images = ShardSet(url)
    return [(int(label), images.read(row)) for row, label in enumerate(images.labels)]


def test_a_folder_of_folders_holds_every_image_below_its_class(url: str, tmp_path: Path) -> None:
    assert export_set(url, f"{tmp_path}/out", "folder") == 12
    found = files(tmp_path / "out")
    assert json.loads(found.pop("export.json"))["to"] == "folder"
    folders = ["tabby_cat", "fir tree", "Größe"]
    assert sorted(found) == sorted(f"{folders[i % 3]}/{i:09d}.jpg" for i in ShardSet(url).samples.index.tolist())
    assert sorted(found.values()) == sorted(image for _, image in contents(url))
    assert found["fir tree/000000004.jpg"] == ShardSet(url).read(4)


def test_classes_that_a_file_system_would_take_for_one_keep_folders_of_their_own() -> None:
    assert folder_names(("crane", "Crane", "a/b", "a:b", "..", "")) == [
        "crane 0",
        "Crane 1",
        "a_b 2",
        "a_b 3",
        "class 4",
        "class 5",
    ]


def test_a_split_file_is_imported_again_as_the_same_set(url: str, tmp_path: Path) -> None:
    export_set(url, f"{tmp_path}/out", "split-zhou")
    content = json.loads((tmp_path / "out" / "split_zhou_b.json").read_bytes())
    assert content["val"] == content["test"] == []
    assert content["train"][1] == ["fir tree/000000001.jpg", 1, "fir tree"]
    assert len(content["train"]) == 12
    dataset = Dataset(name="b", classnames=list(NAMES), template="a {}", splits={})
    again = import_set(f"{tmp_path}/out", dataset, f"{tmp_path}/again")
    assert again.counts == COUNTS
    assert contents(f"{tmp_path}/again") == contents(url)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """`datasets.load_dataset` without a network, with a cache of its own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return functools.partial(datasets.load_dataset, split="train", cache_dir=str(tmp_path / "cache"))


def test_an_export_for_the_hub_is_read_with_the_names_of_classes(
    url: str, tmp_path: Path, offline: Callable[..., Any]
) -> None:
    export_set(url, f"{tmp_path}/out", "huggingface", licence="cc0-1.0")
    for shard in range(3):
        tar = tmp_path / "out" / "data" / f"train-{shard:05d}-of-00003.tar"
        assert tar.read_bytes() == Path(url, f"{shard:05d}.tar").read_bytes()
    assert (tmp_path / "out" / "imported.json").exists()
    found = offline(str(tmp_path / "out"))
    assert found.features["cls"].names == list(NAMES)
    assert [(one["cls"], index_of(one["jpg"])) for one in found] == [
        (int(label), int(index)) for label, index in zip(ShardSet(url).labels, ShardSet(url).samples.index, strict=True)
    ]
    assert found[5]["json"] == {"k": 1}
    _, head, body = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    told = yaml.safe_load(head)
    assert told["license"] == "cc0-1.0"
    assert told["size_categories"] == ["n<1K"]
    assert told["dataset_info"]["splits"][0]["num_examples"] == 12
    assert "| images per class | 3 to 5 |" in body
    assert "| source | x |" in body


def test_provenance_whose_parts_differ_from_image_to_image_is_read(
    tiny_set: str, tmp_path: Path, offline: Callable[..., Any]
) -> None:
    export_set(tiny_set, f"{tmp_path}/out", "huggingface")
    found = offline(str(tmp_path / "out"))
    assert found.num_rows == 12
    for row, one in enumerate(found):
        told = ShardSet(tiny_set).provenance(row)
        assert (one["json"]["seed"], one["json"]["class"]) == (told["seed"], told["class"])
        assert {name: score for name, score in one["json"]["scores"].items() if score is not None} == told["scores"]
    body = (tmp_path / "out" / "README.md").read_text()
    assert "| filters | blank |" in body
    assert "2 steps, guidance 4.0" in body


def test_a_card_shows_what_was_generated_and_no_credentials() -> None:
    recipe = {
        "name": "birds",
        "dataset": {"name": "birds", "root": "/home/me/data"},
        "synthesis": {"seed": 3},
        "storage": {"options": {"secret": "hush"}},
        "training": {"epochs": 3},
    }
    assert yaml.safe_load(shared(yaml.safe_dump(recipe))) == {
        "name": "birds",
        "dataset": {"name": "birds"},
        "synthesis": {"seed": 3},
    }


@pytest.mark.fault
@pytest.mark.parametrize("to", ["folder", "split-zhou", "huggingface"])
def test_an_export_that_was_killed_goes_on_and_writes_nothing_twice(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    export_set(url, f"{tmp_path}/quiet", to)
    written: list[tuple[Any, ...]] = []

    def dying(call: Callable[..., None]) -> Callable[..., None]:
        def write_or_die(*arguments: Any) -> None:
            if len(written) == 3:
                raise KeyboardInterrupt
            written.append(arguments)
            call(*arguments)

        return write_or_die

    monkeypatch.setattr(export, "WRITERS", 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        for name in ("write_bytes", "write_with_checksum", "publish"):
            patch.setattr(storage, name, dying(getattr(storage, name)))
        export_set(url, f"{tmp_path}/out", to)
    half = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.[jt][pa][gr]")}
    assert 0 < len(half) < 12
    export_set(url, f"{tmp_path}/out", to)
    assert files(tmp_path / "out") == files(tmp_path / "quiet")
    assert {path: path.stat().st_mtime_ns for path in half} == half
    damaged = next(iter(half))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    export_set(url, f"{tmp_path}/out", to)
    assert files(tmp_path / "out") == files(tmp_path / "quiet")


@pytest.mark.parametrize("to", ["folder", "huggingface"])
def test_what_can_not_be_exported_is_told_in_one_sentence(url: str, tmp_path: Path, to: str) -> None:
    out = f"{tmp_path}/out"
    with pytest.raises(UserError, match="--to floppy: unknown layout; available are folder"):
        export_set(url, out, "floppy")
    with pytest.raises(UserError, match="no synthetic set found"):
        export_set(f"{tmp_path}/nowhere", out, to)
    shutil.copytree(url, tmp_path / "gap")
    Path(tmp_path / "gap" / "00001_stats.json").unlink()
    with pytest.raises(UserError, match="1 of 3 shards are missing; complete the set first"):
        export_set(f"{tmp_path}/gap", out, to)
    assert not Path(out).exists()
    with pytest.raises(
        UserError,
        match=r"set already contains 00000.parquet",
    ):
        export_set(url, url, to)
    with Path(url, "00002.tar").open("r+b") as tar:
        tar.seek(1000)
        tar.write(b"damage")
    with pytest.raises(UserError, match=r"00002.tar is corrupt; repair the set with `syncclip shards verify --repair`"):
        export_set(url, out, to)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("syncclip.storage.retries.PAUSES", (0.01,) * 3)
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda **_: 0.01)
    yield


@pytest.mark.fault
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("to", ["split-zhou", "huggingface"])
def test_from_bucket_to_bucket_with_faults_the_export_is_the_same(url: str, tmp_path: Path, to: str) -> None:
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
    for file in [path for path in sorted(out.rglob("*")) if path.is_file()]:
        if to != "huggingface" and (damage, file.name) == (Path.unlink, "export.json"):
            continue  # the images that are left are anyone's
        whole = file.read_bytes()
        damage(file)
        assert verify(str(out), lambda _: None).problems, file
        file.write_bytes(whole)


@pytest.mark.fault
@pytest.mark.parametrize("to", ["huggingface", "split-zhou"])
def test_a_damaged_export_is_not_imported(url: str, tmp_path: Path, to: str) -> None:
    export_set(url, f"{tmp_path}/out", to)
    source = f"{tmp_path}/out/data" if to == "huggingface" else f"{tmp_path}/out"
    dataset = Dataset(name="b", classnames=list(NAMES), template="a {}", splits={})
    file = sorted(path for path in Path(source).rglob("*") if path.suffix in (".tar", ".jpg"))[-1]
    flip(file)
    with pytest.raises(UserError, match=f"{file} does not match its checksum: it was damaged or swapped"):
        import_set(source, dataset, f"{tmp_path}/again")
    assert not (tmp_path / "again").exists()


@pytest.mark.fault
def test_an_exported_folder_as_a_dataset_is_compared_with_its_manifest(url: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_set(url, str(out), "folder")
    settings = DatasetSettings(name=str(out))
    images = read_dataset(settings).split("test")
    assert all(images.read(row) for row in range(len(images)))
    file, other = Path(images.name(0)), Path(images.name(1))
    whole = file.read_bytes()
    for data in (whole[:-1], b"", bytes(len(whole)), other.read_bytes()):
        file.write_bytes(data)
        with pytest.raises(UserError, match=f"{file} does not match its checksum"):
            read_dataset(settings).split("test").read(0)
    file.unlink()
    with pytest.raises(UserError, match=r"out, by its manifest: 1 of 12 listed images are missing"):
        read_dataset(settings)
    file.write_bytes(whole)
    flip(out / "export.json")
    with pytest.raises(UserError, match=r"out/export\.json"):
        read_dataset(settings)
