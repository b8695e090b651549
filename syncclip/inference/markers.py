"""Markers of a shard's predictions: what they hold, and the comparison of tars and predictions with them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Literal

from pydantic import ValidationError

from syncclip import storage
from syncclip.core.settings import Settings


class ShardMarker(Settings):
    """Marker of a shard's predictions: what was asked, the tar that was read, and the file that was written."""

    format: Literal[1] = 1
    asked: str
    """Digest of the run, its classes and the settings of the pass."""
    tar: str
    """Name of the tar."""
    tar_sha256: str
    bytes: int
    """Size of the file of predictions, whose checksum is `sha256`."""
    sha256: str
    images: int
    unread: int
    """Of these, those that could not be read."""


def parse_marker(data: bytes, place: str, tar: str) -> ShardMarker:
    """The marker in the file `place` of the predictions for `tar`.

    Raises:
        DamagedError: it is no marker, or that of another tar.
    """
    try:
        marker = ShardMarker.model_validate_json(data)
    except ValidationError as error:
        raise storage.DamagedError(f"{place} is no marker of predictions, or was cut off") from error
    if marker.tar != tar:
        raise storage.DamagedError(f"{place} is the marker of {marker.tar}, not of {tar}: files were exchanged")
    return marker


def differences(marker: ShardMarker, file: str, tar: str | None, committed: str | None = None) -> Iterator[str]:
    """Whether a shard's file of predictions and its tar have other content than the marker records, a sentence each.

    Args:
        file, tar: paths or URLs; None: the tar is not at hand.
        committed: sha256 of the tar in its commit marker, which makes reading it needless.
    """
    if tar is not None and (committed or _sha256(tar, marker.tar_sha256)) != marker.tar_sha256:
        yield f"{tar} is not the tar that {file} was computed from"
    if _sha256(file, marker.sha256) != marker.sha256:
        yield f"{file} is not as it was written: it was damaged or exchanged"


def _sha256(place: str, wanted: str) -> str:
    with storage.open_read(place, wanted) as content:
        return storage.file_sha256(content)


def problems_of_files(
    url: str, names: Collection[str], endings: tuple[str, str], tars: Mapping[str, str | None]
) -> Iterator[str]:
    """What is wrong with the predictions in a folder, a sentence each; each of their files and each tar is read.

    Args:
        names: of the files in the folder.
        endings: of a file of predictions and of its marker, in place of `.tar`.
        tars: those in the folder, as `ShardJob.tars`.
    """
    stems = {name.removesuffix(ending) for name in names for ending in endings if name.endswith(ending)}
    beside = any(f"{stem}.tar" in tars for stem in stems)
    first: tuple[str, str] | None = None
    for stem in sorted(stems | ({name.removesuffix(".tar") for name in tars} if beside else set())):
        file, place = (storage.join(url, stem + ending) for ending in endings)
        tar = storage.join(url, f"{stem}.tar") if f"{stem}.tar" in tars else None
        if missing := [one for one in (file, place) if one.rpartition("/")[2] not in names]:
            yield f"{missing[0]} is missing; the same command computes the predictions for {stem}.tar again"
            continue
        if beside and tar is None:
            yield f"{storage.join(url, stem)}.tar is missing, though its predictions are there"
        try:
            marker = parse_marker(storage.read_bytes(place), place, f"{stem}.tar")
        except storage.DamagedError as error:
            yield str(error)
            continue
        first = first or (place, marker.asked)
        if marker.asked != first[1]:
            yield f"{place} is of another run, other classes or settings than {first[0]}: files were exchanged"
        yield from differences(marker, file, tar, tars.get(f"{stem}.tar"))
