"""Update infra/docker/constraints.txt, the pinned versions of the container images: `make constraints`.

The file can also be used to install the package: `pip install -c infra/docker/constraints.txt -e .`.
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
"""Extras installed in the images."""

BY_TORCH = ("nvidia-", "cuda-", "triton")
"""Name prefixes of packages that PyTorch pins itself, depending on the platform."""

HEAD = """\
# Versions in the images, with which the tests of this commit passed. `make constraints` updates them.
"""


def lines(report: dict[str, Any]) -> list[str]:
    """Return name==version for each package in pip's report, except this package and those that PyTorch pins."""
    versions = {entry["metadata"]["name"].lower(): entry["metadata"]["version"] for entry in report["install"]}
    return [
        f"{name.replace('_', '-')}=={version.partition('+')[0]}"
        for name, version in sorted(versions.items())
        if name != "syncclip" and not name.startswith(BY_TORCH)
    ]


def main() -> None:
    """Write the constraints file."""
    command = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-", f"{ROOT}[{EXTRAS}]"]
    report = subprocess.check_output([sys.executable, "-m", "pip", *command], text=True)
    FILE.write_text(HEAD + "".join(f"{line}\n" for line in lines(json.loads(report))), encoding="utf-8")


if __name__ == "__main__":
    main()
