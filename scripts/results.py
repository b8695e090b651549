"""Copy the files of a finished study to where they are published, without the paths of this machine in them."""

from __future__ import annotations

import sys
from pathlib import Path

from syncclip import storage
from syncclip.studies import outputs
from syncclip.studies.status import PROGRESS

TEXTS = (".json", ".yaml", ".html")


def publish(study: Path, target: Path) -> None:
    """Copy what lies in the study's folder itself, but for its progress; texts are sealed anew. What an earlier study
    left in the target goes."""
    here = f"{Path.cwd()}/".encode()
    target.mkdir(parents=True, exist_ok=True)
    for name in (
        *outputs.ALWAYS,
        outputs.DATASETS,
        outputs.PREDICTIONS,
        outputs.SHIFT,
        outputs.FEATURES,
        outputs.TUNED,
    ):
        (target / name).unlink(missing_ok=True)
    files = [path for path in study.iterdir() if path.is_file() and path.name != PROGRESS]
    for file in sorted(path for path in files if not path.name.startswith(".")):
        place = str(target / file.name)
        if file.suffix in TEXTS:
            text, owner = storage.read_sealed(str(file)), storage.read_owner(str(file))
            storage.write_sealed(place, text.replace(here, b""), owner=owner)
        else:
            storage.copy(str(file), place)
    storage.write_contents(str(target), storage.read_owner(str(target / outputs.STATE)))


if __name__ == "__main__":
    publish(Path(sys.argv[1]), Path(sys.argv[2]))
