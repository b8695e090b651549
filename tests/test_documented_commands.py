"""Every command that the README and the documentation show is accepted as it is."""

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


def commands() -> Iterator[str]:
    """What follows `syncclip` in the fenced and indented blocks of all pages, without comments."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        fenced = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        for line in [*"\n".join(fenced).splitlines(), *re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)]:
            found = re.match(r" *(?:\.venv/bin/)?syncclip (.*)", line)
            if found:
                yield shlex.join(shlex.split(found[1], comments=True))


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_a_command_that_is_shown_is_accepted(line: str) -> None:
    words, command = shlex.split(line), get_command(app)
    while members := getattr(command, "commands", None):
        assert words[0] in members, f"there is no command {words[0]!r}"
        command = members[words.pop(0)]
    name = str(command.name)

    given: dict[str, Any] = command.make_context(name, words).params

    overrides = given.get("overrides") or []
    if "protocol" in given or given.get("job") == "reproduce":
        protocol = given.get("protocol") or given["recipe"]
        datasets, methods = given["dataset"] or [], given["method"] or []
        assert Request(protocol, given["root"], datasets, methods, overrides=overrides).recipes()
    elif given.get("job") == "classify":
        assert given["recipe"] and len(overrides) == 1, "a run and its shards"
    elif given.get("recipe", "x.yaml").endswith(".yaml"):
        Recipe.of_defaults(overrides)
    else:
        Recipe.load(given["recipe"], overrides)


def test_the_pages_show_most_commands() -> None:
    shown = {line.partition(" ")[0] for line in commands()}
    assert {"init", "plan", "synth", "train", "study", "reproduce", "shards", "datasets", "submit"} <= shown
