"""Local copies of remote model files, which all processes on a machine share."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from syncclip import storage
from syncclip.core.session import current
from syncclip.core.settings import UserError
from syncclip.storage import local_copies
from syncclip.storage.local_copies import local_copy, remote_files
from tests.worlds.faulty_s3 import FaultyS3

pytestmark = pytest.mark.fault
FORK = multiprocessing.get_context("fork")
WEIGHTS = random.Random(1).randbytes(300_000)
FILES = {"index.json": b"{}", "unet/weights.safetensors": WEIGHTS, "vae/config.json": b'{"vae": 1}'}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYNCCLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(folder: str, cache: Path) -> str:
    for name, data in FILES.items():
        storage.write_bytes(f"{folder}/{name}", data)
    return folder


@pytest.fixture
def gets(faulty: tuple[str, FaultyS3], model: str) -> Callable[[], Counter[str]]:
    """Return the number of times that the server has sent each of the model's files since the last call."""

    def count() -> Counter[str]:
        prefix = f"GET /{model.removeprefix('s3://')}/"
        counts = Counter(each.partition("?")[0].removeprefix(prefix) for each in faulty[1].seen if prefix in each)
        faulty[1].seen.clear()
        return counts

    count()
    return count


def content(url: str) -> dict[str, bytes]:
    with local_copy(url, remote_files(url)) as path:
        paths = [file for file in path.rglob("*") if file.is_file()]
        return {str(file.relative_to(path)): file.read_bytes() for file in paths}


def _copied_in_process(url: str) -> None:
    assert content(url) == FILES


def test_eight_processes_download_each_file_once(model: str, gets: Callable[[], Counter[str]]) -> None:
    processes = [FORK.Process(target=_copied_in_process, args=(model,)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert gets() == dict.fromkeys(FILES, 1)


def _killed_in_the_second_file(url: str) -> None:
    def fetch(source: str, path: Path) -> None:
        if source.endswith("weights.safetensors"):
            path.write_bytes(WEIGHTS[:1000])
            os.kill(os.getpid(), signal.SIGKILL)
        storage.fetch(source, path)

    local_copies.fetch = fetch
    content(url)


def test_the_next_process_completes_the_download_of_a_killed_process(
    model: str, cache: Path, gets: Callable[[], Counter[str]]
) -> None:
    process = FORK.Process(target=_killed_in_the_second_file, args=(model,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert gets() == {"index.json": 1}
    assert content(model) == FILES
    assert gets() == {"unet/weights.safetensors": 1, "vae/config.json": 1}
    assert list(cache.glob("*.part")) == []


def test_a_file_with_a_flipped_bit_is_downloaded_again(
    model: str, cache: Path, gets: Callable[[], Counter[str]]
) -> None:
    content(model)
    gets()
    copy = next(cache.glob(f"*-{len(WEIGHTS)}"))
    copy.write_bytes(WEIGHTS[:1000] + bytes([WEIGHTS[1000] ^ 1]) + WEIGHTS[1001:])
    assert content(model) == FILES
    assert gets() == {"unet/weights.safetensors": 1}


def test_the_downloaded_bytes_are_counted_once(model: str) -> None:
    before = len(current().downloads)
    content(model)
    content(model)
    assert sum(current().downloads[before:]) == sum(map(len, FILES.values()))


def test_a_single_file_keeps_its_name(model: str) -> None:
    url = f"{model}/unet/weights.safetensors"
    with local_copy(url, remote_files(url)) as path:
        assert (path.name, path.read_bytes()) == ("weights.safetensors", WEIGHTS)


def test_a_replaced_file_is_a_different_copy(model: str) -> None:
    content(model)
    storage.write_bytes(f"{model}/index.json", b"[]")
    assert content(model) == {**FILES, "index.json": b"[]"}


def test_a_file_that_is_replaced_during_its_download_is_an_error(
    model: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(source: str, path: Path) -> None:
        storage.fetch(source, path)
        storage.write_bytes(source, b"[]")

    monkeypatch.setattr(local_copies, "fetch", fetch)
    with pytest.raises(UserError, match=r"index.json was replaced during the download; run the same command again"):
        content(model)
    assert list(cache.glob("*-*")) == []


def test_a_missing_model_is_an_error(folder: str) -> None:
    with pytest.raises(UserError, match=f"cannot read {folder}: not found"):
        remote_files(folder)


def test_files_outside_the_folder_are_ignored() -> None:
    fsspec.filesystem("memory").pipe({"/model/index.json": b"{}", "/model/../../evil.json": b"{}"})
    assert remote_files("memory://model").keys() == {"index.json"}


@pytest.mark.parametrize("is_full_from_the_start", [True, False])
def test_a_full_disk_is_a_one_line_error(
    model: str, small_disk: Path, monkeypatch: pytest.MonkeyPatch, is_full_from_the_start: bool
) -> None:
    monkeypatch.setenv("SYNCCLIP_CACHE", str(small_disk / "cache"))
    (small_disk / "other").write_bytes(bytes(200_000))
    if not is_full_from_the_start:  # another process takes the space during the download
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(UserError, match="the disk is full, and the files need 300.0 kB; free up some space") as error:
        content(model)
    assert str(small_disk / "cache") in str(error.value) and "\n" not in str(error.value)
    (small_disk / "other").unlink()
    assert content(model) == FILES


def test_unused_weights_make_room_for_others(model: str, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCCLIP_CACHE", str(small_disk / "cache"))
    storage.write_bytes(f"{model}-2/weights.safetensors", WEIGHTS[::-1])
    with local_copy(model, remote_files(model)), pytest.raises(UserError, match="the disk is full"):
        content(f"{model}-2")
    assert content(f"{model}-2") == {"weights.safetensors": WEIGHTS[::-1]}
