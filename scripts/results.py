"""Publish the files of a finished study, with paths made relative to the working directory."""

from __future__ import annotations

import sys
from pathlib import Path

from syncclip import storage
from syncclip.studies import outputs
from syncclip.studies.status import PROGRESS

TEXTS = (".json", ".yaml", ".html")


def publish(study: Path, target: Path) -> None:
    """Replace the previously published study with this study's own files, except its progress."""
    working_folder = f"{Path.cwd()}/".encode()
    target.mkdir(parents=True, exist_ok=True)
    optional = (outputs.DATASETS, outputs.PREDICTIONS, outputs.SHIFT, outputs.FEATURES, outputs.TUNED)
    for name in (*outputs.ALWAYS, *optional):
        (target / name).unlink(missing_ok=True)
    files = [file for file in study.iterdir() if file.is_file() and file.name != PROGRESS]
    for file in sorted(file for file in files if not file.name.startswith(".")):
        path = str(target / file.name)
        if file.suffix in TEXTS:
            text, owner = storage.read_verified(str(file)), storage.read_owner(str(file))
            storage.write_with_checksum(path, text.replace(working_folder, b""), owner=owner)
        else:
            storage.copy(str(file), path)
    storage.write_contents(str(target), storage.read_owner(str(target / outputs.STATE)))


if __name__ == "__main__":
    publish(Path(sys.argv[1]), Path(sys.argv[2]))
