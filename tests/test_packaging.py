"""What is installed: the wheel holds all that the package needs at run time, and every import is a declared one."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = [path for folder in ("syncclip", "ray_jobs") for path in sorted((ROOT / folder).rglob("*.py"))]


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


def test_the_wheel_holds_the_licence_and_the_notice(wheel: set[str]) -> None:
    licences = {name.partition(".dist-info/licenses/")[2] for name in wheel if ".dist-info/licenses/" in name}

    assert licences == {"LICENSE", "syncclip/embedded/NOTICE"}


def test_the_wheel_holds_nothing_but_the_package(wheel: set[str]) -> None:
    assert {name.split("/")[0] for name in wheel if ".dist-info/" not in name} == {"syncclip"}


def test_every_import_is_a_declared_dependency() -> None:
    declared = declared_distributions()
    homes = packages_distributions()
    undeclared = {
        f"{module} in {path.relative_to(ROOT)}"
        for path in CODE
        for module in imported(path)
        if module not in sys.stdlib_module_names
        and module != "syncclip"
        and not {normal(home) for home in homes.get(module, [module])} & declared
    }

    assert undeclared == set()


def declared_distributions() -> set[str]:
    """Names in `dependencies` and in all extras but `dev`."""
    wanted = [entry for entry in requires("syncclip") or [] if "extra == 'dev'" not in entry.replace('"', "'")]
    return {normal(re.split(r"[\[<>=!~; ]", entry)[0]) for entry in wanted}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(path: Path) -> set[str]:
    """Top-level names of what a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found
