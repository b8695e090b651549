"""Every damage to every file is reported by `verify`, and by each command whose result it would change."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncclip.verify import verify
from tests.attack.damage import KINDS, Victim, attack, files_of, first_of_each_kind, make_folders

pytestmark = [pytest.mark.attack, pytest.mark.fault, pytest.mark.slow]

FOLDERS = ["set", "run", "study", "packed", "export", "set export", "predictions", "teacher", "captions"]
UNKNOWN_OWNER = {"verify: captions.json: exchanged"}
"""Captions belong to the recipe that refers to them, so commands compare the writer, and `verify` does not."""


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Victim]:
    """The folders, which each test restores."""
    return make_folders(tmp_path_factory.mktemp("damage"))


@pytest.mark.parametrize("name", FOLDERS)
def test_an_intact_folder_has_no_problems_and_no_foreign_files(victims: dict[str, Victim], name: str) -> None:
    problems: list[str] = []
    result = verify(str(victims[name].folder), problems.append)
    assert (problems, result.problems) == ([], [])
    assert name == "predictions" or result.foreign == []
    assert result.files >= len(files_of(victims[name].folder))


@pytest.mark.parametrize("name", FOLDERS)
def test_every_command_reports_every_damage(victims: dict[str, Victim], name: str) -> None:
    tallies = attack(victims[name], 20, True, first_of_each_kind(victims[name], 2))
    assert sum(tally.tried for tally in tallies.values()) > len(KINDS)
    silent = {
        f"{command}: {Path(file).name}: {kind}" for tally in tallies.values() for command, file, kind in tally.silent
    }
    assert silent <= UNKNOWN_OWNER
