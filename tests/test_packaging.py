"""What is installed and cited: the wheel holds all that is needed at run time. Imports are checked by deptry."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import metadata
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(built).namelist())


def test_the_wheel_holds_every_file_of_the_package(wheel: set[str]) -> None:
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "syncclip").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }

    assert files - wheel == set()
    assert {"syncclip/py.typed", "syncclip/recipe/shipped/icons.yaml", "syncclip/embedded/NOTICE"} <= wheel


def test_the_wheel_holds_all_licences_and_the_notice(wheel: set[str]) -> None:
    licences = {name.partition(".dist-info/licenses/")[2] for name in wheel if ".dist-info/licenses/" in name}

    assert licences == {"LICENSE", "syncclip/embedded/NOTICE", "syncclip/reports/assets/inter.LICENSE"}


def test_the_wheel_holds_nothing_but_the_package(wheel: set[str]) -> None:
    assert {name.split("/")[0] for name in wheel if ".dist-info/" not in name} == {"syncclip"}


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))

    assert (cited["version"], cited["license"]) == (
        metadata("syncclip")["Version"],
        metadata("syncclip")["License-Expression"],
    )
