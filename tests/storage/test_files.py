"""What storage promises: whole or not at all, fresh listings, one sentence for a user's mistake."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

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
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh folder on each kind of storage."""
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{tmp_path.name}-{time.monotonic_ns()}"
    return str(tmp_path / "set") if request.param == "local" else f"memory://{tmp_path}"


def test_what_was_written_is_read_back(place: str) -> None:
    url = storage.join(place, "a", "b.bin")
    storage.write_bytes(url, b"0123456789")
    assert storage.exists(url)
    assert storage.read_bytes(url) == b"0123456789"
    assert storage.read_bytes(url, 2, 5) == b"234"
    assert storage.read_bytes(url, start=8) == b"89"
    with storage.open_read(url) as file:
        file.seek(4)
        assert file.read(2) == b"45"


def test_a_listing_names_files_and_folders_and_sizes_only_files(place: str) -> None:
    storage.write_bytes(storage.join(place, "b.bin"), b"12")
    storage.write_bytes(storage.join(place, "a", "c.bin"), b"3")
    assert storage.listdir(place) == ["a", "b.bin"]
    assert storage.sizes(place) == {"b.bin": 2}


def test_a_listing_may_be_of_some_beginnings_alone(place: str) -> None:
    for number, name in enumerate(("01.tar", "012.tar", "02.tar", "1.tar", "index.json", "other", "01/01.tar")):
        storage.write_bytes(storage.join(place, *name.split("/")), bytes(number))
    assert storage.sizes(place, ["01", "2", "index.json"]) == {"01.tar": 0, "012.tar": 1, "index.json": 4}
    assert storage.sizes(place, ["0"]) == {"01.tar": 0, "012.tar": 1, "02.tar": 2}
    assert storage.sizes(storage.join(place, "nowhere"), ["0", "1"]) == {}


def test_a_missing_folder_lists_as_empty(place: str) -> None:
    assert storage.listdir(storage.join(place, "nowhere")) == []


def test_many_files_are_read_at_once_and_missing_ones_left_out(place: str) -> None:
    urls = [storage.join(place, f"{i}.txt") for i in range(3)]
    for url in urls[:2]:
        storage.write_bytes(url, url.encode())
    assert storage.read_many(urls) == {url: url.encode() for url in urls[:2]}
    assert storage.read_many(urls[:1]) == {urls[0]: urls[0].encode()}
    assert storage.read_many([*urls, f"{urls[0]}/below"]) == {url: url.encode() for url in urls[:2]}


def test_one_of_many_files_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match=f"cannot read {tmp_path}/b: Is a directory"):
        storage.read_many([str(tmp_path / "a"), str(tmp_path / "b")])


def test_a_published_file_equals_its_source_which_stays(place: str, tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(os.urandom(3 << 20))
    storage.publish(source, storage.join(place, "x.bin"))
    assert storage.read_bytes(storage.join(place, "x.bin")) == source.read_bytes()
    storage.fetch(storage.join(place, "x.bin"), tmp_path / "copy.bin")
    assert (tmp_path / "copy.bin").read_bytes() == source.read_bytes()


def test_removing_twice_is_no_error(place: str) -> None:
    url = storage.join(place, "x")
    storage.write_bytes(url, b"1")
    storage.remove(url)
    storage.remove(url)
    assert not storage.exists(url)


def test_removing_a_folder_takes_all_in_it(place: str) -> None:
    storage.write_bytes(storage.join(place, "deep", "x"), b"1")
    storage.remove(storage.join(place, "deep"), recursive=True)
    assert storage.listdir(place) == []


def test_a_missing_file_is_told_in_one_sentence(place: str) -> None:
    with pytest.raises(storage.MissingError, match=r"cannot read .*nothing.bin: not found") as caught:
        storage.read_bytes(storage.join(place, "nothing.bin"))
    assert isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_writer_is_seen_after_a_listing(bucket: str) -> None:
    place = storage.join(bucket, "fresh")
    storage.write_bytes(storage.join(place, "a"), b"1")
    assert storage.listdir(place) == ["a"]
    import boto3

    client = boto3.client("s3", endpoint_url=urls.options_of(bucket)["endpoint_url"])
    client.put_object(Bucket="bucket", Key="fresh/b", Body=b"22")
    assert storage.listdir(place) == ["a", "b"]
    assert storage.sizes(place)["b"] == 2
    assert storage.exists(storage.join(place, "b"))


class Strict(LocalFileSystem):  # type: ignore[misc]
    """Remote files in folders that are there only if they were made, as with SFTP and HDFS."""

    made: ClassVar[list[str]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("strict://")))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self.made.append(path)
        super().makedirs(path, exist_ok)


