"""Messages quoted by the troubleshooting page are identical to those of the package."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEADINGS = re.findall(r"^### `(.*)`$", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_every_heading_is_part_of_a_message() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "syncclip").rglob("*.py"))
    messages = re.sub(r'"\n\s*f?"', "", code)  # concatenated literals
    assert len(HEADINGS) > 10
    assert [heading for heading in HEADINGS if heading not in messages] == []
