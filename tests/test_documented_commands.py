"""Every command in the README and the documentation is valid."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from syncclip.cli.app import app
from syncclip.protocols.run import Request
from syncclip.recipe.recipe import Recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> Iterator[str]:
    """Arguments of `syncclip` in the code blocks of all pages, without comments."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        fenced = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        for line in [*"\n".join(fenced).splitlines(), *re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)]:
            if match := re.match(r" *(?:\.venv/bin/)?syncclip (.*)", line):
                yield shlex.join(shlex.split(match[1], comments=True))


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_a_documented_command_is_valid(line: str) -> None:
    words, command = shlex.split(line), get_command(app)
    while members := getattr(command, "commands", None):
        assert words[0] in members, f"there is no command {words[0]!r}"
        command = members[words.pop(0)]
    name = str(command.name)

    arguments: dict[str, Any] = command.make_context(name, words).params

    overrides = arguments.get("overrides") or []
    if "protocol" in arguments or arguments.get("job") == "reproduce":
        protocol = arguments.get("protocol") or arguments["recipe"]
        datasets, methods = arguments["dataset"] or [], arguments["method"] or []
        assert Request(protocol, arguments["root"], datasets, methods, overrides=overrides).recipes()
    elif arguments.get("job") == "classify":
        assert arguments["recipe"] and len(overrides) == 1, "a run and its shards"
    elif arguments.get("recipe", "x.yaml").endswith(".yaml"):
        Recipe.of_defaults(overrides)
    else:
        Recipe.load(arguments["recipe"], overrides)


def test_most_commands_are_documented() -> None:
    shown = {line.partition(" ")[0] for line in commands()}
    assert {"init", "plan", "synth", "train", "study", "reproduce", "shards", "datasets", "submit"} <= shown


def blocks(kind: str) -> Iterator[str]:
    """The fenced blocks of a language in all pages of the repository, with continuation lines joined."""
    for page in [*PAGES, *ROOT.glob("*.md"), *(ROOT / "cluster").rglob("*.md"), *(ROOT / "infra").rglob("*.md")]:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        yield from re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


SOURCES = [
    file
    for pattern in ("*.md", "docs/**/*.md", "syncclip/**/*.py", "examples/*.ipynb", "cluster/**/*", "infra/**/*")
    for file in sorted(ROOT.glob(pattern))
    if file.is_file() and "__pycache__" not in file.parts
]


def test_commands_do_not_install_from_the_package_index() -> None:
    """The package is not released yet; only the installation page shows the command for a release."""
    wrong = re.compile(r"pip install (?:-\S+ )*[\"']?syncclip\b")
    sources = [file for file in SOURCES if file.name != "installation.md"]

    assert [file for file in sources if wrong.search(file.read_text(encoding="utf-8"))] == []
    assert wrong.search("pip install -U 'syncclip[s3]'") and wrong.search("pip install syncclip")


def test_ray_stop_is_documented_as_stopping_all_ray_processes_of_the_account() -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines() if re.match(r" *ray stop\b", line)]

    assert lines and all("all Ray processes of your account" in line for line in lines)


@pytest.mark.parametrize("file", sorted((ROOT / "cluster").glob("*.yaml")), ids=lambda file: file.name)
def test_a_cluster_file_for_your_own_machines_announces_that_ray_stop_stops_all(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    warned = "all Ray processes of the account" in " ".join(text.replace("\n#", "").split())
    assert warned or "ray stop" not in text or "type: local" not in text


def documented_trainings() -> Iterator[tuple[str, list[str]]]:
    """(recipe, overrides) of every training and study in pages, docstrings and notebooks."""
    for line in commands():
        words = shlex.split(line)
        words = words[1:] if words[0] == "submit" else words
        if words[0] in ("train", "study", "tune") and len(words) > 1:
            yield words[1], [word for word in words[2:] if re.match(r"[\w.]+=", word)]
    for file in [*ROOT.glob("syncclip/**/*.py"), *ROOT.glob("examples/*.ipynb")]:
        text = file.read_text(encoding="utf-8")
        for epochs in re.findall(r"(?<!\w)training\.epochs=\d+", text):
            yield "travel", [epochs]
    for block in blocks("yaml"):
        for epochs, warmup in re.findall(r"epochs: (\d+)\b(?:.*warmup_epochs: (\d+))?", block):
            yield "travel", [f"training.epochs={epochs}", *([f"training.warmup_epochs={warmup}"] if warmup else [])]
    yield from ((file.stem, []) for file in ROOT.glob("syncclip/recipe/shipped/*.yaml"))


@pytest.mark.parametrize(("recipe", "overrides"), documented_trainings())
def test_a_documented_training_is_longer_than_its_warmup(recipe: str, overrides: list[str]) -> None:
    is_file = recipe.endswith(".yaml")
    training = (Recipe.of_defaults(overrides) if is_file else Recipe.load(recipe, overrides)).training
    assert training.epochs > training.warmup_epochs


def cluster_jobs() -> dict[str, dict[str, str]]:
    """Job -> options in the README's block that submits jobs to a cluster; options are overrides and `out`."""
    (block,) = (block for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) if "ray job submit" in block)
    lines = re.findall(r"python ray_jobs/(\w+)\.py (.*)", block.replace("\\\n", " "))
    return {
        job: dict(word.removeprefix("--").split("=", 1) for word in rest.replace("--out ", "--out=").split()[1:])
        for job, rest in lines
    }


def test_jobs_of_the_readme_write_to_different_folders() -> None:
    jobs = cluster_jobs()
    assert {"synth", "train", "study"} <= set(jobs)
    assert len({options["out"] for options in jobs.values()}) == len(jobs)


@pytest.mark.parametrize("job", ["synth", "train", "study"])
def test_nodes_can_read_the_inputs_of_the_readmes_jobs(job: str) -> None:
    jobs = cluster_jobs()
    assert jobs[job]["dataset.name"].startswith("s3://")
    assert job == "synth" or jobs[job]["training.synthetic"] == jobs["synth"]["out"]


@pytest.mark.parametrize("first", ["syncclip shards pack", "RAY_AUTH_MODE=token"])
def test_requirements_of_the_readmes_jobs_precede_them(first: str) -> None:
    assert -1 < README.find(first) < README.index("ray job submit")
