"""Custom WebDataset shards in one folder, or in `train`, `val` and `test` folders.

Class ids are read from `.cls` members, or from the `label` key in `.json` members. Class names are read from the
settings or from `classnames.txt` next to the tars (as in CLIP_benchmark); otherwise, labels are used as class names.
"""

from __future__ import annotations

from collections.abc import Sequence

from syncclip import storage
from syncclip.datasets.dataset import Split
from syncclip.datasets.folders import text_lines
from syncclip.datasets.labels import SPLIT_FOLDERS, ImageRecord, names_and_splits
from syncclip.shards.images import SkippedFiles
from syncclip.shards.webdataset import TarSet, index_tars, tars_in

NAMES_FILE = "classnames.txt"


def find_tars(url: str) -> dict[Split | None, list[str]]:
    """Return the tar files of each split; the key None means that the splits are unknown."""
    if tars := tars_in(url):
        return {None: tars}
    tars_of: dict[Split | None, list[str]] = {}
    for name in storage.listdir(url):
        if name in SPLIT_FOLDERS and (tars := tars_in(storage.join(url, name))):
            tars_of[SPLIT_FOLDERS[name]] = tars
    return tars_of


def load_webdataset(
    url: str,
    tars: dict[Split | None, list[str]],
    classnames: Sequence[str] | None,
    split_seed: int,
    skipped: SkippedFiles | None = None,
) -> tuple[list[str], dict[Split, TarSet]]:
    """Read class names and images by scanning tar headers, which is slower than opening a packed dataset.

    Args:
        tars: result of `find_tars`.
        classnames: class names by id.
        split_seed: seed for a random split, or for sampling a missing validation split.
        skipped: record of skipped members, updated in place.
    """
    split_of = {tar: split for split, group in tars.items() for tar in group}
    urls = list(split_of)
    members = index_tars(urls, skipped)
    if classnames is None and storage.exists(names_file := storage.join(url, NAMES_FILE)):
        classnames = [line for _, line in text_lines(storage.read_bytes(names_file), names_file)]
    records = [
        ImageRecord(member.label, f"{urls[member.tar]}:{member.key}", split=split_of[urls[member.tar]])
        for member in members
    ]
    names, splits = names_and_splits(range(len(members)), records, url, classnames, split_seed)
    return names, {
        split: TarSet(urls, [members[row] for row, _ in items], [label for _, label in items])
        for split, items in splits.items()
    }
