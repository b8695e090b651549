"""Merging: every image once, class-balanced, and with its provenance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.shards.reader import ShardSet
from syncclip.shards.writer import Sample, write_shard
from syncclip.synthesis.plan import Plan
from syncclip.synthetic_sets import merge
from syncclip.synthetic_sets.imported import ImportedSet, claim, finish, read_set
from syncclip.synthetic_sets.merge import merge_sets
from tests.shards.sets import jpeg, verify
from tests.synthetic_sets.test_repair import generate_here

CLASSES = ("a", "b", "c")


def make_set(url: str, counts: tuple[int, ...], first: int = 0, classnames: tuple[str, ...] = CLASSES) -> str:
    """Write an imported dataset with `counts` images per class; the images encode their indices plus `first`."""
    imported = ImportedSet(source="x", dataset="b", classnames=classnames, counts=counts, shard_size=2 * len(counts))
    claim(imported, url)
    labels = [(i * len(counts) + label, label) for i in range(max(counts)) for label in range(len(counts))]
    samples = [
        Sample(index, label, jpeg(first + index), f"text {first}", {"k": 1})
        for index, label in labels
        if index // len(counts) < counts[label]
    ]
    for shard in imported.shards():
        samples_of_shard = [sample for sample in samples if sample.index // imported.shard_size == shard]
        write_shard(url, shard, samples_of_shard, owner=imported.owner)
    finish(imported, url)
    return url


def rows(url: str) -> list[tuple[int, int, bytes, str, dict[str, Any]]]:
    """Index, label, image, text and provenance of every row."""
    images = ShardSet(url)
    indices, labels = images.samples.index.tolist(), images.labels.tolist()
    return [
        (index, label, images.read(row), images.text(row), images.provenance(row))
        for row, (index, label) in enumerate(zip(indices, labels, strict=True))
    ]


def test_images_of_the_first_dataset_come_first(tmp_path: Path) -> None:
    urls = [make_set(f"{tmp_path}/one", (2, 2, 2)), make_set(f"{tmp_path}/two", (3, 3, 3), first=100)]
    imported = merge_sets(urls, f"{tmp_path}/all")
    merged, first, second = map(rows, (f"{tmp_path}/all", *urls))
    assert [row[0] for row in merged] == list(range(15))
    assert [row[1:4] for row in merged] == [row[1:4] for row in first + second]
    assert [row[4] for row in merged[5:7]] == [{"k": 1, "set": "one", "index": 5}, {"k": 1, "set": "two", "index": 0}]
    assert verify(f"{tmp_path}/all") == []
    assert imported == read_set(f"{tmp_path}/all")
    assert (imported.source, imported.counts, imported.images_per_class) == ("one + two", (5, 5, 5), 5)


def test_the_next_dataset_fills_gaps_of_a_class(tmp_path: Path) -> None:
    urls = [make_set(f"{tmp_path}/one", (2, 0, 1)), make_set(f"{tmp_path}/two", (1, 3, 1), first=100)]
    assert merge_sets(urls, f"{tmp_path}/all").counts == (3, 3, 2)
    assert [row[0] for row in rows(f"{tmp_path}/all")] == [0, 1, 2, 3, 4, 5, 6, 7]
    for labels in ShardSet(f"{tmp_path}/all").subset(max_per_class=2).samples.label.reshape(2, 3):
        assert sorted(labels.tolist()) == [0, 1, 2]


@pytest.mark.fault
def test_a_killed_merge_is_reported_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = [make_set(f"{tmp_path}/one", (40, 40, 40)), make_set(f"{tmp_path}/two", (40, 40, 40), first=500)]
    merge_sets(urls, f"{tmp_path}/complete")
    expected = {path.name: path.read_bytes() for path in (tmp_path / "complete").iterdir()}
    shards: list[int] = []

    def write_or_die(url: str, shard: int, samples: list[Sample], owner: str) -> None:
        if len(shards) == 2:
            raise KeyboardInterrupt
        shards.append(shard)
        write_shard(url, shard, samples, owner=owner)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(merge, "write_shard", write_or_die)
        merge_sets(urls, f"{tmp_path}/all")
    with pytest.raises(UserError, match="the merge was interrupted"):
        read_set(f"{tmp_path}/all")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "all").glob("0000[01]*")}
    merge_sets(urls, f"{tmp_path}/all")
    assert {path.name: path.read_bytes() for path in (tmp_path / "all").iterdir()} == expected
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    return [make_set(f"{tmp_path}/one", (1, 1, 1)), make_set(f"{tmp_path}/two", (1, 1, 1), first=100)]


def test_datasets_that_can_not_be_merged_are_an_error(tmp_path: Path, pair: list[str]) -> None:
    other = make_set(f"{tmp_path}/other", (1, 1, 1), classnames=("a", "x", "c"))
    fewer = make_set(f"{tmp_path}/fewer", (1, 1), classnames=("a", "b"))
    gap = make_set(f"{tmp_path}/gap", (3, 3, 3))
    storage.remove(f"{gap}/00001_stats.json")
    out = f"{tmp_path}/out"
    for urls, message in (
        (pair[:1], "specify two or more different datasets"),
        ([pair[0], pair[0] + "/"], "specify two or more different datasets"),
        ([pair[0], other], r"\(class 1 is 'x', not 'b'\)"),
        ([pair[0], fewer], "the 2 classes of .* differ from the 3 classes of"),
        ([pair[0], str(tmp_path / "nowhere")], "no synthetic dataset found"),
        ([pair[0], gap], "1 of 2 shards are missing"),
    ):
        with pytest.raises(UserError, match=message):
            merge_sets(urls, out)
        assert storage.listdir(out) == []


def test_a_folder_with_other_content_is_an_error(tmp_path: Path, pair: list[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    merge_sets(pair, f"{tmp_path}/all")
    for urls, out in ((pair, "out"), (pair[::-1], "all")):
        with pytest.raises(UserError, match="not empty"):
            merge_sets(urls, f"{tmp_path}/{out}")
    assert merge_sets(pair, f"{tmp_path}/all").counts == (2, 2, 2)


def test_datasets_of_the_same_plan_are_an_error(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        generate_here(make_plan(1, seed=seed), f"{tmp_path}/{name}")
    with pytest.raises(UserError, match="generated from the same plan"):
        merge_sets([f"{tmp_path}/one", f"{tmp_path}/two"], f"{tmp_path}/all")
    merge_sets([f"{tmp_path}/one", f"{tmp_path}/three"], f"{tmp_path}/all")
    provenance = [row[4] for row in rows(f"{tmp_path}/all")]
    expected = [(name, index, 0) for name in ("one", "three") for index in range(3)]
    assert [(values["set"], values["index"], values["attempt"]) for values in provenance] == expected
