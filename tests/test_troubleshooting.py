"""The messages that the troubleshooting page quotes are those of the package, word by word."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEADINGS = re.findall(r"^### `(.*)`$", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_every_heading_is_a_piece_of_a_message() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "syncclip").rglob("*.py"))
    messages = re.sub(r'"\n\s*f?"', "", code)  # literals that Python joins

    assert len(HEADINGS) > 10
    assert [heading for heading in HEADINGS if heading not in messages] == []
