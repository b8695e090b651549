"""Copy the files of a finished study to where they are published, without the paths of this machine in them."""

from __future__ import annotations

import sys
from pathlib import Path

from syncclip import storage

TEXTS = (".json", ".yaml", ".html")


def publish(study: Path, target: Path) -> None:
    """Copy what lies in the study's folder itself; texts are sealed anew."""
    here = f"{Path.cwd()}/".encode()
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(path for path in study.iterdir() if path.is_file() and not path.name.startswith(".")):
        place = str(target / file.name)
        if file.suffix in TEXTS:
            storage.write_sealed(place, storage.read_bytes(str(file)).replace(here, b""))
        else:
            storage.copy(str(file), place)


if __name__ == "__main__":
    publish(Path(sys.argv[1]), Path(sys.argv[2]))
