"""Check prose against docs/terms.yaml, and write docs/glossary.md from it.

python -m scripts.terms            # report discouraged terms; exit with status 1 if there are any
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
"""Parts of a file that are not prose: code blocks, code spans, comments and link targets."""


def patterns(terms: dict[str, Any]) -> list[tuple[re.Pattern[str], str]]:
    """Return patterns of discouraged terms, each with its replacement."""
    rows = [(entry.get("avoid", []), entry["term"]) for entry in terms["terms"]]
    rows += [(entry["avoid"], entry["use"]) for entry in terms["style"]]
    return [(re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE), use) for words, use in rows if words]


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) for a file's prose: a whole Markdown file, or the docstrings and messages of a module."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield 1, text
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def findings(path: Path, avoided: list[tuple[re.Pattern[str], str]]) -> Iterator[str]:
    """Yield a message for each discouraged term in a file: path, line, the term and its replacement."""
    for first, text in prose(path):
        # keep line breaks, so that line numbers remain correct
        blank = CODE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
        for pattern, use in avoided:
            for match in pattern.finditer(blank):
                line = first + blank.count("\n", 0, match.start())
                yield f"{path.relative_to(ROOT)}:{line}: {match[0]!r}; write: {use}"


def glossary(terms: dict[str, Any]) -> str:
    """Return the glossary as Markdown, in alphabetical order."""
    entries = sorted((entry for entry in terms["terms"]), key=lambda entry: entry["term"].lower())
    rows = [f"**{entry['term']}**\n: {entry['meaning']}\n" for entry in entries]
    return "# Glossary\n\nGenerated from `docs/terms.yaml` by `python -m scripts.terms --write`.\n\n" + "\n".join(rows)


def files() -> list[Path]:
    """Return the tracked Markdown files, and the modules of the package, `cluster` and `ray_jobs`."""
    listed = subprocess.run(["git", "ls-files", "*.md", "syncclip/*.py", "ray_jobs/*.py", "cluster/*.py"], cwd=ROOT,
                            capture_output=True, text=True, check=True).stdout.split("\n")  # fmt: skip
    return [ROOT / name for name in listed if name and Path(name).name not in GENERATED]


def main() -> int:
    """Check the prose or write the glossary, and return the exit status."""
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
