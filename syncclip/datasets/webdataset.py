"""A user's own WebDataset shards as a dataset: tars in one folder, or in folders `train`, `val` and `test`.

Class ids are in the samples' `.cls` members (or `label` of their `.json`); names are given, stand one a line in
`classnames.txt` beside the tars, as in the sets of CLIP_dataset, or are the labels themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import spoken
from syncclip.datasets.dataset import TEMPLATE, Dataset, Split
from syncclip.datasets.files import SPLIT_FOLDERS, Given, draw_splits, hold_out, settle_classes, text_lines
from syncclip.shards.webdataset import Member, TarSet, index_tars, tars_in

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
    name: str,
    classnames: Sequence[str] | None = None,
    split_seed: int = 0,
) -> Dataset:
    """Read the tars of a folder or prefix. Their headers are scanned here, each time; `shards pack` makes it faster.

    Args:
        tars: as `find_tars` found them.
        name: what to call the dataset.
        classnames: names by id.
        split_seed: decides the split of a flat folder, and a missing validation split.

    Raises:
        UserError: a damaged tar, a sample without image or class, an id out of range, a class with too few images.
    """
    urls = [one for of_split in tars.values() for one in of_split]
    members = index_tars(urls)
    if classnames is None and storage.exists(listed := storage.join(url, NAMES_FILE)):
        classnames = [line for _, line in text_lines(storage.read_bytes(listed), listed)]
    places = [Given(member.label, f"{urls[member.tar]}:{member.key}") for member in members]
    names, labels = settle_classes(places, url, classnames)
    rows = _splits(url, tars, urls, members, labels, names, split_seed)
    return Dataset(
        name=name,
        classnames=[spoken(one) for one in names],
        template=TEMPLATE,
        splits={
            split: TarSet(urls, [members[row] for row, _ in of_split], [label for _, label in of_split])
            for split, of_split in rows.items()
        },
    )


def _splits(
    url: str,
    tars: dict[Split | None, list[str]],
    urls: list[str],
    members: list[Member],
    labels: list[int],
    names: list[str],
    seed: int,
) -> dict[Split, list[tuple[int, int]]]:
    """Split -> (number of the member, class id)."""
    if None in tars:
        by_class: dict[int, list[int]] = {}
        for row, label in enumerate(labels):
            by_class.setdefault(label, []).append(row)
        return draw_splits(url, names, by_class, seed)
    split_of = {one: split for split, of_split in tars.items() for one in of_split}
    splits: dict[Split, list[tuple[int, int]]] = {}
    for row, (member, label) in enumerate(zip(members, labels, strict=True)):
        split = split_of[urls[member.tar]]
        assert split is not None
        splits.setdefault(split, []).append((row, label))
    for needed in ("train", "test"):
        if needed not in splits:
            raise UserError(f"{url}: no shards of split {needed!r}; add some, or put all tars into one folder.")
    if "val" not in splits:
        splits["train"], splits["val"] = hold_out(splits["train"], seed)
    return splits
