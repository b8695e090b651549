"""Atomic writes, fresh listings and one-line errors, on each kind of storage."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from syncclip import storage
from syncclip.core.session import current
from syncclip.core.settings import UserError
from syncclip.storage import urls
from tests.object_store import s3_bucket


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_bucket() as url:
        yield url


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new folder on each kind of storage."""
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{tmp_path.name}-{time.monotonic_ns()}"
    return str(tmp_path / "set") if request.param == "local" else f"memory://{tmp_path}"


def test_written_bytes_are_read(folder: str) -> None:
    url = storage.join(folder, "a", "b.bin")
    storage.write_bytes(url, b"0123456789")
    assert storage.exists(url)
    assert storage.read_bytes(url) == b"0123456789"
    assert storage.read_bytes(url, 2, 5) == b"234"
    assert storage.read_bytes(url, start=8) == b"89"
    with storage.open_read(url) as file:
        file.seek(4)
        assert file.read(2) == b"45"


def test_a_listing_contains_files_and_folders_and_sizes_of_files(folder: str) -> None:
    storage.write_bytes(storage.join(folder, "b.bin"), b"12")
    storage.write_bytes(storage.join(folder, "a", "c.bin"), b"3")
    assert storage.listdir(folder) == ["a", "b.bin"]
    assert storage.sizes(folder) == {"b.bin": 2}
    assert storage.listdir(storage.join(folder, "missing")) == []


def test_a_listing_may_be_limited_to_prefixes(folder: str) -> None:
    for number, name in enumerate(("01.tar", "012.tar", "02.tar", "1.tar", "index.json", "other", "01/01.tar")):
        storage.write_bytes(storage.join(folder, *name.split("/")), bytes(number))
    assert storage.sizes(folder, ["01", "2", "index.json"]) == {"01.tar": 0, "012.tar": 1, "index.json": 4}
    assert storage.sizes(folder, ["0"]) == {"01.tar": 0, "012.tar": 1, "02.tar": 2}
    assert storage.sizes(storage.join(folder, "missing"), ["0", "1"]) == {}


def test_many_files_are_read_without_missing_ones(folder: str) -> None:
    urls = [storage.join(folder, f"{i}.txt") for i in range(3)]
    for url in urls[:2]:
        storage.write_bytes(url, url.encode())
    assert storage.read_many(urls) == {url: url.encode() for url in urls[:2]}
    assert storage.read_many(urls[:1]) == {urls[0]: urls[0].encode()}
    assert storage.read_many([*urls, f"{urls[0]}/below"]) == {url: url.encode() for url in urls[:2]}


def test_an_unreadable_one_of_many_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match=f"cannot read {tmp_path}/b: Is a directory"):
        storage.read_many([str(tmp_path / "a"), str(tmp_path / "b")])


def test_a_published_file_equals_its_source(folder: str, tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(os.urandom(3 << 20))
    storage.publish(source, storage.join(folder, "x.bin"))
    assert storage.read_bytes(storage.join(folder, "x.bin")) == source.read_bytes()
    storage.fetch(storage.join(folder, "x.bin"), tmp_path / "copy.bin")
    assert (tmp_path / "copy.bin").read_bytes() == source.read_bytes()


def test_removing_is_idempotent_and_may_be_recursive(folder: str) -> None:
    url = storage.join(folder, "x")
    storage.write_bytes(url, b"1")
    storage.remove(url)
    storage.remove(url)
    assert not storage.exists(url)
    storage.write_bytes(storage.join(folder, "deep", "x"), b"1")
    storage.remove(storage.join(folder, "deep"), recursive=True)
    assert storage.listdir(folder) == []


def test_a_missing_file_is_a_one_line_error(folder: str) -> None:
    with pytest.raises(storage.MissingError, match=r"cannot read .*nothing.bin: not found") as caught:
        storage.read_bytes(storage.join(folder, "nothing.bin"))
    assert isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)


def test_listings_show_new_files_of_other_writers(bucket: str) -> None:
    folder = storage.join(bucket, "fresh")
    storage.write_bytes(storage.join(folder, "a"), b"1")
    assert storage.listdir(folder) == ["a"]
    import boto3

    client = boto3.client("s3", endpoint_url=urls.options_of(bucket)["endpoint_url"])
    client.put_object(Bucket="bucket", Key="fresh/b", Body=b"22")
    assert storage.listdir(folder) == ["a", "b"]
    assert storage.sizes(folder)["b"] == 2
    assert storage.exists(storage.join(folder, "b"))


class Strict(LocalFileSystem):  # type: ignore[misc]
    """A remote file system whose folders must be created, like SFTP and HDFS."""

    created: ClassVar[list[str]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("strict://")))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self.created.append(path)
        super().makedirs(path, exist_ok)


def test_a_missing_folder_is_created_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("strict", Strict, clobber=True)
    monkeypatch.setattr(Strict, "created", [])
    (tmp_path / "source").write_bytes(b"3")
    folder = f"strict://{tmp_path}/a/b"
    storage.write_bytes(f"{folder}/1", b"1")
    storage.write_bytes(f"{folder}/2", b"22")
    storage.publish(tmp_path / "source", f"{folder}/3")
    assert storage.sizes(folder) == {"1": 1, "2": 2, "3": 1}
    assert Strict.created == [f"{tmp_path}/a/b"]


def test_missing_credentials_are_a_one_line_error(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setitem(current().options, "skip_instance_cache", True)
    with pytest.raises(UserError, match=r"cannot write .*credentials"):
        storage.write_bytes(storage.join(bucket, "x"), b"1")


def test_an_unknown_scheme_is_a_one_line_error() -> None:
    with pytest.raises(UserError, match=r"cannot read foo://a/b: Protocol not known: foo"):
        storage.read_bytes("foo://a/b")


def test_readers_of_a_replaced_file_continue_with_the_old_content(tmp_path: Path) -> None:
    url = str(tmp_path / "x")
    storage.write_bytes(url, b"old" * 1000)
    with storage.open_read(url) as reader:
        storage.write_bytes(url, b"new")
        assert reader.read() == b"old" * 1000
    assert storage.read_bytes(url) == b"new"


@pytest.mark.fault
def test_a_file_is_complete_when_its_writer_is_killed(tmp_path: Path) -> None:
    url = str(tmp_path / "x")
    program = (
        "import sys; from syncclip import storage\n"
        f"while True:\n  for letter in b'abc': storage.write_bytes({url!r}, bytes([letter]) * (2 << 20)); print('.')"
    )
    for writes in range(1, 4):
        with subprocess.Popen([sys.executable, "-uc", program], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.read(2 * writes)
            writer.kill()
        data = storage.read_bytes(url)
        assert len(data) == 2 << 20
        assert len(set(data)) == 1
        assert storage.listdir(str(tmp_path)) == ["x"]
    storage.sweep(str(tmp_path), older_than=-1)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.fault
def test_a_folder_without_permission_is_a_one_line_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    root = os.geteuid() == 0
    if root:  # root ignores permissions
        os.seteuid(65534)
    try:
        with pytest.raises(UserError, match=r"cannot write .*x: Permission denied"):
            storage.write_bytes(str(tmp_path / "x"), b"1")
    finally:
        if root:
            os.seteuid(0)
        tmp_path.chmod(0o755)


def test_a_file_instead_of_a_folder_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(UserError, match="cannot write"):
        storage.write_bytes(str(tmp_path / "x" / "y"), b"1")
