"""The versions that the images install, infra/docker/constraints.txt: what pip resolves today. `make constraints`.

They are also for whoever wants today's versions later: `pip install -c infra/docker/constraints.txt -e .`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FILE = ROOT / "infra" / "docker" / "constraints.txt"

EXTRAS = "s3,gcs,serve"
"""Those of the images."""

BY_TORCH = ("nvidia-", "cuda-", "triton")
"""How the names begin of what PyTorch pins itself, to other versions on other machines."""

HEAD = """\
# The versions in the images, with which the tests of this commit ran. `make constraints` updates them.
"""


def lines(report: dict[str, Any]) -> list[str]:
    """name==version of every entry of pip's report, but for this package and what PyTorch pins itself."""
    found = {entry["metadata"]["name"].lower(): entry["metadata"]["version"] for entry in report["install"]}
    return [
        f"{name.replace('_', '-')}=={version.partition('+')[0]}"
        for name, version in sorted(found.items())
        if name != "syncclip" and not name.startswith(BY_TORCH)
    ]


def main() -> None:
    """Write the file anew."""
    command = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-", f"{ROOT}[{EXTRAS}]"]
    told = subprocess.check_output([sys.executable, "-m", "pip", *command], text=True)
    FILE.write_text(HEAD + "".join(f"{line}\n" for line in lines(json.loads(told))), encoding="utf-8")


if __name__ == "__main__":
    main()
