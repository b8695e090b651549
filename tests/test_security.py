"""Each row of SECURITY.md's table of threats refers to an existing test."""

from __future__ import annotations

import re
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PAGE = (PROJECT / "SECURITY.md").read_text()


def test_every_threat_has_a_test() -> None:
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| `(tests/[^:|]+)::(\w+)` \|$", PAGE, re.MULTILINE)
    assert len(rows) == len(PAGE.partition("| threat |")[2].partition("\n\n")[0].splitlines()) - 2 >= 20
    for threat, file, test in rows:
        assert re.search(rf"^def {test}\(", (PROJECT / file).read_text(), re.MULTILINE), threat
