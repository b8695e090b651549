"""Datasets packed as shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from syncclip.core.settings import UserError
from syncclip.datasets import Dataset, packed
from syncclip.datasets.packed import pack
from syncclip.shards.markers import committed
from syncclip.shards.writer import write_shard
from tests.datasets.conftest import load
from tests.object_store import s3_bucket
from tests.shards.sets import sample, verify, write_set
from tests.worlds.dataset import folder_of_folders
from tests.worlds.literature import Miniatures


def item(dataset: Dataset, split: str, row: int) -> tuple[bytes, int]:
    """File and label of an image."""
    images = dataset.split(split)  # type: ignore[arg-type]
    return images.read(row), int(images.labels[row])


def few_shot_items(dataset: Dataset, shots: int, seed: int, classes: str = "base") -> list[tuple[bytes, int]]:
    return [item(dataset, "train", row) for row in dataset.few_shot(shots, seed, classes)]  # type: ignore[arg-type]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "SHARD_IMAGES", 5)


@pytest.mark.parametrize("name", ["caltech101", "imagenet", "imagenet_a"])
@pytest.mark.usefixtures("small_shards")
def test_packing_keeps_classes_and_images(miniatures: Miniatures, tmp_path: Path, name: str) -> None:
    before = load(name, miniatures.root)
    pack(before, str(tmp_path / name))
    after = load(name, tmp_path)
    assert (after.name, after.classnames, after.template) == (name, before.classnames, before.template)
    assert (after.base, after.candidates) == (before.base, before.candidates)
    assert set(after.splits) == set(before.splits)
    for split in before.splits:
        assert verify(str(tmp_path / name / split)) == []
        if split != "train":
            rows = range(len(before.split(split)))
            assert len(after.split(split)) == len(rows)
            assert [item(after, split, row) for row in rows] == [item(before, split, row) for row in rows]
            assert after.split(split).image(1).tobytes() == before.split(split).image(1).tobytes()


@pytest.mark.usefixtures("small_shards")
def test_few_shot_samples_are_those_of_the_original(miniatures: Miniatures, tmp_path: Path) -> None:
    before = load("dtd", miniatures.root)
    counts = pack(before, str(tmp_path), shots=[1, 2], seeds=[1, 3])
    after = load(tmp_path)
    assert counts["train"] == len(after.split("train")) < len(before.split("train"))
    for shots, seed in ((1, 1), (1, 3), (2, 1), (2, 3)):
        for classes in ("base", "all"):
            assert few_shot_items(after, shots, seed, classes) == few_shot_items(before, shots, seed, classes)
    with pytest.raises(UserError, match="pack the dataset again with --shots 4 --seeds 2"):
        after.few_shot(4, seed=2)


@pytest.mark.fault
@pytest.mark.usefixtures("small_shards")
def test_a_damaged_table_is_reported_on_first_use_of_its_split(miniatures: Miniatures, tmp_path: Path) -> None:
    before = load("dtd", miniatures.root)
    pack(before, str(tmp_path))
    (tmp_path / "test" / "00000.parquet").write_bytes(b"torn")
    count = len(before.split("test"))
    assert len(load(tmp_path).split("test")) == count  # from the index
    (tmp_path / "test" / "index.json").unlink()
    after = load(tmp_path)
    assert (after.classnames, len(after.split("val"))) == (before.classnames, len(before.split("val")))
    with pytest.raises(UserError, match=f"only {count - 5} of {count} images; find"):
        after.split("test")


@pytest.mark.fault
def test_a_class_lost_with_a_damaged_table_is_an_error(tmp_path: Path) -> None:
    for split in ("val", "test"):
        write_set(str(tmp_path / split), classes=3, rounds=1)
    write_shard(str(tmp_path / "train"), 0, [sample(0, 3), sample(2, 3)])
    write_shard(str(tmp_path / "train"), 1, [sample(1, 3)])
    (tmp_path / "dataset.json").write_text('{"classnames": ["cat", "dog", "owl"]}')
    assert load(tmp_path).few_shot(1, seed=1).tolist() == [0, 1]
    (tmp_path / "train" / "00001.parquet").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"1 of the base classes have no training images \('dog'\)"):
        load(tmp_path).few_shot(1, seed=1)


def test_counts_are_those_of_the_markers(miniatures: Miniatures, tmp_path: Path) -> None:
    counts = pack(load("dtd", miniatures.root), str(tmp_path), shots=[16], seeds=[1])
    for split, items in miniatures.of["dtd"].items.items():
        assert counts[split] == len(items)  # type: ignore[index]
        markers = committed(str(tmp_path / split)).values()
        for label in range(3):
            count = sum(marker.per_class.get(label, 0) for marker in markers)
            assert count == sum(other == label for _, other in items)
    assert not (tmp_path / "train.parquet").exists()


def test_resize_downscales_larger_images_only(tmp_path: Path) -> None:
    folder = folder_of_folders(tmp_path / "mine", per_class=4, size=40)
    wide, small = folder / "red_square" / "000.png", folder / "red_square" / "001.png"
    Image.new("RGB", (90, 60), (9, 99, 199)).save(wide)
    Image.new("RGB", (20, 30)).save(small)
    before = load(folder)
    pack(before, str(tmp_path / "packed"), resize=30)
    after = load(tmp_path / "packed")
    images = {}
    for split in before.splits:
        for row in range(len(after.split(split))):
            images[before.split(split).name(row)] = after.split(split).image(row).size, item(after, split, row)[0]
    assert images.pop(str(wide))[0] == (45, 30)
    assert images.pop(str(small)) == ((20, 30), small.read_bytes())
    assert {size for size, _ in images.values()} == {(30, 30)}


@pytest.mark.usefixtures("small_shards")
def test_interrupted_packing_resumes_with_the_same_bytes(
    miniatures: Miniatures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, written, write = load("dtd", miniatures.root), [], packed.write_shard
    pack(dataset, str(tmp_path / "expected"))

    def interrupt(url: str, shard: int, *arguments: object, **options: str) -> object:
        if len(written) == 3:
            raise KeyboardInterrupt
        return record(url, shard, *arguments, **options)

    def record(url: str, shard: int, *arguments: object, **options: str) -> object:
        written.append((url, shard))
        return write(url, shard, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(packed, "write_shard", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pack(dataset, str(tmp_path / "resumed"))
    assert not (tmp_path / "resumed" / "dataset.json").exists()
    monkeypatch.setattr(packed, "write_shard", record)
    pack(dataset, str(tmp_path / "resumed"))
    assert len(set(written)) == len(written) > 3
    tars = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.tar")}
        for folder in (tmp_path / "expected", tmp_path / "resumed")
    ]
    assert tars[0] == tars[1]


def test_a_folder_with_other_content_is_an_error(miniatures: Miniatures, tmp_path: Path) -> None:
    pack(load("dtd", miniatures.root), str(tmp_path / "a"))
    with pytest.raises(UserError, match=r"a different packed dataset \(dataset is 'dtd', not 'eurosat'\)"):
        pack(load("eurosat", miniatures.root), str(tmp_path / "a"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty and was not created by `shards pack`"):
        pack(load("dtd", miniatures.root), str(tmp_path / "b"))


@pytest.mark.parametrize("base", ["random", ["wild cat", "face"]])
def test_base_classes_of_a_packed_dataset(miniatures: Miniatures, tmp_path: Path, base: object) -> None:
    pack(load("caltech101", miniatures.root), str(tmp_path))
    before, after = load("caltech101", miniatures.root, base=base), load(tmp_path, base=base)
    assert (after.classnames, after.base) == (before.classnames, before.base)
    np.testing.assert_array_equal(after.split("test").labels, before.split("test").labels)
    assert few_shot_items(after, 2, 1) == few_shot_items(before, 2, 1)


@pytest.mark.usefixtures("small_shards")
def test_a_dataset_is_packed_to_and_streamed_from_s3(miniatures: Miniatures) -> None:
    before = load("dtd", miniatures.root)
    with s3_bucket() as bucket:
        pack(before, f"{bucket}/packed/dtd", shots=[2], seeds=[1])
        after = load("dtd", f"{bucket}/packed")
        assert few_shot_items(after, 2, 1) == few_shot_items(before, 2, 1)
        assert item(after, "test", 3) == item(before, "test", 3)
