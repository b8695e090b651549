"""Whatever the locale, the time zone, the home, the mask and the names of folders: the same bytes, or one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.attack.environments import COMMANDS
from tests.worlds.study import study_world

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.attack, pytest.mark.timeout(3600)]

ENVIRONMENTS = {
    "LC_ALL=C": {"LC_ALL": "C"},
    "no UTF-8": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "odd TZ": {"TZ": "Pacific/Chatham"},
    "no TZ": {"TZ": "none/such"},
    "empty HOME": {"HOME": ""},
    "umask 077": {"ATTACK_UMASK": "077"},
    "umask 000": {"ATTACK_UMASK": "000"},
}
NAMES = ["é", "日本", "two blanks ", "#?%[*", "a\nb", "-dash", "'\"$HOME"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study_world(tmp_path_factory.mktemp("world"))


def visited(world: Path, folder: Path, names: list[str], **variables: str) -> dict[str, dict[str, Any]]:
    """What the five commands do below an empty folder, in a process with these variables."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "LC_", "PYTHON"))}
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.attack.environments", str(world), str(folder / "result"), *names],
        env={**own, "PYTHONPATH": str(Path(__file__).parents[2]), **variables},
        cwd=folder,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
    found: dict[str, dict[str, Any]] = json.loads((folder / "result").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def names(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Folders of all names, which share a Ray; `plain` is the one that others are compared with."""
    return visited(world, tmp_path_factory.mktemp("names") / "work", ["plain", *NAMES])


def check(found: dict[str, Any], plain: dict[str, Any]) -> None:
    for command in COMMANDS:
        status, said = found[command]
        assert status in (0, 2), (command, found[command])
        assert status == 0 or len([line for line in said if line.startswith("syncclip: ")]) == 1, (command, said)
    expected = plain["digests"]
    assert found["digests"].items() <= expected.items()
    if all(found[command][0] == 0 for command in COMMANDS):
        assert found["digests"] == expected


@pytest.mark.parametrize("name", ["plain", *NAMES], ids=ascii)
def test_folders_of_any_name(names: dict[str, dict[str, Any]], name: str) -> None:
    check(names[name], names["plain"])
    assert [names[name][command][0] for command in COMMANDS] == [0] * len(COMMANDS), names[name]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_environments(world: Path, names: dict[str, dict[str, Any]], tmp_path: Path, environment: str) -> None:
    found = visited(world, tmp_path / "work", ["plain"], **ENVIRONMENTS[environment])["plain"]
    check(found, names["plain"])
    assert [found[command][0] for command in COMMANDS] == [0] * len(COMMANDS), found
    if environment == "umask 077":
        assert found["modes"] == ["0o600"]


@pytest.mark.parametrize("command", [["report", "study"], ["classify", "run", "images"], ["status", "study"]])
@pytest.mark.parametrize("target", ["/dev/full", None], ids=["full", "closed"])
def test_standard_output_that_takes_nothing(
    names: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory, command: list[str], target: str | None
) -> None:
    folder = next(tmp_path_factory.getbasetemp().glob("names*")) / "work" / "plain"
    redirection = ">/dev/full" if target else ">&-"
    line = f'exec "{sys.executable}" -m syncclip "$@" {redirection}'
    done = subprocess.run(["sh", "-c", line, "sh", *command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == (2 if target else 0), done
    said = [line for line in done.stderr.splitlines() if not line.startswith(("classify: ", "report: "))]
    assert len(said) == (1 if target else 0), said


@pytest.mark.parametrize("command", ["train", "synth", "study", "status", "report"])
def test_a_name_that_is_not_utf8_is_one_line(world: Path, tmp_path: Path, command: str) -> None:
    place = b"runs/%s\xff" % command.encode()
    words = [place] if command in ("status", "report") else [b"tiny.yaml", b"--out", place]
    done = subprocess.run(
        [sys.executable, "-m", "syncclip", command.encode(), *words], cwd=world, capture_output=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if line.startswith(b"syncclip: ")]
    assert done.returncode == 2 and len(said) == 1 and b"Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("home", ["/proc", "/proc/none"], ids=["read-only", "missing"])
def test_a_home_that_takes_nothing_is_one_line_at_most(world: Path, tmp_path: Path, home: str) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    values = ["training.data=real", "training.method=ivlp", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-m", "syncclip", "train", "tiny.yaml", *values]
    done = subprocess.run(command, cwd=world, env={**own, "HOME": home}, capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if line.startswith("syncclip: ")]
    assert (done.returncode, len(said)) in ((0, 0), (2, 1)) and "Traceback" not in done.stderr, done.stderr
