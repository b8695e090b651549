"""A downloaded folder that contains code and refers to it: no command runs it without `--trust`."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from syncclip import jobs, storage
from syncclip.cli import app
from syncclip.core.session import current
from syncclip.core.trust import trusted
from syncclip.recipe.recipe import Recipe
from tests.conftest import TinyWorld
from tests.synthetic_sets.test_repair import generate_here

NAME = "planted:Planted"
CODE = """
import os, pathlib
pathlib.Path(os.environ["CANARY"]).touch()
import diffusers
from syncclip.methods.coop import CoOp
class Planted(CoOp): pass
"""
SHADOWS = ("yaml", "numpy", "torch", "pandas", "pyarrow", "ray", "diffusers", "wandb", "mlflow", "peft", "xformers")
"""Modules that a command or a worker imports, and that a file in the working directory could replace."""


@pytest.fixture(scope="module")
def honest(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its synthetic set."""
    folder = tmp_path_factory.mktemp("honest")
    recipe = Recipe.load(tiny.recipe, ["training.method=coop", "training.data=real", "training.epochs=1"])
    jobs.run_here(recipe, str(folder))
    generate_here(jobs.plan(recipe), str(folder / "synthetic"))
    return folder


def forge(path: Path, text: str) -> None:
    """Write a file with a valid checksum."""
    run = path.parent / "run.json"
    owner = storage.read_owner(str(run)) if run.exists() else storage.NOBODY
    storage.write_with_checksum(str(path), text.encode(), owner=owner)


