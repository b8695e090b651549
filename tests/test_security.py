"""Each line of SECURITY.md's table of threats names a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
LINES = re.findall(
    r"^\| ([^|]+) \| ([^|]+) \| `(tests/[^:|]+)::(\w+)` \|$", (PROJECT / "SECURITY.md").read_text(), re.M
)


def test_every_threat_has_its_test() -> None:
    table = (PROJECT / "SECURITY.md").read_text().partition("| threat |")[2].partition("\n\n")[0]
    assert len(LINES) == len(table.splitlines()) - 2 >= 20


@pytest.mark.parametrize(("threat", "guard", "file", "test"), LINES, ids=[line[0] for line in LINES])
def test_the_named_test_exists(threat: str, guard: str, file: str, test: str) -> None:
    assert re.search(rf"^def {test}\(", (PROJECT / file).read_text(), re.M), f"{threat}: {guard}"
