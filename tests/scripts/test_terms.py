"""Discouraged words are reported in prose only, and the committed glossary is up to date."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from scripts import terms

TABLE = yaml.safe_load(terms.TERMS.read_text(encoding="utf-8"))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(terms, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("a.md", "Fine.\n\nEach arm is trained.\n", ["a.md:3: 'arm'; write: configuration"]),
        ("b.md", "`arm` and\n```\nan oracle\n```\n[a link](docs/arms.md)\n", []),
        ("c.py", '"""Train the oracle."""\narms = 1\n', ["c.py:1: 'oracle'; write: upper bound"]),
        ("d.py", 'raise ValueError("a sealed file")\n', ["d.py:1: 'sealed'; write: checksum"]),
        ("e.py", "# an arm\nprint('farm armed')\n", []),
    ],
)
def test_discouraged_words_are_reported_with_their_line(root: Path, name: str, text: str, lines: list[str]) -> None:
    (root / name).write_text(text)
    assert list(terms.findings(root / name, terms.patterns(TABLE))) == lines


def test_the_committed_glossary_is_up_to_date() -> None:
    assert terms.GLOSSARY.read_text(encoding="utf-8") == terms.glossary(TABLE)
