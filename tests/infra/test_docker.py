"""The Dockerfile: hadolint, existing sources, locked dependencies, and its install steps, without a container engine.

The install steps run offline, with the dependencies of this environment.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from scripts import constraints
from tests.infra.image import DOCKER, ROOT, copy_context, install
from tests.infra.manifests import cluster, pods

TEXT = (DOCKER / "Dockerfile").read_text()
IGNORED = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]


def pins() -> dict[str, Version]:
    """Distribution -> version in the constraints."""
    lines = (DOCKER / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {name: Version(version) for name, version in pairs}


def requirements(extra: str = "") -> list[Requirement]:
    """Dependencies of the package or of an extra."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return [Requirement(line) for line in lines]


def test_hadolint_reports_no_problem() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([str(hadolint), str(DOCKER / "Dockerfile")], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "")


def test_copied_files_exist_and_are_in_the_build_context() -> None:
    copied = [name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", TEXT, re.MULTILINE) for name in line.split()]

    assert copied
    assert {name for name in copied if not (ROOT / name).exists()} == set()
    assert {name for name in copied if f"!{name}" not in IGNORED} == set()


def test_the_image_has_the_user_and_the_ray_of_the_pods() -> None:
    (user,) = re.findall(r"^USER (\d+)$", TEXT, re.MULTILINE)

    assert {spec["securityContext"]["runAsUser"] for spec in pods(cluster("nvidia")).values()} == {int(user)}
    assert pins()["ray"] == Version(cluster("nvidia")["spec"]["rayVersion"])


@pytest.mark.parametrize("extra", ["", "s3", "gcs", "serve"])
def test_each_dependency_is_locked_within_its_range(extra: str) -> None:
    locked = pins()
    for requirement in requirements(extra):
        assert requirement.specifier.contains(locked[requirement.name.lower().replace("_", "-")]), requirement


def test_constraints_omit_the_dependencies_that_pytorch_pins() -> None:
    versions = {"syncclip": "0.1.0", "Torch": "2.13.0+cpu", "nvidia-nccl-cu13": "2.3", "triton": "3", "Jinja2": "3.1"}
    report = {"install": [{"metadata": {"name": name, "version": pin}} for name, pin in versions.items()]}
    assert constraints.lines(report) == ["jinja2==3.1", "torch==2.13.0"]
    assert constraints.FILE.read_text(encoding="utf-8").startswith(constraints.HEAD)


@pytest.mark.parametrize("stage", ["cpu", "gpu"])
def test_every_installation_obeys_the_constraints(stage: str) -> None:
    (part,) = re.findall(rf"AS build-{stage}\n(.*?)\nFROM", TEXT, re.DOTALL)
    installs = re.findall(r"pip install .*", part)

    assert len(installs) == 2
    assert all("--constraint constraints.txt" in line for line in installs)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("stage", ["cpu", "gpu"])
def test_the_install_steps_install_a_working_command(stage: str, tmp_path: Path) -> None:
    context = copy_context(tmp_path / "context")
    pins = [f"{name}=={version(name)}\n" for name in ("torch", "torchvision")]
    (context / "infra" / "docker" / "constraints.txt").write_text("".join(pins))
    dependencies = tmp_path / "dependencies"
    dependencies.mkdir()
    for entry in Path(pytest.__file__).parents[1].iterdir():
        if "syncclip" not in entry.name:
            (dependencies / entry.name).symlink_to(entry)
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_CONFIG_FILE": os.devnull}
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "PYTHONPATH": str(dependencies), **offline}

    install(f"build-{stage}", context, tmp_path, environment)

    (command,) = re.findall(r"^CMD (.*)$", TEXT, re.MULTILINE)
    program, *arguments = json.loads(command)
    done = subprocess.run([str(tmp_path / "opt" / "syncclip" / "bin" / program), *arguments], env=environment)
    assert done.returncode == 0
    (installed,) = (tmp_path / "opt" / "syncclip").glob("lib/python*/site-packages/syncclip")
    assert (installed / "embedded" / "NOTICE").is_file()
    assert not (installed / "embedded" / "scripts").exists()
