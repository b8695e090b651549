"""The wheel contains all files of the package, and the citation is of its version."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from importlib.metadata import metadata
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def test_the_wheel_contains_exactly_the_package_and_its_licences(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = tmp_path.glob("*.whl")
    wheel = set(zipfile.ZipFile(built).namelist())
    package = {name for name in wheel if ".dist-info/" not in name}
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "syncclip").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    assert files - package == set()
    assert {name.split("/")[0] for name in package} == {"syncclip"}
    assert {"syncclip/py.typed", "syncclip/recipe/shipped/icons.yaml", "syncclip/embedded/NOTICE"} <= package
    licences = {name.partition(".dist-info/licenses/")[2] for name in wheel if ".dist-info/licenses/" in name}
    assert licences == {"LICENSE", "syncclip/embedded/NOTICE", "syncclip/reports/assets/inter.LICENSE"}


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    package = metadata("syncclip")
    assert (citation["version"], citation["license"]) == (package["Version"], package["License-Expression"])


@pytest.mark.parametrize("extra", ["default,train,data", "serve"])
def test_every_permitted_version_of_ray_supports_token_authentication(extra: str) -> None:
    (minimum,) = re.findall(rf"ray\[{extra}\]>=(\d+)\.(\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert (int(minimum[0]), int(minimum[1])) >= (2, 52)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "Makefile"])
def test_the_programs_that_make_test_installs_are_announced(name: str) -> None:
    text = " ".join((ROOT / name).read_text(encoding="utf-8").split())
    assert re.search(r"as root,?[^.]* installs [^.]*apt-get", text)
