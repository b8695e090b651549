"""Trim .test_durations to tests that take at least 0.2 s.

CI splits the tests by this file, and `make check` skips the tests in it.
"""

from __future__ import annotations

import json
from pathlib import Path

FILE = Path(__file__).parents[1] / ".test_durations"
MIN_SECONDS, MAX_ID = 0.2, 300


def shortened(durations: dict[str, float]) -> dict[str, float]:
    """Return test ID -> seconds, sorted, without short tests, very long IDs and lane suffixes (`@...`)."""
    kept = {name.partition("@")[0]: round(seconds, 1) for name, seconds in durations.items() if seconds >= MIN_SECONDS}
    return {name: kept[name] for name in sorted(kept) if len(name) < MAX_ID}


if __name__ == "__main__":
    FILE.write_text(json.dumps(shortened(json.loads(FILE.read_text())), indent=0) + "\n")