@pytest.fixture
def downloaded(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, as the working directory, with code that its recipe, plan and study refer to."""
    folder = shutil.copytree(honest, tmp_path / "downloaded")
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["training"]["method"] = NAME
    recipe["synthesis"]["generator"]["pipeline_class"] = NAME
    recipe["study"]["configurations"] = [{"method": NAME, "data": "real"}]
    plan = json.loads((folder / "synthetic/plan.json").read_text())
    plan["generator"]["pipeline_class"] = NAME
    plan.pop("checksum", None)
    for parent in (folder, folder / "synthetic", folder / "study"):
        parent.mkdir(exist_ok=True)
        (parent / "planted.py").write_text(CODE)
        for name in ("recipe.yaml", "synthesis.yaml"):
            forge(parent / name, yaml.safe_dump(recipe))
    forge(folder / "synthetic/plan.json", json.dumps(plan))
    forge(folder / "study/study.json", "{}")
    tar = next((folder / "synthetic").glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-512])
    (tmp_path / "mine.yaml").write_text(f"extends: {folder}/recipe.yaml\n")
    monkeypatch.setenv("CANARY", str(tmp_path / "canary"))
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "planted", raising=False)
    return folder


RECIPES = ("recipe.yaml", "synthetic/synthesis.yaml", "study/recipe.yaml", "../mine.yaml")
WITH_RECIPE = (
    *("plan", "plan --probe", "captions", "synth --out=../s", "train --out=../r", "study --out=../t"),
    "tune --out=../c",
)
COMMANDS = (
    *("evaluate .", "status .", "report .", "report study", "prompts show .", "prompts export . --out ../e"),
    *("prompts import . recipe.yaml", "shards ls synthetic", "shards verify synthetic", "shards show synthetic"),
    *("shards verify synthetic --repair", "shards quality synthetic", "shards merge synthetic synthetic --out ../m"),
    *("shards export synthetic --to folder --out ../x", "shards pack recipe.yaml --out ../p", "init . --out ../i.yaml"),
    *("shards import synthetic icons --out ../j", "datasets check recipe.yaml", "submit train recipe.yaml --shared"),
    *("submit synth recipe.yaml --shared", "submit study study/recipe.yaml --shared"),
    *(f"{command} {recipe}" for command in WITH_RECIPE for recipe in RECIPES),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_runs_what_a_downloaded_folder_names(
    downloaded: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(SystemExit):
        app.run(command.split())
    assert not (downloaded.parent / "canary").exists(), capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "location"),
    [
        ("evaluate .", "downloaded/recipe.yaml: training.method"),
        ("prompts show .", "downloaded/recipe.yaml: training.method"),
        ("prompts export .", "downloaded/recipe.yaml: training.method"),
        ("train recipe.yaml", "recipe.yaml: training.method"),
        ("study study/recipe.yaml", "study/recipe.yaml: training.method"),
        ("synth recipe.yaml training.method=coop", "recipe.yaml: synthesis.generator.pipeline_class"),
        ("train ../mine.yaml", "mine.yaml: training.method"),
        (
            "shards verify synthetic --repair training.method=coop",
            "synthetic/plan.json: generator.pipeline_class",
        ),
    ],
)
def test_the_refusal_names_file_key_and_name(
    downloaded: Path, command: str, location: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(command.split()) == 2
    error = capsys.readouterr().err
    assert f"{location}: {NAME!r} is custom code" in error and f"--trust {NAME}" in error


def test_the_error_of_an_untrusted_recipe_contains_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The user's own recipe may be in a folder of results, too."""
    (tmp_path / "plan.json").touch()
    for text, key in ((f"training: {{method: '{NAME}'}}", "custom code"), ("name: ${oc.env:HOME}", "resolvers")):
        (tmp_path / "own.yaml").write_text(text)
        assert app.run(["plan", str(tmp_path / "own.yaml")]) == 2
        error = capsys.readouterr().err
        assert key in error and str(tmp_path / "plan.json") in error


@pytest.mark.parametrize(
    "words",
    [
        ["classify", ".", f"--trust={NAME}.jpg"],
        ["classify", ".", "a.jpg", f"--trust={NAME}", "z.jpg"],
        ["classify", ".", "--", f"--trust={NAME}"],
        ["classify", ".", "--", "--trust", NAME],
        ["evaluate", ".", "--trust", NAME],
        ["shards", "merge", "synthetic", f"--trust={NAME}", "--out", "../m"],
        ["report", "--", f"--trust={NAME}"],
    ],
)
def test_no_file_name_grants_trust(downloaded: Path, words: list[str]) -> None:
    """A shell may expand `*` to such file names."""
    for word in words:
        if word.startswith("--trust="):
            (downloaded / word).touch()
    assert app.run(words) != 0
    assert trusted() == ()
    assert not (downloaded.parent / "canary").exists()


@pytest.mark.parametrize("command", [f"--trust {NAME} evaluate .", f"--trust={NAME} evaluate ."])
def test_the_exact_name_can_be_trusted_on_the_command_line(downloaded: Path, command: str) -> None:
    assert app.run(["--trust", "planted:Other", "evaluate", "."]) == 2
    assert not (downloaded.parent / "canary").exists()
    assert app.run(command.split()) == 0
    assert (downloaded.parent / "canary").exists()


@pytest.fixture
def project(tiny: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a method of the user's own and a run of it."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "planted.py").write_text("from syncclip.methods.coop import CoOp\nclass Planted(CoOp): pass\n")
    (folder / "own.yaml").write_text(f"extends: {tiny.recipe}\ntraining: {{method: '{NAME}', data: real, epochs: 1}}\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CANARY", str(tmp_path / "canary"))
    forget(monkeypatch)
    with current().copy():
        jobs.run_here(Recipe.load("own.yaml"), "run")
    forget(monkeypatch)
    return folder


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next command import the method again."""
    monkeypatch.delitem(sys.modules, "planted", raising=False)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if not Path(folder, "planted.py").exists()])
    importlib.invalidate_caches()


@pytest.mark.parametrize("command", ["evaluate run", "prompts show run"])
def test_a_run_of_ones_own_needs_no_trust(project: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(command.split()) == 0, capsys.readouterr().err


@pytest.mark.parametrize("change", ["code", "copy", "user"])
def test_changed_or_copied_code_needs_trust(
    project: Path, change: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if change == "code":
        (project / "planted.py").write_text(CODE)
    elif change == "copy":
        monkeypatch.chdir(shutil.copytree(project, project.parent / "cloned"))
    else:
        monkeypatch.setenv("XDG_STATE_HOME", str(project.parent / "of-another-user"))
    assert app.run(["evaluate", "run"]) == 2
    reason = "has changed since you ran it" if change == "code" else "is custom code"
    assert f"{NAME!r} {reason}" in capsys.readouterr().err
    assert not (project.parent / "canary").exists()


def test_a_strangers_run_that_names_ones_own_class_runs_no_code_of_the_stranger(
    project: Path, downloaded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(downloaded)
    assert app.run(["evaluate", "."]) == 2
    monkeypatch.chdir(project)
    app.run(["evaluate", str(downloaded)])
    assert not (project.parent / "canary").exists()


def test_a_recipe_of_ones_own_finds_no_code_in_a_downloaded_folder(
    downloaded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = downloaded.parent / "own.yaml"
    own.write_text(f"training: {{method: '{NAME}'}}\n")
    assert app.run(["train", str(own)]) == 2
    error = capsys.readouterr().err
    assert "is a results folder (it contains run.json), from which modules are only imported with --trust" in error
    assert not (downloaded.parent / "canary").exists()


def test_a_downloaded_recipe_does_not_read_the_environment(
    downloaded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(downloaded / "recipe.yaml", "training: {mlflow_uri: 'http://host/${oc.env:CANARY}'}\n")
    for command in ("evaluate .", "plan recipe.yaml", "plan ../mine.yaml"):
        assert app.run(command.split()) == 2
        assert "resolvers" in capsys.readouterr().err
    (downloaded / "recipe.yaml").write_text("")
    assert app.run(["evaluate", "."]) == 2
    assert "recipe.yaml is corrupt" in capsys.readouterr().err


@pytest.mark.parametrize(
    "base", ["/home/me/mine.yaml", "~/mine.yaml", "../mine.yaml", "s3://bucket/mine.yaml", "a/../../b"]
)
def test_a_downloaded_recipe_extends_no_file_elsewhere(
    downloaded: Path, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(downloaded / "recipe.yaml", f"extends: {base}\n")
    assert app.run(["evaluate", "."]) == 2
    assert "only your own recipes may extend files outside their folder" in capsys.readouterr().err


@pytest.mark.attack
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("command", ["evaluate . evaluation.workers=1", "synth ../own.yaml --out ../set"])
def test_neither_a_command_nor_its_workers_find_modules_in_the_working_folder(
    downloaded: Path, tiny: TinyWorld, command: str
) -> None:
    for name in SHADOWS:
        (downloaded / f"{name}.py").write_text(CODE.splitlines()[1] + "\n" + CODE.splitlines()[2] + "\n")
    (downloaded.parent / "own.yaml").write_text(f"extends: {tiny.recipe}\n")
    recipe = yaml.safe_load((downloaded / "recipe.yaml").read_text())
    recipe["training"]["method"], recipe["synthesis"]["generator"]["pipeline_class"] = "coop", None
    forge(downloaded / "recipe.yaml", yaml.safe_dump(recipe))
    done = subprocess.run(
        [sys.executable, "-m", "syncclip", *command.split()],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert not (downloaded.parent / "canary").exists(), done.stderr
    assert done.returncode == 0, done.stderr
