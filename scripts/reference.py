"""The pages of reference, docs/recipe.md and docs/commands.md, from the settings classes and the command itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from typer import Context
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from syncclip.cli.app import app
from syncclip.recipe import reference

LONGEST = 60
"""Characters of a default; `syncclip recipe show` has the whole one."""

DOCS = Path(__file__).parents[1] / "docs"

KEYS = """\
# Recipes: every key

A recipe is a YAML file, or one that comes with the package; what it leaves out has the defaults below.
Command-line overrides take precedence: `syncclip train travel training.epochs=3`. The value of a text key is the text
itself (`dataset.template='{} texture.'`), that of any other key is YAML; `null` is None.

```bash
syncclip recipe ls                           # the recipes of the package
syncclip recipe show travel                  # one with every default filled in
syncclip recipe explain training.epochs      # a key, or a section with all its keys
syncclip recipe schema                       # for editors: save it as recipe.schema.json
```

With this first line in a recipe, editors that speak the YAML language server's protocol (VS Code, Neovim, JetBrains)
complete keys and mark mistakes while you type:

```yaml
# yaml-language-server: $schema=recipe.schema.json
```

`extends: other.yaml` takes all values of another recipe, which this one changes; `null` is YAML's word for None. In the
tables, `synthesis.filters[blank]` are the keys of an entry of that name,
`study.configurations[]` those of each entry of a list.

This page is made by `python -m scripts.reference` from the settings classes, and a test holds it against them.
"""


COMMANDS = """\
# Commands

Each answers `--help`; `syncclip --help` lists them all. RECIPE is a YAML file or a recipe of the package
(`syncclip recipe ls`), SECTION.KEY=VALUE one of [its keys](recipe.md). DIR and FILE are paths, or URLs that
fsspec opens. The exit status is 0 where all is done, 1 where data are broken, 2 where something has to be typed
otherwise, and 128 + the number of the signal that ended it. Options of all commands go before the command:
`syncclip --debug train icons`.

This page is made by `python -m scripts.reference` from the command itself, and a test holds it against it.
"""


def pages() -> dict[Path, str]:
    """Path -> text of each page."""
    return {DOCS / "recipe.md": recipes(), DOCS / "commands.md": COMMANDS + "".join(commands())}


def commands() -> Iterator[str]:
    """A section for each command, options of all of them first."""
    command = get_command(app)
    assert isinstance(command, TyperGroup)
    yield from _sections(command, Context(command, info_name="syncclip"))


def _sections(command: TyperCommand | TyperGroup, context: Context) -> Iterator[str]:
    """A command's section, then those of its subcommands."""
    parameters = [record for one in command.get_params(context) if (record := one.get_help_record(context))]
    rows = [(re.sub(r" <.*>$", "", name), text) for name, text in parameters if name != "--help"]
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"\n## {context.command_path}\n\n{command.help}\n\n```text\n{usage}\n```\n"
    if rows:
        yield "\n| argument or option | meaning |\n|---|---|\n"
        yield from (f"| `{_cell(name)}` | {_cell(text)} |\n" for name, text in rows)
    if isinstance(command, TyperGroup):
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            if isinstance(member, TyperCommand | TyperGroup) and not member.hidden:
                yield from _sections(member, Context(member, parent=context, info_name=name))


def recipes() -> str:
    """The page of all recipe keys."""
    keys = [key for key in reference.keys().values() if ".backbone." not in key.path]  # it has a section of its own
    parts = [KEYS]
    for section, found in groupby(keys, lambda key: key.path.partition(".")[0]):
        first, *below = found
        if not below:
            parts.append(f"\n`{first.path}`: {_cell(first.meaning)}\n")
            continue
        parts.append(f"\n## {section}\n\n{first.meaning}\n\n| key | value | default | meaning |\n|---|---|---|---|\n")
        parts += [
            f"| `{key.path}` | {_cell(key.kind)} | {_default(key.default)} | {_cell(key.meaning)} |\n" for key in below
        ]
    return "".join(parts)


def _default(text: str) -> str:
    shown = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return f"`{_cell(shown)}`" if text else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
