"""Random access to a sharded dataset."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.shards.cache import ShardCache
from syncclip.shards.images import UnreadableImageError
from syncclip.shards.index import forget_index, index_set
from syncclip.shards.reader import ShardSet
from syncclip.shards.writer import write_shard
from tests.object_store import s3_bucket
from tests.shards.sets import index_of, jpeg, sample, write_set


@pytest.fixture(params=["local", "remote", "local with index", "remote with index"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    url = str(tmp_path) if request.param.startswith("local") else f"memory://{tmp_path}"
    write_set(url, classes=3, rounds=5, rounds_per_shard=2)
    if request.param.endswith("index"):
        index_set(url)
    return url


@pytest.fixture
def remote(tmp_path: Path) -> str:
    """A dataset of six shards with three images each."""
    url = f"memory://{tmp_path}/remote"
    write_set(url, classes=3, rounds=6)
    return url


def test_rows_are_in_index_major_order(url: str) -> None:
    images = ShardSet(url)
    assert len(images) == 15
    assert images.samples.index.tolist() == list(range(15))
    assert images.labels.tolist() == [0, 1, 2] * 5
    assert images.samples.shard.tolist() == [0] * 6 + [1] * 6 + [2] * 3
    assert images.rows_of(1).tolist() == [1, 4, 7, 10, 13]
    assert images.rows_of(5).tolist() == []


def test_image_text_and_provenance_are_read_by_row(url: str) -> None:
    images = ShardSet(url)
    for row in (14, 0, 7, 3):
        assert images.read(row) == jpeg(row)
        assert index_of(images.image(row)) == row
        assert images.text(row) == f"a photo of a class {row % 3}, größe"
        assert images.provenance(row) == {"seed": row, "a": None}


def test_many_rows_of_a_subset_are_read_in_the_given_order(url: str) -> None:
    url = storage.join(url, "part")
    write_set(url, classes=3, rounds=5, rounds_per_shard=2, without={0, 4})
    subset = ShardSet(url).subset(max_per_class=3)
    rows = np.array([8, 0, 5, 3])
    indices = subset.samples.index[rows].tolist()
    assert indices == [10, 1, 7, 5]
    assert subset.read_many(rows) == [jpeg(index) for index in indices]
    assert subset.texts(rows) == [f"a photo of a class {index % 3}, größe" for index in indices]


def test_a_dataset_and_its_subsets_share_one_cache(url: str) -> None:
    images = ShardSet(url)
    assert images.subset(max_per_class=1).cache is images.cache


def test_rows_of_a_removed_shard_are_empty(url: str) -> None:
    images = ShardSet(url)
    storage.remove(storage.join(url, "00001.tar"))
    assert images.read_many(np.array([0, 7, 14])) == [jpeg(0), b"", jpeg(14)]


def test_a_subset_contains_the_first_images_of_each_class(url: str) -> None:
    subset = ShardSet(url).subset(max_per_class=2)
    assert subset.samples.index.tolist() == [0, 1, 2, 3, 4, 5]
    assert subset.rows_of(2).tolist() == [2, 5]
    with pytest.raises(UserError, match="0 images per class"):
        ShardSet(url).subset(max_per_class=0)


@settings(max_examples=25)
@given(classes=st.integers(1, 6), rounds=st.integers(1, 6), per_shard=st.integers(1, 4), data=st.data())
def test_every_prefix_is_class_balanced(
    tmp_path_factory: pytest.TempPathFactory, classes: int, rounds: int, per_shard: int, data: st.DataObject
) -> None:
    url = str(tmp_path_factory.mktemp("set"))
    write_set(url, classes, rounds, per_shard)
    labels = ShardSet(url).labels
    counts = np.bincount(labels[: data.draw(st.integers(0, len(labels)))], minlength=classes)
    assert counts.max() - counts.min() <= 1
    max_per_class = data.draw(st.integers(1, rounds))
    subset = ShardSet(url).subset(max_per_class)
    assert subset.samples.index.tolist() == list(range(classes * max_per_class))


@settings(max_examples=25)
@given(without=st.sets(st.integers(0, 11)), max_per_class=st.integers(1, 5))
def test_the_next_images_of_a_class_replace_missing_ones(
    tmp_path_factory: pytest.TempPathFactory, without: set[int], max_per_class: int
) -> None:
    url = str(tmp_path_factory.mktemp("set"))
    write_set(url, classes=3, rounds=5, without=without)
    kept = [[i for i in range(label, 15, 3) if i not in without][:max_per_class] for label in range(3)]
    subset = ShardSet(url).subset(max_per_class)
    assert subset.samples.index.tolist() == sorted(itertools.chain(*kept))
    for row, index in enumerate(subset.samples.index.tolist()):
        assert (index_of(subset.image(row)), subset.provenance(row)["seed"]) == (index, index)


def test_new_shards_do_not_change_existing_rows(tmp_path: Path) -> None:
    write_set(str(tmp_path), classes=3, rounds=2)
    before = ShardSet(str(tmp_path)).samples
    write_set(str(tmp_path), classes=3, rounds=5, first=2)
    after = ShardSet(str(tmp_path)).subset(max_per_class=2).samples
    for name in before.__dataclass_fields__:
        assert np.array_equal(getattr(before, name), getattr(after, name))


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no committed shard found"):
        ShardSet(str(tmp_path / "nowhere"))


def test_shards_of_two_datasets_in_one_folder_are_an_error(tmp_path: Path) -> None:
    write_set(str(tmp_path), classes=3, rounds=1)
    write_shard(str(tmp_path), 1, [sample(2, 3)])
    with pytest.raises(UserError, match=r"sample 2 is in both 00000.tar and 00001.tar"):
        ShardSet(str(tmp_path))


@pytest.mark.fault
def test_a_shard_with_an_unreadable_table_is_skipped_and_counted(url: str) -> None:
    storage.write_bytes(storage.join(url, "00001.parquet"), b"PAR1 no")
    forget_index(url)  # the index has the table's columns
    images = ShardSet(url)
    assert images.samples.index.tolist() == [0, 1, 2, 3, 4, 5, 12, 13, 14]
    assert images.corruption.names == {storage.join(url, "00001.parquet"): 6}
    with pytest.raises(UserError, match="6 unreadable images, more than the limit of 5"):
        ShardSet(url, max_corrupt_images=5)


@pytest.mark.fault
def test_a_table_that_points_outside_its_tar_is_ignored(tmp_path: Path) -> None:
    write_set(str(tmp_path), classes=3, rounds=2)
    write_set(str(tmp_path / "big"), classes=3, rounds=40, rounds_per_shard=40)
    (tmp_path / "00001.parquet").write_bytes((tmp_path / "big" / "00000.parquet").read_bytes())
    assert len(ShardSet(str(tmp_path))) == 3


@pytest.mark.fault
def test_an_unreadable_image_is_reported_by_name(tmp_path: Path) -> None:
    write_set(str(tmp_path), classes=3, rounds=2)
    images = ShardSet(str(tmp_path), cache=ShardCache(check=False))
    with (tmp_path / "00001.tar").open("r+b") as file:
        file.seek(int(images.samples.offset[4]))
        file.write(b"no image")
    with pytest.raises(UnreadableImageError, match=r"/00001.tar:000000004.jpg: unreadable image"):
        images.image(4)
    assert index_of(images.image(5)) == 5


def test_remote_shards_are_copied_once_and_evicted_beyond_the_limit(remote: str) -> None:
    size = ShardSet(remote).shards[0].bytes
    cache = ShardCache(limit_bytes=2 * size)
    images = ShardSet(remote, cache=cache)
    for row, fetched in [(0, 1), (1, 1), (3, 2), (2, 2), (6, 3), (0, 3), (3, 4)]:
        assert index_of(images.image(row)) == row
        assert (cache.fetched, cache._used() <= 2 * size) == (fetched, True)


def test_a_shard_larger_than_the_cache_is_read_over_the_network(remote: str) -> None:
    images = ShardSet(remote, cache=ShardCache(limit_bytes=100))
    assert index_of(images.image(2)) == 2
    assert images.cache.fetched == 0


def test_shards_are_prefetched(remote: str) -> None:
    images = ShardSet(remote)
    images.hold([0, 1])
    assert images.cache._prefetcher is not None
    images.cache._prefetcher.shutdown(wait=True)
    assert images.cache.fetched == 2
    images.image(0), images.image(5)
    assert images.cache.fetched == 2


def test_concurrent_threads_read_through_a_small_cache(remote: str) -> None:
    images = ShardSet(remote, cache=ShardCache(limit_bytes=2 * ShardSet(remote).shards[0].bytes))

    def reads_correctly(start: int) -> bool:
        return all(index_of(images.image(row)) == row for row in [(start + 7 * i) % 18 for i in range(15)])

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(reads_correctly, range(6)))


def test_local_shards_are_not_copied_and_few_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncclip.shards.cache.MAX_OPEN", 3)
    write_set(str(tmp_path), classes=2, rounds=9)
    images = ShardSet(str(tmp_path), cache=ShardCache())
    assert [index_of(images.image(row)) for row in range(18)] == list(range(18))
    assert (len(images.cache._open), images.cache.fetched) == (3, 0)


def test_a_dataset_on_s3_is_written_resumed_and_read() -> None:
    with s3_bucket("shards") as bucket:
        url = storage.join(bucket, "a", "set")
        write_set(url, classes=3, rounds=4)
        storage.remove(storage.join(url, "00001_stats.json"))
        images = ShardSet(url)
        assert images.samples.index.tolist() == [0, 1, 2, 6, 7, 8, 9, 10, 11]
        write_set(url, classes=3, rounds=2, first=1)
        images = ShardSet(url)
        assert [index_of(images.image(row)) for row in range(12)] == list(range(12))
        assert images.cache.fetched == 4
