"""The page of all recipe keys, docs/recipe.md, from the settings classes."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from syncclip.recipe import reference

LONGEST = 60
"""Characters of a default; `syncclip recipe show` has the whole one."""

PAGE = Path(__file__).parents[1] / "docs" / "recipe.md"

INTRODUCTION = """\
# Recipes: every key

A recipe is a YAML file, or one that comes with the package; what it leaves out has the defaults below. A key on the
command line counts more than the file: `syncclip train travel training.epochs=3`.

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
tables, `synthesis.filters[blank]` are the keys of an entry of that name, `study.arms[]` those of each entry of a list.

This page is made by `python -m scripts.reference` from the settings classes, and a test holds it against them.
"""


def page() -> str:
    """The whole page."""
    keys = [key for key in reference.keys().values() if ".backbone." not in key.path]  # it has a section of its own
    parts = [INTRODUCTION]
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
    PAGE.write_text(page(), encoding="utf-8")
