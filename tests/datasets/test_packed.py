"""Datasets packed into shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from syncclip.core.settings import UserError
from syncclip.datasets import Dataset, DatasetSettings, load_dataset, packed
from syncclip.datasets.packed import pack
from syncclip.shards.markers import committed
from syncclip.shards.writer import write_shard
from tests.object_store import s3_bucket
from tests.shards.sets import sample, verify, write_set
from tests.worlds.dataset import folder_of_folders
from tests.worlds.literature import Miniatures


def load(name: str, root: Path | str | None = None, **settings: object) -> Dataset:
    return load_dataset(DatasetSettings(name=name, root=None if root is None else str(root), **settings))  # type: ignore[arg-type]


def shown(dataset: Dataset, split: str, row: int) -> tuple[bytes, int]:
    images = dataset.split(split)  # type: ignore[arg-type]
    return images.read(row), int(images.labels[row])  # type: ignore[attr-defined]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "SHARD_IMAGES", 5)


@pytest.mark.parametrize("name", ["caltech101", "imagenet", "imagenet_a"])
@pytest.mark.usefixtures("small_shards")
def test_what_is_packed_is_what_was_there(miniatures: Miniatures, tmp_path: Path, name: str) -> None:
    before = load(name, miniatures.root)
    pack(before, str(tmp_path / name))
    after = load(name, tmp_path)
    assert (after.name, after.classnames, after.template) == (name, before.classnames, before.template)
    assert (after.base, after.candidates) == (before.base, before.candidates)
    assert set(after.splits) == set(before.splits)
    for split in before.splits:
        assert verify(str(tmp_path / name / split)) == []
        if split != "train":
            assert [shown(after, split, row) for row in range(len(after.split(split)))] == [
                shown(before, split, row) for row in range(len(before.split(split)))
            ]
            pixels = [dataset.split(split).image(1).tobytes() for dataset in (before, after)]
            assert pixels[0] == pixels[1]


@pytest.mark.usefixtures("small_shards")
def test_the_same_shots_are_chosen_from_a_packed_dataset(miniatures: Miniatures, tmp_path: Path) -> None:
    before = load("dtd", miniatures.root)
    counts = pack(before, str(tmp_path), shots=[1, 2], seeds=[1, 3])
    after = load(str(tmp_path))
    assert counts["train"] == len(after.split("train")) < len(before.split("train"))
    for shots in (1, 2):
        for seed in (1, 3):
            for classes in ("base", "all"):
                old, new = (dataset.few_shot(shots, seed, classes) for dataset in (before, after))  # type: ignore[arg-type]
                assert [shown(before, "train", row) for row in old] == [shown(after, "train", row) for row in new]


@pytest.mark.fault
@pytest.mark.usefixtures("small_shards")
def test_a_damaged_table_is_found_when_its_split_is_first_used(miniatures: Miniatures, tmp_path: Path) -> None:
    before = load("dtd", miniatures.root)
    pack(before, str(tmp_path))
    (tmp_path / "test" / "00000.parquet").write_bytes(b"torn")
    assert len(load(str(tmp_path)).split("test")) == len(before.split("test"))  # by the index, which has it all
    (tmp_path / "test" / "index.json").unlink()
    after = load(str(tmp_path))
    assert (after.classnames, len(after.split("val"))) == (before.classnames, len(before.split("val")))
    whole = len(before.split("test"))
    with pytest.raises(UserError, match=f"only {whole - 5} of {whole} images; find"):
        after.split("test")


@pytest.mark.fault
def test_a_class_that_a_damaged_table_took_gives_no_empty_choice(tmp_path: Path) -> None:
    for split in ("val", "test"):
        write_set(str(tmp_path / split), classes=3, rounds=1)
    write_shard(str(tmp_path / "train"), 0, [sample(0, 3), sample(2, 3)])
    write_shard(str(tmp_path / "train"), 1, [sample(1, 3)])
    (tmp_path / "dataset.json").write_text('{"classnames": ["cat", "dog", "owl"]}')
    assert load(str(tmp_path)).few_shot(1, seed=1).tolist() == [0, 1]
    (tmp_path / "train" / "00001.parquet").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"1 of the base classes have no training image \('dog'\)"):
        load(str(tmp_path)).few_shot(1, seed=1)


def test_shots_that_were_not_packed_are_refused(miniatures: Miniatures, tmp_path: Path) -> None:
    pack(load("dtd", miniatures.root), str(tmp_path), shots=[1], seeds=[1])
    with pytest.raises(UserError, match="pack it again with --shots 4 --seeds 2"):
        load(str(tmp_path)).few_shot(4, seed=2)


def test_counts_are_exact(miniatures: Miniatures, tmp_path: Path) -> None:
    counts = pack(load("dtd", miniatures.root), str(tmp_path), shots=[16], seeds=[1])
    items = miniatures.of["dtd"].items
    assert counts == {split: len(listed) for split, listed in items.items()}
    for split, listed in items.items():
        markers = committed(str(tmp_path / split)).values()
        for label in range(3):
            assert sum(m.per_class.get(label, 0) for m in markers) == sum(one == label for _, one in listed)
    assert not (tmp_path / "train.parquet").exists()


def test_images_are_scaled_only_if_asked_and_only_down(tmp_path: Path) -> None:
    folder_of_folders(tmp_path / "mine", per_class=4, size=40)
    wide = tmp_path / "mine" / "red_square" / "000.png"
    Image.new("RGB", (90, 60), (9, 99, 199)).save(wide)
    small = tmp_path / "mine" / "red_square" / "001.png"
    Image.new("RGB", (20, 30)).save(small)
    before = load(str(tmp_path / "mine"))
    pack(before, str(tmp_path / "packed"), resize=30)
    after = load(str(tmp_path / "packed"))
    found = {}
    for split in before.splits:
        for row in range(len(after.split(split))):
            source = before.split(split).name(row)  # type: ignore[attr-defined]
            found[source] = (after.split(split).image(row).size, shown(after, split, row)[0])
    assert found[str(wide)][0] == (45, 30)
    assert found[str(small)] == ((20, 30), small.read_bytes())
    assert all(size == (30, 30) for source, (size, _) in found.items() if source not in (str(wide), str(small)))


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_packing_goes_on(
    miniatures: Miniatures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    dataset = load("dtd", miniatures.root)
    pack(dataset, str(whole))
    honest, calls = packed.write_shard, []

    def dying(url: str, shard: int, *rest: object, **options: str) -> object:
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append((url, shard))
        return honest(url, shard, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(packed, "write_shard", dying)
    with pytest.raises(KeyboardInterrupt):
        pack(dataset, str(broken))
    assert not (broken / "dataset.json").exists()
    first = list(calls)
    calls.clear()
    calls.extend([("", 0)] * 4)
    pack(dataset, str(broken))
    assert not set(first) & set(calls)
    files = {path.relative_to(whole): path.read_bytes() for path in whole.rglob("*.tar")}
    assert files == {path.relative_to(broken): path.read_bytes() for path in broken.rglob("*.tar")}


def test_a_folder_of_something_else_is_refused(miniatures: Miniatures, tmp_path: Path) -> None:
    pack(load("dtd", miniatures.root), str(tmp_path / "a"))
    with pytest.raises(UserError, match="contains another packed dataset, whose dataset is 'dtd', not 'eurosat'"):
        pack(load("eurosat", miniatures.root), str(tmp_path / "a"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty, and not created by `shards pack`"):
        pack(load("dtd", miniatures.root), str(tmp_path / "b"))


@pytest.mark.parametrize("base", ["drawn", ["wild cat", "face"]])
def test_halves_of_a_packed_dataset_are_those_of_the_files(
    miniatures: Miniatures, tmp_path: Path, base: object
) -> None:
    pack(load("caltech101", miniatures.root), str(tmp_path))
    before, after = load("caltech101", miniatures.root, base=base), load(str(tmp_path), base=base)
    assert (after.classnames, after.base) == (before.classnames, before.base)
    np.testing.assert_array_equal(after.split("test").labels, before.split("test").labels)
    shots = [[shown(dataset, "train", row) for row in dataset.few_shot(2, 1)] for dataset in (before, after)]
    assert shots[0] == shots[1]


@pytest.mark.usefixtures("small_shards")
def test_a_dataset_is_packed_to_s3_and_streamed_from_there(miniatures: Miniatures) -> None:
    before = load("dtd", miniatures.root)
    with s3_bucket() as bucket:
        pack(before, f"{bucket}/packed/dtd", shots=[2], seeds=[1])
        after = load("dtd", f"{bucket}/packed")
        shots = [[shown(one, "train", row) for row in one.few_shot(2, 1)] for one in (before, after)]
        assert shots[0] == shots[1]
        assert shown(after, "test", 3) == shown(before, "test", 3)
