from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.synthesis import captioning
from syncclip.synthesis.captioning import PARTS, CaptionWorker, Part, write_captions
from syncclip.synthesis.prompts.captions import WriterSettings
from syncclip.synthesis.prompts.files import read_captions
from syncclip.synthesis.prompts.writer import Writer
from syncclip.verify import verify
from syncclip.workers.job import Computation
from syncclip.workers.settings import Pool
from tests.synthesis.prompts import CLASSES
from tests.worlds.language import asked

MANY = [f"{colour} {name}" for name in CLASSES for colour in ("red", "blue", "green")]


@pytest.fixture(scope="module")
def expected(model: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The caption file of many classes, written by one process without interruption."""
    url = str(tmp_path_factory.mktemp("expected") / "captions.json")
    write_captions(asked(model), MANY, url)
    return Path(url).read_bytes()


def test_writing_resumes_and_keeps_manual_edits(model: str, tmp_path: Path) -> None:
    url = str(tmp_path / "captions.json")
    write_captions(asked(model), CLASSES[:1], url)
    captions = write_captions(asked(model), CLASSES, url)
    assert captions == write_captions(asked(model), CLASSES, str(tmp_path / "others.json")) == read_captions(url)
    assert list(captions.sentences) == list(CLASSES)
    edited = storage.read_bytes(url).replace(captions.sentences["cat"][0].encode(), b"my own cat")
    storage.write_bytes(url, edited)  # without a checksum
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
def test_two_actors_of_which_one_is_killed_write_the_same_file(
    model: str, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captioning, "CaptionWorker", DiesOnce)
    url = tmp_path / "captions.json"
    write_captions(asked(model), MANY, str(url), Pool(2))
    assert url.read_bytes() == expected
    assert (tmp_path / "died").exists()
    assert not (tmp_path / f"captions.json{PARTS}").exists()


def write_slowly(settings: str, url: str) -> None:
    write = Writer.write
    Writer.write = lambda *args: (time.sleep(0.2), write(*args))[1]  # type: ignore[method-assign]
    write_captions(WriterSettings.model_validate_json(settings), MANY, url)


def test_a_killed_process_loses_no_class(
    model: str, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = tmp_path / "captions.json"
    process = get_context("spawn").Process(target=write_slowly, args=(asked(model).model_dump_json(), str(url)))
    process.start()
    parts = Path(f"{url}{PARTS}")
    while not parts.exists() or len(list(parts.glob("*.json"))) < 3:
        assert process.is_alive()
        time.sleep(0.02)
    process.kill()
    process.join()
    count = len(list(parts.glob("*.json")))
    assert not url.exists() and 3 <= count < len(MANY)
    names: list[str] = []
    write = Writer.write
    monkeypatch.setattr(Writer, "write", lambda self, name: (names.append(name), write(self, name))[1])
    write_captions(asked(model), MANY, str(url))
    assert url.read_bytes() == expected
    assert len(names) == len(MANY) - count


def test_a_class_without_captions_is_an_error_and_the_others_are_kept(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, outputs = str(tmp_path / "captions.json"), Writer._outputs
    empty = {CLASSES[1]}
    monkeypatch.setattr(
        Writer, "_outputs", lambda self, name, turn: [""] if name in empty else outputs(self, name, turn)
    )
    with pytest.raises(
        UserError, match=rf"captions for class '{CLASSES[1]}' could not .* returned no text .*1 of \d classes are done"
    ):
        write_captions(asked(model), CLASSES, url)
    empty.clear()
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
def test_a_damaged_file_is_an_error(model: str, tmp_path: Path, damage: str) -> None:
    url = tmp_path / "captions.json"
    write_captions(asked(model), CLASSES, str(url))
    assert verify(str(tmp_path), print).problems == []
    url.write_bytes(DAMAGES[damage](url.read_bytes()))
    for read in (lambda: read_captions(str(url)), lambda: write_captions(asked(model), CLASSES, str(url))):
        with pytest.raises(UserError, match=str(url)):
            read()
    assert any(str(url) in problem for problem in verify(str(tmp_path), print).problems)


@pytest.mark.fault
@pytest.mark.parametrize("damage", [*DAMAGES, "exchanged", "removed"])
def test_a_damaged_part_is_reported_and_written_again(
    model: str, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    url, expected = tmp_path / "captions.json", tmp_path / "expected.json"
    write_captions(asked(model), CLASSES, str(expected))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(captioning, "_merged", interrupt)
        write_captions(asked(model), CLASSES, str(url))
    part, other, _ = sorted((tmp_path / f"captions.json{PARTS}").iterdir())
    if damage == "removed":
        part.unlink()
    else:
        part.write_bytes(other.read_bytes() if damage == "exchanged" else DAMAGES[damage](part.read_bytes()))
    capsys.readouterr()
    write_captions(asked(model), CLASSES, str(url))
    assert url.read_bytes() == expected.read_bytes()
    assert (str(part) in capsys.readouterr().err) == (damage != "removed")
