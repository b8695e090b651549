"""Captions on a pool: the same file for any number of actors and after any kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.synthesis import captioning
from syncclip.synthesis.captioning import PARTS, CaptionWorker, Part, write_captions
from syncclip.synthesis.prompts.files import read_captions
from syncclip.synthesis.prompts.writer import Writer
from syncclip.verify import verify
from syncclip.workers.job import Computation
from syncclip.workers.settings import Pool
from tests.synthesis.prompts import CLASSES
from tests.worlds.language import asked

MANY = [f"{colour} {name}" for name in CLASSES for colour in ("red", "blue", "green")]


@pytest.fixture(scope="module")
def whole(model: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of many classes, as one process writes it without a break."""
    url = str(tmp_path_factory.mktemp("whole") / "captions.json")
    write_captions(asked(model), MANY, url)
    return Path(url).read_bytes()


def test_writing_resumes_and_keeps_manual_edits(model: str, tmp_path: Path) -> None:
    url, whole = str(tmp_path / "captions.json"), str(tmp_path / "whole.json")
    write_captions(asked(model), CLASSES[:1], url)
    written = write_captions(asked(model), CLASSES, url)
    assert written == write_captions(asked(model), CLASSES, whole) == read_captions(url)
    assert list(written.sentences) == list(CLASSES)
    mended = storage.read_bytes(url).replace(written.sentences["cat"][0].encode(), b"my own cat")
    storage.write_bytes(url, mended)  # without its checksum, as who mends it removes that
    assert write_captions(asked(model), CLASSES, url).sentences["cat"][0] == "my own cat"


class DiesOnce(CaptionWorker):
    """Kills its process at the fourth class, the first time."""

    def begin(self, shard: int) -> Computation[Part]:
        mark = Path(self.job.url).with_name("died")
        if shard == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().begin(shard)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("worker", [CaptionWorker, DiesOnce])
def test_two_actors_write_the_file_of_one_process_also_where_one_is_killed(
    model: str, whole: bytes, worker: type[CaptionWorker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captioning, "CaptionWorker", worker)
    url = tmp_path / "captions.json"
    write_captions(asked(model), MANY, str(url), Pool(2))
    assert url.read_bytes() == whole
    assert (tmp_path / "died").exists() == (worker is DiesOnce)
    assert not (tmp_path / f"captions.json{PARTS}").exists()


def test_a_killed_command_loses_no_class(model: str, whole: bytes, tmp_path: Path) -> None:
    url = tmp_path / "captions.json"
    code = (
        "import sys, time; from syncclip.synthesis import captioning as c; from pathlib import Path\n"
        "write = c.Writer.write\n"
        "c.Writer.write = lambda *given: (time.sleep(0.2), write(*given))[1]\n"
        "c.write_captions(c.WriterSettings.model_validate_json(sys.argv[1]), sys.argv[3:], sys.argv[2])"
    )
    command = [sys.executable, "-c", code, asked(model).model_dump_json(), str(url), *MANY]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        parts = Path(f"{url}{PARTS}")
        while not parts.exists() or len(list(parts.glob("*.json"))) < 3:
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    before = {part.name: part.read_bytes() for part in parts.glob("*.json")}
    assert not url.exists() and 3 <= len(before) < len(MANY)
    heard: list[str] = []
    write = Writer.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, "write", lambda self, name: (heard.append(name), write(self, name))[1])
        write_captions(asked(model), MANY, str(url))
    assert url.read_bytes() == whole
    assert len(heard) == len(MANY) - len(before)


def test_a_class_without_captions_is_an_error_and_the_others_are_kept(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, answers = str(tmp_path / "captions.json"), Writer._outputs
    mute = {CLASSES[1]}
    monkeypatch.setattr(
        Writer, "_outputs", lambda self, name, turn: [""] if name in mute else answers(self, name, turn)
    )
    with pytest.raises(UserError, match=rf"no captions of class '{CLASSES[1]}': .* wrote nothing .* those of 1 others"):
        write_captions(asked(model), CLASSES, url)
    mute.clear()
    assert list(write_captions(asked(model), CLASSES, url).sentences) == list(CLASSES)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "minus 1": lambda data: data[:-1],
    "zeros": lambda data: bytes(len(data)),
    "extended": lambda data: data + b"\0",
    "flipped": lambda data: data[:90] + bytes([data[90] ^ 1]) + data[91:],
}


@pytest.mark.fault
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_an_error_and_reported(model: str, tmp_path: Path, damage: str) -> None:
    url = tmp_path / "captions.json"
    write_captions(asked(model), CLASSES, str(url))
    assert verify(str(tmp_path), print).problems == []
    url.write_bytes(DAMAGES[damage](url.read_bytes()))
    with pytest.raises(UserError, match=str(url)):
        read_captions(str(url))
    with pytest.raises(UserError, match=str(url)):
        write_captions(asked(model), CLASSES, str(url))
    assert any(str(url) in problem for problem in verify(str(tmp_path), print).problems)


@pytest.mark.fault
@pytest.mark.parametrize("damage", [*DAMAGES, "exchanged", "removed"])
def test_a_damaged_part_is_reported_and_written_again(
    model: str, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url, whole = tmp_path / "captions.json", tmp_path / "whole.json"
    write_captions(asked(model), CLASSES, str(whole))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(captioning, "_merged", interrupt)
        write_captions(asked(model), CLASSES, str(url))
    parts = tmp_path / f"captions.json{PARTS}"
    part, other, _ = sorted(parts.iterdir())
    if damage == "removed":
        part.unlink()
    else:
        part.write_bytes(other.read_bytes() if damage == "exchanged" else DAMAGES[damage](part.read_bytes()))
    capsys.readouterr()
    write_captions(asked(model), CLASSES, str(url))
    assert url.read_bytes() == whole.read_bytes()
    assert (str(part) in capsys.readouterr().err) == (damage != "removed")


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt
