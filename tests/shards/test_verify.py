"""Defects that `verify` reports."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from syncclip.shards.reader import ShardSet
from syncclip.shards.verify import Problem, ShardCheck, problems
from syncclip.shards.writer import Sample, write_shard
from tests.shards.sets import jpeg, verify, write_set


@pytest.fixture
def url(tmp_path: Path) -> str:
    write_set(str(tmp_path), classes=3, rounds=4, rounds_per_shard=2)
    return str(tmp_path)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        (
            "00000.tar",
            lambda data: data[:700] + bytes([data[700] ^ 1]) + data[701:],
            "00000.tar: its checksum does not",
        ),
        ("00000.tar", lambda data: b"\x01" * len(data), "00000.tar: corrupt tar"),
        ("00000.parquet", lambda data: b"PAR1 no", "00000.parquet: unreadable table"),
    ],
    ids=["flipped bit", "corrupt tar", "unreadable table"],
)
def test_a_corrupt_file_is_reported(url: str, file: str, change: Callable[[bytes], bytes], sentence: str) -> None:
    path = Path(url, file)
    path.write_bytes(change(path.read_bytes()))
    assert any(sentence in problem for problem in verify(url))


@pytest.mark.fault
def test_an_unreadable_image_is_reported_by_name(url: str) -> None:
    samples = ShardSet(url).samples
    with Path(url, "00000.tar").open("r+b") as file:
        file.seek(int(samples.offset[4]))
        file.write(bytes(int(samples.size[4])))
    assert any("00000.tar:000000004.jpg: unreadable image" in problem for problem in verify(url))


@pytest.mark.fault
@pytest.mark.parametrize("member", ["../../evil.jpg", "/etc/passwd", "000000000.sh"])
def test_an_unexpected_member_is_reported_and_not_extracted(url: str, member: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo(member)
        info.size = len(jpeg(0))
        tar.addfile(info, io.BytesIO(jpeg(0)))
    size = Path(url, "00000.tar").stat().st_size
    Path(url, "00000.tar").write_bytes(buffer.getvalue().ljust(size, b"\0")[:size])
    before = sorted(tmp_path.rglob("*"))
    assert any(f"00000.tar: unexpected member {member!r}" in problem for problem in verify(url))
    assert len(ShardSet(url)) == 12
    assert sorted(tmp_path.rglob("*")) == before
    assert not (tmp_path.parent.parent / "evil.jpg").exists()


def test_samples_without_provenance_are_valid(tmp_path: Path) -> None:
    write_shard(str(tmp_path), 0, [Sample(0, 1, jpeg(0), "an image")])
    assert verify(str(tmp_path)) == []


def test_labels_and_texts_may_be_in_the_table_alone(tmp_path: Path) -> None:
    samples = [Sample(index, 1, jpeg(index), "an image") for index in range(3)]
    write_shard(str(tmp_path), 0, samples, images_only=True)
    assert verify(str(tmp_path)) == []
    images = ShardSet(str(tmp_path))
    assert images.labels.tolist() == [1, 1, 1] and images.text(2) == "an image"
    assert [images.read(row) for row in range(3)] == [sample.image_bytes for sample in samples]


def test_overlapping_ranges_of_samples_are_reported_by_sample(url: str) -> None:
    samples = {0: [(0, 4), (8, 10)], 1: [(2, 9)]}
    checked = [ShardCheck([], samples[shard]) for shard in samples]
    sentences = [f"00001.tar: sample {sample} is also in 00000.tar" for sample in (2, 3, 8)]
    assert list(problems(url, in_order=lambda *_: checked)) == [Problem(1, sentence) for sentence in sentences]
