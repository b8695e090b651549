"""Users' own WebDataset shards: tars in one folder, or in folders `train`, `val` and `test`.

Class ids are in the samples' `.cls` members, or in `label` of their `.json`. Class names are given, or listed one a
line in `classnames.txt` beside the tars as in CLIP_benchmark's datasets, or are the labels themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from syncclip import storage
from syncclip.datasets.dataset import Split
from syncclip.datasets.files import text_lines
from syncclip.datasets.labels import SPLIT_FOLDERS, ImageRecord, names_and_splits
from syncclip.shards.webdataset import TarSet, index_tars, tars_in

NAMES_FILE = "classnames.txt"


def find_tars(url: str) -> dict[Split | None, list[str]]:
    """The tars of each split, or of all (None); {} where there are none."""
    if whole := tars_in(url):
        return {None: whole}
    found: dict[Split | None, list[str]] = {}
    for name in storage.listdir(url):
        if name in SPLIT_FOLDERS and (tars := tars_in(storage.join(url, name))):
            found[SPLIT_FOLDERS[name]] = tars
    return found


def load_webdataset(
    url: str,
    tars: dict[Split | None, list[str]],
    classnames: Sequence[str] | None,
    split_seed: int,
    skipped: Counter[str] | None = None,
) -> tuple[list[str], dict[Split, TarSet]]:
    """Class names and images of the tars of a folder or prefix, whose headers are scanned each time.

    Once packed by `shards pack`, they open faster.

    Args:
        tars: as `find_tars` found them.
        classnames: names by id.
        split_seed: of the random split where the tars have none, and of a missing validation split.
        skipped: counts the members of tars that are not read, by extension.

    Raises:
        UserError: a damaged tar, a sample without image or class, an id out of range, a class with too few images.
    """
    split_of = {tar: split for split, of_split in tars.items() for tar in of_split}
    urls = list(split_of)
    members = index_tars(urls, skipped)
    if classnames is None and storage.exists(listed := storage.join(url, NAMES_FILE)):
        classnames = [line for _, line in text_lines(storage.read_bytes(listed), listed)]
    records = [
        ImageRecord(member.label, f"{urls[member.tar]}:{member.key}", split=split_of[urls[member.tar]])
        for member in members
    ]
    names, splits = names_and_splits(range(len(members)), records, url, classnames, split_seed)
    return names, {
        split: TarSet(urls, [members[row] for row, _ in of_split], [label for _, label in of_split])
        for split, of_split in splits.items()
    }
