"""Every flip of a bit in a set, a run, a study or a packed dataset is found by `verify`, and none changes a result."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from syncclip.studies.verify import verify
from tests.attack.flips import attack, files_of, flipped, make_folders

pytestmark = pytest.mark.fault

TOLD_BY_NOTHING = re.compile(
    r"\d+_rejects\.parquet|(index|stats|summary|status|progress|packing|shift|cell|step-\d+)\.json|events\.out\..*"
    r"|synthesis\.yaml|features\.parquet|report\.html"
)
"""Files that no result rests on, or that may not have been written yet."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each test leaves the bytes as they were."""
    return make_folders(tmp_path_factory.mktemp("flips"))


@pytest.mark.parametrize("name", ["set", "study", "packed"])
def test_a_sound_folder_has_no_problem_and_every_file_a_digest(folders: dict[str, Path], name: str) -> None:
    told: list[str] = []
    found = verify(str(folders[name]), told.append)
    assert (told, found.problems, found.without) == ([], [], [])
    assert found.files >= len(files_of(folders[name])), "empty ones are read as well"


@pytest.mark.parametrize("name", ["set", "study", "packed"])
def test_no_flip_is_silent(folders: dict[str, Path], name: str) -> None:
    tallies = attack(folders[name], verified=8, used=3)
    assert {kind: tally.silent for kind, tally in tallies.items() if tally.silent} == {}
    assert sum(tally.verified for tally in tallies.values()) == 8 * len(files_of(folders[name]))


@pytest.mark.parametrize("name", ["set", "study", "packed"])
def test_verify_names_each_file_that_is_damaged(folders: dict[str, Path], name: str) -> None:
    kinds = {file.name: file for file in files_of(folders[name])}
    for file in kinds.values():
        data = file.read_bytes()
        try:
            file.write_bytes(flipped(data, 8 * (len(data) // 2)))
            told: list[str] = []
            verify(str(folders[name]), told.append)
            assert told and all(file.name.partition("_")[0].partition(".")[0] in sentence for sentence in told), file
        finally:
            file.write_bytes(data)


@pytest.mark.parametrize("name", ["set", "study", "packed"])
def test_verify_misses_each_file_that_is_removed(folders: dict[str, Path], name: str) -> None:
    silent = set()
    for file in files_of(folders[name]):
        data = file.read_bytes()
        file.unlink()
        told: list[str] = []
        verify(str(folders[name]), told.append)
        silent |= {*([] if told else [file.name])}
        file.write_bytes(data)
    assert {one for one in silent if not TOLD_BY_NOTHING.fullmatch(one)} == set()


@pytest.mark.attack
@pytest.mark.parametrize("name", ["set", "study", "packed"])
def test_no_flip_of_thousands_is_silent(folders: dict[str, Path], name: str) -> None:
    tallies = attack(folders[name], verified=300, used=50, thorough=True)
    assert {kind: tally.silent for kind, tally in tallies.items() if tally.silent} == {}
