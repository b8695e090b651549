"""Check prose against docs/terms.yaml, and write docs/glossary.md from it.

python -m scripts.terms            # report discouraged words; exit status 1 if there are any
python -m scripts.terms --write    # write docs/glossary.md
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
TERMS, GLOSSARY = ROOT / "docs" / "terms.yaml", ROOT / "docs" / "glossary.md"
GENERATED = ("tables.md", "glossary.md")
CODE = re.compile(r"```.*?```|`[^`\n]*`|<!--.*?-->|\]\([^)]*\)", re.DOTALL)
"""Parts of a text that are not prose: code blocks, code spans, comments and link targets."""


def patterns(terms: dict[str, Any]) -> list[tuple[re.Pattern[str], str]]:
    """Discouraged expressions, each with what to write instead."""
    rows = [(entry.get("avoid", []), entry["term"]) for entry in terms["terms"]]
    rows += [(entry["avoid"], entry["use"]) for entry in terms["style"]]
    return [(re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE), use) for words, use in rows if words]


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of a file's prose: a Markdown file as a whole, or the docstrings and messages of a module."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield 1, text
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def findings(path: Path, avoided: list[tuple[re.Pattern[str], str]]) -> Iterator[str]:
    """One line for each discouraged expression in a file: path, line, the expression and its replacement."""
    for first, text in prose(path):
        # line breaks stay, so that line numbers stay
        blank = CODE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
        for pattern, use in avoided:
            for match in pattern.finditer(blank):
                line = first + blank.count("\n", 0, match.start())
                yield f"{path.relative_to(ROOT)}:{line}: {match[0]!r}; write: {use}"


def glossary(terms: dict[str, Any]) -> str:
    """The glossary as Markdown, in alphabetical order."""
    entries = sorted((entry for entry in terms["terms"]), key=lambda entry: entry["term"].lower())
    rows = [f"**{entry['term']}**\n: {entry['meaning']}\n" for entry in entries]
    return "# Glossary\n\nGenerated from `docs/terms.yaml` by `python -m scripts.terms --write`.\n\n" + "\n".join(rows)


def files() -> list[Path]:
    """Tracked Markdown files and modules of the package, the cluster and the jobs."""
    listed = subprocess.run(["git", "ls-files", "*.md", "syncclip/*.py", "ray_jobs/*.py", "cluster/*.py"], cwd=ROOT,
                            capture_output=True, text=True, check=True).stdout.split("\n")  # fmt: skip
    return [ROOT / name for name in listed if name and Path(name).name not in GENERATED]


def main() -> int:
    """Check, or write the glossary; returns the exit status."""
    terms = yaml.safe_load(TERMS.read_text(encoding="utf-8"))
    if sys.argv[1:] == ["--write"]:
        GLOSSARY.write_text(glossary(terms), encoding="utf-8")
        return 0
    avoided = patterns(terms)
    lines = [line for path in files() for line in findings(path, avoided)]
    print("\n".join(lines) or "docs/terms.yaml: no discouraged words", file=sys.stderr if lines else sys.stdout)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