def test_a_folder_is_made_where_it_is_missing_and_only_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("strict", Strict, clobber=True)
    monkeypatch.setattr(Strict, "made", [])
    (tmp_path / "source").write_bytes(b"3")
    folder = f"strict://{tmp_path}/a/b"
    storage.write_bytes(f"{folder}/1", b"1")
    storage.write_bytes(f"{folder}/2", b"22")
    storage.publish(tmp_path / "source", f"{folder}/3")
    assert storage.sizes(folder) == {"1": 1, "2": 2, "3": 1}
    assert Strict.made == [f"{tmp_path}/a/b"]


def filesystem(url: str) -> Any:
    """The very instance that storage uses for a URL."""
    return urls.remote(url)[0]


@pytest.mark.fault
def test_an_exception_in_mid_upload_publishes_nothing(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, url = tmp_path / "big.bin", storage.join(bucket, "big.bin")
    source.write_bytes(bytes(11 << 20))
    storage.write_bytes(url, b"old")
    fs, sent = filesystem(url), []
    call = fs._call_s3

    async def fail_on_second_part(method: str, *args: object, **kwargs: object) -> object:
        sent.append(method)
        if sent.count("upload_part") == 2:
            raise RuntimeError("the wire is cut")
        return await call(method, *args, **kwargs)

    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda size, chunksize: 5 << 20)
    with monkeypatch.context() as cut, pytest.raises(RuntimeError, match="wire"):
        cut.setattr(fs, "_call_s3", fail_on_second_part)
        storage.publish(source, url)
    assert sent[:2] == ["create_multipart_upload", "upload_part"]
    assert storage.read_bytes(url) == b"old"
    assert fs.list_multipart_uploads("bucket") == []
    storage.publish(source, url)
    assert storage.sizes(bucket)["big.bin"] == 11 << 20


@pytest.mark.fault
@pytest.mark.parametrize("arrived", [b"1234", b"123"])
def test_an_upload_whose_answer_was_lost_succeeds_if_the_bytes_are_there(
    bucket: str, monkeypatch: pytest.MonkeyPatch, arrived: bytes
) -> None:
    url = storage.join(bucket, "lost.bin")
    storage.write_bytes(url, arrived)

    def retried(*_: object) -> None:
        raise FileNotFoundError("NoSuchUpload")

    monkeypatch.setattr(filesystem(url), "pipe_file", retried)
    if arrived == b"1234":
        storage.write_bytes(url, b"1234")
    else:
        with pytest.raises(UserError):
            storage.write_bytes(url, b"1234")


@pytest.mark.usefixtures("bucket")
def test_a_missing_bucket_is_one_sentence_and_is_not_made() -> None:
    with pytest.raises(UserError, match=r"cannot write s3://typing-error/x/y.*bucket"):
        storage.write_bytes("s3://typing-error/x/y", b"1")
    assert not storage.exists("s3://typing-error")


def test_no_credentials_is_one_sentence(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setitem(current().options, "skip_instance_cache", True)
    with pytest.raises(UserError, match=r"cannot write .*credentials"):
        storage.write_bytes(storage.join(bucket, "x"), b"1")


def test_an_unknown_scheme_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"cannot read foo://a/b: Protocol not known: foo"):
        storage.read_bytes("foo://a/b")


def test_a_file_is_exchanged_not_overwritten_so_its_readers_go_on_with_the_old_one(tmp_path: Path) -> None:
    url = str(tmp_path / "x")
    storage.write_bytes(url, b"old" * 1000)
    with storage.open_read(url) as reader:
        storage.write_bytes(url, b"new")
        assert reader.read() == b"old" * 1000
    assert storage.read_bytes(url) == b"new"


@pytest.mark.fault
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes(str(tmp_path / "x"), b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="no space left"):
        storage.write_bytes(str(tmp_path / "x"), b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


@pytest.mark.fault
def test_a_file_is_whole_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    url = str(tmp_path / "x")
    program = (
        "import sys; from syncclip import storage\n"
        f"while True:\n  for letter in b'abc': storage.write_bytes({url!r}, bytes([letter]) * (2 << 20)); print('.')"
    )
    for waits in range(1, 6):
        with subprocess.Popen([sys.executable, "-uc", program], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.read(2 * waits)
            writer.kill()
        data = storage.read_bytes(url)
        assert len(data) == 2 << 20
        assert len(set(data)) == 1
        assert storage.listdir(str(tmp_path)) == ["x"]
    storage.sweep(str(tmp_path), older_than=-1)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.fault
def test_a_folder_without_permission_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    root = os.geteuid() == 0
    if root:  # who may do everything must first become nobody
        os.seteuid(65534)
    try:
        with pytest.raises(
            UserError, match=r"cannot write .*x: Permission denied; choose a location that you may write"
        ):
            storage.write_bytes(str(tmp_path / "x"), b"1")
    finally:
        if root:
            os.seteuid(0)
        tmp_path.chmod(0o755)


def test_a_file_in_the_place_of_a_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(UserError, match="cannot write"):
        storage.write_bytes(str(tmp_path / "x" / "y"), b"1")
