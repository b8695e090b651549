"""Merging sets: every image once, class-balanced as far as it can be, and each can be traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    """A set of `counts` images of each class that is there already; their colours count from `first`."""
    known = ImportedSet(source="x", dataset="b", classnames=classnames, counts=counts, shard_size=2 * len(counts))
    claim(known, url)
    samples = [
        Sample(image * len(counts) + label, label, jpeg(first + image * len(counts) + label), f"text {first}", {"k": 1})
        for image in range(max(counts))
        for label in range(len(counts))
        if image < counts[label]
    ]
    for shard in known.shards():
        of_shard = [one for one in samples if one.index // known.shard_size == shard]
        write_shard(url, shard, of_shard, owner=known.owner)
    finish(known, url)
    return url


def rows(url: str) -> list[tuple[int, int, bytes, str, dict[str, Any]]]:
    images = ShardSet(url)
    return [
        (
            int(images.samples.index[row]),
            int(images.labels[row]),
            images.read(row),
            images.text(row),
            images.provenance(row),
        )
        for row in range(len(images))
    ]


def test_the_first_set_comes_first_and_every_image_once(tmp_path: Path) -> None:
    one, two = make_set(f"{tmp_path}/one", (2, 2, 2)), make_set(f"{tmp_path}/two", (3, 3, 3), first=100)
    found = merge_sets([one, two], f"{tmp_path}/all")
    merged, first, second = rows(f"{tmp_path}/all"), rows(one), rows(two)
    assert [row[0] for row in merged] == list(range(15))
    assert [row[1:4] for row in merged] == [row[1:4] for row in first + second]
    assert [row[4] for row in merged[5:7]] == [{"k": 1, "set": "one", "index": 5}, {"k": 1, "set": "two", "index": 0}]
    assert verify(f"{tmp_path}/all") == []
    assert found == read_set(f"{tmp_path}/all")
    assert (found.source, found.counts, found.images_per_class) == ("one + two", (5, 5, 5), 5)


def test_what_one_set_lacks_of_a_class_the_next_one_fills(tmp_path: Path) -> None:
    one, two = make_set(f"{tmp_path}/one", (2, 0, 1)), make_set(f"{tmp_path}/two", (1, 3, 1), first=100)
    found = merge_sets([one, two], f"{tmp_path}/all")
    assert found.counts == (3, 3, 2)
    assert [row[0] for row in rows(f"{tmp_path}/all")] == [0, 1, 2, 3, 4, 5, 6, 7]
    for row in ShardSet(f"{tmp_path}/all").subset(max_per_class=2).samples.label.reshape(2, 3):
        assert sorted(row.tolist()) == [0, 1, 2]


@pytest.mark.fault
def test_a_merge_that_was_killed_is_no_set_and_goes_on_with_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make_set(f"{tmp_path}/one", (40, 40, 40)), make_set(f"{tmp_path}/two", (40, 40, 40), first=500)
    merge_sets([one, two], f"{tmp_path}/quiet")
    quiet = {path.name: path.read_bytes() for path in (tmp_path / "quiet").iterdir()}
    written: list[int] = []

    def killed(url: str, shard: int, samples: list[Sample], owner: str) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard)
        write_shard(url, shard, samples, owner=owner)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(merge, "write_shard", killed)
        merge_sets([one, two], f"{tmp_path}/all")
    with pytest.raises(UserError, match="interrupted merge; run the same `syncclip shards merge` again"):
        read_set(f"{tmp_path}/all")
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "all").glob("0000[01]*")}
    merge_sets([one, two], f"{tmp_path}/all")
    assert {path.name: path.read_bytes() for path in (tmp_path / "all").iterdir()} == quiet
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "all").glob("0000[01]*")} == times


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[list[str]]:
    yield [make_set(f"{tmp_path}/one", (1, 1, 1)), make_set(f"{tmp_path}/two", (1, 1, 1), first=100)]


def test_what_can_not_be_merged_is_told_in_one_sentence(tmp_path: Path, pair: list[str]) -> None:
    other = make_set(f"{tmp_path}/other", (1, 1, 1), classnames=("a", "x", "c"))
    fewer = make_set(f"{tmp_path}/fewer", (1, 1), classnames=("a", "b"))
    gap = make_set(f"{tmp_path}/gap", (3, 3, 3))
    storage.remove(f"{gap}/00001_stats.json")
    out = f"{tmp_path}/out"
    for urls, part in (
        (pair[:1], "requires two or more different sets"),
        ([pair[0], pair[0] + "/"], "requires two or more different sets"),
        ([pair[0], other], "class 1 is 'x' and 'b'"),
        ([pair[0], fewer], "2 and 3 classes"),
        ([pair[0], str(tmp_path / "nowhere")], "no synthetic set found"),
        ([pair[0], gap], "1 of 2 shards are missing; complete the set first"),
    ):
        with pytest.raises(UserError, match=part):
            merge_sets(urls, out)
        assert storage.listdir(out) == []


def test_a_folder_of_something_else_is_refused(tmp_path: Path, pair: list[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty; use another folder"):
        merge_sets(pair, f"{tmp_path}/out")
    merge_sets(pair, f"{tmp_path}/all")
    with pytest.raises(UserError, match="not empty; use another folder"):
        merge_sets(pair[::-1], f"{tmp_path}/all")
    assert merge_sets(pair, f"{tmp_path}/all").counts == (2, 2, 2)


def test_the_same_plan_twice_would_be_the_same_images_twice(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        generate_here(make_plan(1, seed=seed), f"{tmp_path}/{name}")
    with pytest.raises(UserError, match="generated by the same plan"):
        merge_sets([f"{tmp_path}/one", f"{tmp_path}/two"], f"{tmp_path}/all")
    merge_sets([f"{tmp_path}/one", f"{tmp_path}/three"], f"{tmp_path}/all")
    told = [row[4] for row in rows(f"{tmp_path}/all")]
    assert [(one["set"], one["index"], one["attempt"]) for one in told] == [
        (name, index, 0) for name in ("one", "three") for index in range(3)
    ]
