"""Every damage to every file is reported by `verify`, and by each command whose result it would change."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncclip.verify import verify
from tests.attack.damage import KINDS, Victim, attack, files_of, first_of_each_kind, make_folders

pytestmark = [pytest.mark.fault, pytest.mark.slow]

FOLDERS = ["set", "run", "study", "packed", "export", "set export", "predictions", "teacher", "captions"]
UNKNOWN_OWNER = {"verify: captions.json: exchanged"}
"""Captions belong to the recipe that names them, so the command that reads them compares the writer, not `verify`."""


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Victim]:
    """Each test leaves the bytes as they were."""
    return make_folders(tmp_path_factory.mktemp("damage"))


def silent(victim: Victim, flips: int, thorough: bool, count: int = 1) -> set[str]:
    """What was not noticed, with the names of files alone."""
    tallies = attack(victim, flips, thorough, first_of_each_kind(victim, count))
    assert sum(tally.tried for tally in tallies.values()) > len(KINDS)
    return {
        f"{command}: {Path(file).name}: {kind}" for tally in tallies.values() for command, file, kind in tally.silent
    }


@pytest.mark.parametrize("name", FOLDERS)
def test_a_sound_folder_has_no_problem_and_no_file_of_others(victims: dict[str, Victim], name: str) -> None:
    problems: list[str] = []
    result = verify(str(victims[name].folder), problems.append)
    assert (problems, result.problems) == ([], [])
    assert name == "predictions" or result.foreign == []
    assert result.files >= len(files_of(victims[name].folder)), "empty ones are read as well"


@pytest.mark.parametrize("name", FOLDERS)
def test_verify_reports_every_damage_to_a_file_of_each_kind(victims: dict[str, Victim], name: str) -> None:
    assert silent(victims[name], 2, False) <= UNKNOWN_OWNER


def test_every_command_reports_every_damage_to_a_run(victims: dict[str, Victim]) -> None:
    assert silent(victims["run"], 2, True) == set()


@pytest.mark.attack
@pytest.mark.parametrize("name", FOLDERS)
def test_every_command_reports_every_damage(victims: dict[str, Victim], name: str) -> None:
    assert silent(victims[name], 20, True, 2) <= UNKNOWN_OWNER
