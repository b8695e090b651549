"""The image's recipe: clean by hadolint, made of what is there, its install steps run. No container engine is at hand.

The steps are run here without a registry: beside the package there is what the tests themselves run with. That they
fetch what the constraints lock, `tests/infra/image.py` shows; it takes minutes and gigabytes.
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
from tests.infra.image import DOCKER, ROOT, install, lay_context
from tests.infra.manifests import cluster, pods

TEXT = (DOCKER / "Dockerfile").read_text()
IGNORED = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]


def pins() -> dict[str, Version]:
    """Distribution -> the version that the constraints lock."""
    lines = (DOCKER / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {name: Version(version) for name, version in pairs}


def requirements(extra: str = "") -> list[Requirement]:
    """What the package declares, by its project file, for an installation with an extra."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return [Requirement(line) for line in lines]


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([str(hadolint), str(DOCKER / "Dockerfile")], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "")


def test_what_it_copies_is_there_and_reaches_the_builder() -> None:
    copied = [name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", TEXT, re.MULTILINE) for name in line.split()]

    assert copied
    assert {name for name in copied if not (ROOT / name).exists()} == set()
    assert {name for name in copied if f"!{name}" not in IGNORED} == set()


def test_every_stage_that_is_copied_from_is_one() -> None:
    stages = set(re.findall(r"^FROM .* AS (\S+)$", TEXT, re.MULTILINE))

    assert set(re.findall(r"^COPY --from=(\S+)", TEXT, re.MULTILINE)) <= stages
    assert {"cpu", "gpu"} <= stages


def test_its_user_is_the_one_that_pods_run_as() -> None:
    (user,) = re.findall(r"^USER (\d+)$", TEXT, re.MULTILINE)

    assert {spec["securityContext"]["runAsUser"] for spec in pods(cluster("nvidia")).values()} == {int(user)}


def test_the_image_has_the_ray_that_kubernetes_is_told() -> None:
    assert pins()["ray"] == Version(cluster("nvidia")["spec"]["rayVersion"])


@pytest.mark.parametrize("extra", ["", "s3", "gcs", "serve"])
def test_each_dependency_is_locked_within_its_range(extra: str) -> None:
    locked = pins()
    wrong = {
        str(one): locked.get(one.name.lower().replace("_", "-"))
        for one in requirements(extra)
        if not one.specifier.contains(locked.get(one.name.lower().replace("_", "-"), Version("0")))
    }

    assert wrong == {}


def test_the_constraints_are_what_pip_reports_less_what_pytorch_pins_itself() -> None:
    versions = {"syncclip": "0.1.0", "Torch": "2.13.0+cpu", "nvidia-nccl-cu13": "2.3", "triton": "3", "Jinja2": "3.1"}
    report = {"install": [{"metadata": {"name": name, "version": its}} for name, its in versions.items()]}
    assert constraints.lines(report) == ["jinja2==3.1", "torch==2.13.0"]
    assert constraints.FILE.read_text(encoding="utf-8").startswith(constraints.HEAD)


@pytest.mark.parametrize("stage", ["cpu", "gpu"])
def test_every_installation_obeys_the_constraints(stage: str) -> None:
    (part,) = re.findall(rf"AS build-{stage}\n(.*?)\nFROM", TEXT, re.DOTALL)
    installs = re.findall(r"pip install .*", part)

    assert len(installs) == 2
    assert all("--constraint constraints.txt" in line for line in installs)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["cpu", "gpu"])
def test_the_install_steps_give_a_command_that_runs(stage: str, tmp_path: Path) -> None:
    context = lay_context(tmp_path / "context")
    pins = [f"{name}=={version(name)}\n" for name in ("torch", "torchvision")]
    (context / "infra" / "docker" / "constraints.txt").write_text("".join(pins))
    # What this environment holds, less the package.
    around = tmp_path / "around"
    around.mkdir()
    for entry in Path(pytest.__file__).parents[1].iterdir():
        if "syncclip" not in entry.name:
            (around / entry.name).symlink_to(entry)
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_CONFIG_FILE": os.devnull}
    surroundings = {"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "PYTHONPATH": str(around), **offline}

    install(f"build-{stage}", context, tmp_path, surroundings)

    (command,) = re.findall(r"^CMD (.*)$", TEXT, re.MULTILINE)
    program, *arguments = json.loads(command)
    told = subprocess.run([str(tmp_path / "opt" / "syncclip" / "bin" / program), *arguments], env=surroundings)
    assert told.returncode == 0
    (installed,) = (tmp_path / "opt" / "syncclip").glob("lib/python*/site-packages/syncclip")
    assert (installed / "embedded" / "NOTICE").is_file()
    assert not (installed / "embedded" / "scripts").exists()
