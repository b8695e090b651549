"""A folder contains one export, and all of its files are verified by its manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from syncclip import storage
from syncclip.core.manifest import MANIFEST, verify_folder
from syncclip.core.settings import UserError
from syncclip.storage.exports import Export, exporting, problems_of_export, read_manifest, require_export

FILES = {"classes.json": b'{"a": 1}\n', "deep/weights.bin": bytes(range(256)) * 40, "other.bin": b"other" * 2000}


def write(url: str, files: dict[str, bytes] = FILES, to: str = "onnx", run: str = "a") -> None:
    with exporting(url, to, {"run": run, "prompts": "p"}, "export") as out:
        out.begin()
        for path, data in files.items():
            out.write(path, data)


def test_a_manifest_contains_size_and_sha256_of_each_file(tmp_path: Path) -> None:
    write(str(tmp_path))
    manifest = json.loads((tmp_path / MANIFEST).read_bytes())
    assert (manifest["to"], manifest["source"]) == ("onnx", {"run": "a", "prompts": "p"})
    sha256 = "a75d5c7d993389d9b6e5f7adc0a059aba20dc25e11c00f8164c4ec72e966047f"
    assert manifest["files"]["other.bin"] == [10_000, sha256]
    assert sorted(manifest["files"]) == sorted(FILES) and list(problems_of_export(str(tmp_path))) == []
    require_export(str(tmp_path)), verify_folder(tmp_path)


@pytest.mark.parametrize(
    ("to", "run", "reason"), [("vectors", "a", "an export to 'onnx'"), ("onnx", "b", "an export of a different run")]
)
def test_another_export_into_the_folder_is_an_error(tmp_path: Path, to: str, run: str, reason: str) -> None:
    write(str(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"already contains {reason}"):
        write(str(tmp_path), {"classes.json": b"{}"}, to, run)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    write(str(tmp_path))


def test_an_export_into_a_folder_with_other_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "own.txt").touch()
    with pytest.raises(UserError, match=r"already contains own.txt"):
        write(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["own.txt"]


@pytest.mark.fault
@pytest.mark.parametrize("write_number", range(4))
def test_an_interrupted_export_is_unfinished_until_the_same_command_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_number: int
) -> None:
    """Interrupted at each write, over a finished export of the same run and in an empty folder."""
    finished, empty = tmp_path / "finished", tmp_path / "empty"
    write(str(finished))
    for folder in (finished, empty):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Export, "write", interrupted(Export.write, write_number))
            write(str(folder))
        (problem,) = problems_of_export(str(folder))
        assert "unfinished; rerun the command that wrote it" in problem
        with pytest.raises(UserError, match="unfinished"):
            verify_folder(folder)
        with pytest.raises(UserError, match="already contains an export of a different run"):
            write(str(folder), run="b")
        write(str(folder))
        assert list(problems_of_export(str(folder))) == []


def interrupted(call: Callable[..., None], after: int) -> Callable[..., None]:
    """Return a function that is interrupted at its call number `after`, or after the last one."""
    calls: list[None] = []

    def interrupted_call(*arguments: object) -> None:
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(None)
        call(*arguments)
        if len(calls) == len(FILES) == after:
            raise KeyboardInterrupt

    return interrupted_call


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flip": flip,
    "empty": lambda file: file.write_bytes(b""),
    "half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "minus 1": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "extended": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "removed": Path.unlink,
}


@pytest.mark.fault
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("path", ["classes.json", "deep/weights.bin"])
def test_a_corrupt_file_is_reported(tmp_path: Path, path: str, damage: str) -> None:
    write(str(tmp_path))
    DAMAGES[damage](tmp_path / path)
    (problem,) = problems_of_export(str(tmp_path))
    assert str(tmp_path / path) in problem
    for check in (lambda: require_export(str(tmp_path)), lambda: verify_folder(tmp_path)):
        with pytest.raises(UserError, match=path):
            check()


@pytest.mark.fault
@pytest.mark.parametrize("damage", ["flip", "half", "minus 1", "zeros"])
def test_a_corrupt_manifest_is_reported(tmp_path: Path, damage: str) -> None:
    write(str(tmp_path))
    DAMAGES[damage](tmp_path / MANIFEST)
    (problem,) = problems_of_export(str(tmp_path))
    assert str(tmp_path / MANIFEST) in problem


def test_a_manifest_of_another_export_is_reported(tmp_path: Path) -> None:
    write(str(tmp_path / "a")), write(str(tmp_path / "b"), {**FILES, "other.bin": b"b"}, run="b")
    shutil.copy(tmp_path / "b" / MANIFEST, tmp_path / "a" / MANIFEST)
    (problem,) = problems_of_export(f"{tmp_path}/a")
    assert problem.startswith(f"{tmp_path}/a/other.bin does not match its checksum")


def test_an_export_locks_its_folder(tmp_path: Path) -> None:
    with exporting(str(tmp_path), "onnx", {"run": "a"}, "export") as out, ThreadPoolExecutor(1) as threads:
        out.begin()
        assert "held the lock" in str(threads.submit(write, str(tmp_path)).exception())
        out.write("a", b"a")
    assert read_manifest(str(tmp_path)) is not None and storage.exists(str(tmp_path / "a"))
