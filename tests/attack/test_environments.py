"""Any locale, time zone, home, umask and folder name: the same bytes, or an error of one line."""

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
NAMES = ["é", "日本", "two spaces ", "#?%[*", "a\nb", "-dash", "'\"$HOME"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study_world(tmp_path_factory.mktemp("world"))


def visited(world: Path, folder: Path, names: list[str], **variables: str) -> dict[str, dict[str, Any]]:
    """Results of the five commands in subfolders of an empty folder, in a process with these variables."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "LC_", "PYTHON"))}
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.attack.environments", str(world), str(folder / "result"), *names],
        env={**inherited, "PYTHONPATH": str(Path(__file__).parents[2]), **variables},
        cwd=folder,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
    results: dict[str, dict[str, Any]] = json.loads((folder / "result").read_text(encoding="utf-8"))
    return results


@pytest.fixture(scope="module")
def names(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Folders of all names on a shared Ray; `plain` is the reference."""
    return visited(world, tmp_path_factory.mktemp("names") / "work", ["plain", *NAMES])


def check(results: dict[str, Any], plain: dict[str, Any]) -> None:
    assert [results[command][0] for command in COMMANDS] == [0] * len(COMMANDS), results
    assert results["checksums"] == plain["checksums"]


@pytest.mark.parametrize("name", ["plain", *NAMES], ids=ascii)
def test_folders_of_any_name(names: dict[str, dict[str, Any]], name: str) -> None:
    check(names[name], names["plain"])


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_environments(world: Path, names: dict[str, dict[str, Any]], tmp_path: Path, environment: str) -> None:
    results = visited(world, tmp_path / "work", ["plain"], **ENVIRONMENTS[environment])["plain"]
    check(results, names["plain"])
    if environment == "umask 077":
        assert results["modes"] == ["0o600"]


@pytest.mark.parametrize("command", ["train", "synth", "study", "status", "report"])
def test_an_undecodable_name_is_one_line(world: Path, tmp_path: Path, command: str) -> None:
    path = b"runs/%s\xff" % command.encode()
    words = [path] if command in ("status", "report") else [b"tiny.yaml", b"--out", path]
    done = subprocess.run(
        [sys.executable, "-m", "syncclip", command.encode(), *words], cwd=world, capture_output=True, check=False
    )
    messages = [line for line in done.stderr.splitlines() if line.startswith(b"syncclip: ")]
    assert done.returncode == 2 and len(messages) == 1 and b"Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("home", ["/proc", "/proc/none"], ids=["read-only", "missing"])
def test_an_unwritable_home_is_at_most_one_line(world: Path, tmp_path: Path, home: str) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    values = ["training.data=real", "training.method=ivlp", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-m", "syncclip", "train", "tiny.yaml", *values]
    done = subprocess.run(
        command, cwd=world, env={**inherited, "HOME": home}, capture_output=True, text=True, check=False
    )
    messages = [line for line in done.stderr.splitlines() if line.startswith("syncclip: ")]
    assert (done.returncode, len(messages)) in ((0, 0), (2, 1)) and "Traceback" not in done.stderr, done.stderr
